"""Which optimizer moves which parameter, and how fast: Muon for hidden matrices, AdamW for the rest; and the
average of the weights on their way.

Imports torch alone; knows nothing of models and data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_optimizers(
    module: nn.Module, optimizer: str, lr: float | Tensor, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices and AdamW for the rest, or AdamW alone; only matrices decay."""
    if optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer must be 'muon' or 'adamw', got {optimizer!r}.")
    hidden = getattr(module, "hidden_matrices", list)() if optimizer == "muon" else []
    hidden = [p for p in hidden if p.requires_grad]
    chosen = {id(p) for p in hidden}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_gpu = isinstance(lr, Tensor)
    groups = [g for g in groups if g["params"]]
    how = {"lr": lr, "betas": (0.9, 0.95), "fused": on_gpu or None, "capturable": on_gpu}
    out: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, **how)] if groups else []
    if hidden:
        out.append(Muon(hidden, lr=lr, weight_decay=weight_decay))
    return out


def lr_share(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: linear to 1 over ``warmup * steps`` steps, then half a cosine to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float | Tensor, now: float) -> None:
    """On a GPU the rate lies in one tensor, where a recorded step reads it."""
    if isinstance(rate, Tensor):
        rate.fill_(now)
    for opt in optimizers:
        for group in opt.param_groups:  # always anew: a checkpoint brings its own
            group["lr"] = rate if isinstance(rate, Tensor) else now


def average_of(module: nn.Module, ema: float | None):
    """A copy of ``module`` to hold the moving average of its weights; None without ``ema``."""
    if ema is None:
        return None
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(ema)
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=average)


@torch.no_grad()
def follow(average, module: nn.Module, ema: float) -> None:
    """``average.update_parameters``, which waits for the device, without the wait."""
    if average.n_averaged == 0:
        average.update_parameters(module)
        return
    torch._foreach_lerp_(list(average.module.parameters()), list(module.parameters()), 1 - ema)
    by_type: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for mean, now in zip(average.module.buffers(), module.buffers(), strict=True):
        by_type.setdefault(now.dtype, []).append((mean, now))
    for pairs in by_type.values():  # one kernel each
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
    average.n_averaged += 1


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic step; Jordan et al. 2024


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, as an update of matrices (Jordan et al. 2024, "Muon").

    A transformer's blocks hold many matrices of few shapes. One by one, the dozen small products of each cost
    more to launch than to compute; stacked, they are a dozen large ones, of small models a dozen in all.

    Each update is scaled by 0.2 sqrt(max(rows, columns)) to the size of AdamW's (Liu et al. 2025,
    arXiv:2502.16982, eq. 4), so rates and weight decays of AdamW carry over. Equal to torch.optim.Muon with
    ``adjust_lr_fn="match_rms_adamw"`` up to the rounding of its bfloat16 products.

    Args:
        params: matrices (2-D parameters).
        lr: the rate; a tensor of one number on the parameters' device can be changed between replays of a
            recorded step.

    Raises ValueError where a parameter is no matrix.
    """

    def __init__(
        self, params, lr: float | Tensor = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
        num_iterations: int = 5,
    ):  # fmt: skip
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "num_iterations": num_iterations},
        )
        if not (float(lr) >= 0 and weight_decay >= 0 and 0 <= momentum < 1):
            given = f"{float(lr)}, {weight_decay} and {momentum}"
            raise ValueError(f"lr and weight_decay start at 0 and momentum lies in 0..1, got {given}.")
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon is for matrices, got a parameter of shape {tuple(p.shape)}.")

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads = [p.grad for p in params]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov's look ahead
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        stacks: dict[tuple, list[int]] = {}
        for i, p in enumerate(params):
            stacks.setdefault((p.shape, p.dtype, p.device), []).append(i)
        alike = [torch.stack([updates[i] for i in members]).bfloat16() for members in stacks.values()]
        del updates
        found = orthogonal_stacks(alike, group["num_iterations"], SMALL if params[0].is_cuda else 0)
        for ((rows, columns), dtype, _), members, update in zip(stacks, stacks.values(), found, strict=True):
            rate = group["lr"] * (0.2 * math.sqrt(max(rows, columns)))
            update = update.contiguous().to(dtype) * -rate  # else foreach goes through them one by one
            torch._foreach_add_([params[i] for i in members], update.unbind())


SMALL = 2**18  # entries of a matrix up to which a launch on a GPU takes longer than its products


def orthogonal_stacks(stacks: list[Tensor], num_iterations: int = 5, small: int = 0) -> list[Tensor]:
    """``orthogonal`` of each of these (S, M, N); those of up to ``small`` entries a matrix all at once.

    They are turned so that the shorter side lies alike and filled up with columns of zeros, which the
    iterations leave zeros.
    """
    together: dict[tuple, list[int]] = {}
    for i, x_SMN in enumerate(stacks):
        M, N = x_SMN.shape[1:]
        key = (min(M, N), x_SMN.device, x_SMN.dtype) if M * N <= small else (i,)
        together.setdefault(key, []).append(i)
    out = list(stacks)
    for members in together.values():
        if len(members) == 1:
            out[members[0]] = orthogonal(stacks[members[0]], num_iterations)
            continue
        wide = [x.mT if x.shape[1] > x.shape[2] else x for x in (stacks[i] for i in members)]
        most = max(x.shape[2] for x in wide)
        filled = torch.cat([F.pad(x, (0, most - x.shape[2])) for x in wide])
        parts = orthogonal(filled, num_iterations).split([len(x) for x in wide])
        for i, x, part in zip(members, wide, parts, strict=True):
            part = part[:, :, : x.shape[2]]
            out[i] = part.mT if stacks[i].shape[1] > stacks[i].shape[2] else part
    return out


def orthogonal(x_SMN: Tensor, num_iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """Matrices (S, M, N) -> about U V' of each one's U S V', by iterations of a quintic (Newton-Schulz).

    Singular values end between 0.7 and 1.2 (Jordan et al. 2024): enough, and cheap in half precision.
    """
    a, b, c = COEFFICIENTS
    tall = x_SMN.shape[1] > x_SMN.shape[2]
    x = x_SMN.mT if tall else x_SMN
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(eps)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
