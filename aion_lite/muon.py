"""Muon for many matrices at once: the update of torch.optim.Muon, computed in stacks of one shape.

A transformer's blocks hold many matrices of few shapes. Taken one by one, the dozen small products of each
cost more to launch than to compute; stacked, they are a dozen large ones. Imports torch alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic step; Jordan et al. 2024


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, as an update of matrices (Jordan et al. 2024, "Muon").

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
            stacks: dict[tuple, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    stacks.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for params in stacks.values():
                self._step_stack(params, group)
        return loss

    def _step_stack(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads = [p.grad for p in params]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        update = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov's look ahead
        update = orthogonal(torch.stack(update).bfloat16(), group["num_iterations"])
        rate = group["lr"] * (0.2 * math.sqrt(max(params[0].shape)))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, (update.to(params[0].dtype) * -rate).unbind())


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
