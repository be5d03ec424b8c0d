"""One training loop for codecs and transformers: ``train(module, data, steps=...)``.

The module needs ``loss(...) -> (scalar, metrics)``; one that has ``check(data)`` is asked once, at the start.
Under it: accelerate (device, bf16, several processes), Muon for hidden matrices where the module names them
and AdamW for the rest (``optimizers.py``), linear warm-up then cosine; on a GPU the step is recorded and
replayed (``recorded.py``). Which samples make up step s follows from (seed, s) alone, and a checkpoint holds
the weights, the optimisers and the random state, so a run that was killed and resumed equals one that was
not.

Knows nothing of modalities or strategies.
"""

from __future__ import annotations

import copy
import math
import operator
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from aion_lite import checkpoint as checkpoints
from aion_lite.data.token_store import TokenStore, batches, pieces
from aion_lite.data.tokens import TokenDataset
from aion_lite.optimizers import average_of, follow, lr_share, make_optimizers, set_rate
from aion_lite.passes import batch_rows
from aion_lite.recorded import RecordedStep

Samples = TokenDataset | TokenStore | TensorDataset | Tensor


@dataclass
class History:
    """What a run did: ``records`` of step, loss, metrics, validation loss; ``best_step`` is the one kept.

    ``clock``: seconds since the start, by step, where there is a record.
    """

    records: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_validation: float = math.inf
    seconds: float = 0.0
    clock: dict[int, float] = field(default_factory=dict)

    def to_frame(self):
        import pandas as pd

        return pd.DataFrame(self.records).set_index("step")


def train(
    module: nn.Module,
    data: Samples,
    *,
    steps: int | None = None,
    num_epochs: float | None = None,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    optimizer: str = "muon",
    clip: float = 1.0,
    ema: float | None = None,
    seed: int = 0,
    validation: Samples | None = None,
    validate_every: int = 100,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str | None = None,
    mixed_precision: str = "no",
    record: bool | None = None,
    compile: bool = False,
    log_every: int = 50,
    progress: bool = True,
    on_step: Callable[[int, nn.Module], None] | None = None,
    rows: Callable[[int], Tensor] | None = None,
) -> History:
    """Train ``module`` in place on ``data`` and leave it in eval mode.

    Args:
        data: samples, as a TokenDataset, a TokenStore (which stays on disk), a tensor (B, ...) or a
            TensorDataset of several (values, present, weights); ``module.loss`` gets a batch of them.
        steps, num_epochs: how long; give one of the two.
        lr: peak rate of both optimisers (Muon's update is scaled to AdamW's size).
        warmup: share of the steps.
        optimizer: "muon" (for ``module.hidden_matrices()``, AdamW for the rest) or "adamw" throughout.
        ema: decay of an average of the weights that is validated and kept in their place, e.g. 0.99.
        validation: samples to watch every ``validate_every`` steps; the best weights are kept, and training
            stops after ``patience`` looks without a better one.
        checkpoint: folder to save to every ``checkpoint_every`` steps, at the end and on Ctrl-C (which
            waits for the end of a step); resumed from if it holds a checkpoint of the same run.
        record: on a GPU, record the step and replay it (several times faster for small models): never with
            "fp16" or several processes; by default not with ``on_step``. True where that only looks.
        compile: run the parts that the module names (its context ``compiled()``) through torch.compile: half
            a minute at the first step, then faster on a GPU. Dropout, and masks of narrow models, draw other
            numbers.
        on_step: called as on_step(step, module) before each step, to change what the module does over time.
        rows: rows(step) -> the ``batch_size`` rows of the data that make up a step (int64); by default pass
            after pass. In a checkpoint it goes by its repr, which must be alike where the rows are.

    Raises ValueError on empty data or settings, FloatingPointError when the loss is no longer finite, and
    MemoryError, naming the knobs, when a batch does not fit.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    for samples in (data, validation):
        if samples is data is None or not isinstance(
            samples, (TokenDataset, TokenStore, TensorDataset, Tensor, type(None))
        ):
            kind = type(samples).__name__
            raise TypeError(f"Training needs tokens or a tensor, got {kind}: give codecs.encode(data set).")
    steps = num_steps(len(data), batch_size, steps, num_epochs)
    counts = {"validate_every": validate_every, "checkpoint_every": checkpoint_every, "log_every": log_every}
    _check_settings(lr, weight_decay, clip, warmup, ema, {**counts, "patience": patience})
    if not hasattr(module, "loss"):
        raise TypeError(f"Training needs a module with a method loss, got {type(module).__name__}.")
    if compile and not hasattr(module, "compiled"):
        raise TypeError(
            f"compile=True is for modules with a context compiled(); {type(module).__name__} has none."
        )
    # Numbers of numpy are refused by torch: as a seed, and as code in a checkpoint.
    lr, weight_decay, seed = float(lr), float(weight_decay), operator.index(seed)
    # Each run may choose its own device and precision, unless processes have been joined into a group.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    if device is not None and torch.device(device).type != accelerator.device.type:
        raise ValueError(f"There is no device {device!r} here, but {accelerator.device.type!r}.")
    module.to(accelerator.device).train()
    data, validation = (_to(x, accelerator.device) for x in (data, validation))
    for samples in (data, validation):
        if samples is not None and hasattr(module, "check"):
            for piece in pieces(samples):  # here: to look at values in the loop would wait for the device
                module.check(piece)
    measured = list(data.present.values()) if isinstance(data, TokenDataset) else []
    if measured and not any(bool(p.any()) for p in measured):
        raise ValueError(f"Nothing was measured in any of the {len(data)} samples.")
    complete = bool(measured) and all(bool(p.all()) for p in measured)
    on_gpu = accelerator.device.type == "cuda"
    rate = torch.tensor(lr, device=accelerator.device) if on_gpu else lr  # one number for all groups
    optimizers = [accelerator.prepare(o) for o in make_optimizers(module, optimizer, rate, weight_decay)]
    wrapped = accelerator.prepare(_Loss(module, complete))
    average = average_of(module, ema)

    def update(inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """One step on these rows of the data, or on this batch read from disk: (loss, metrics)."""
        with module.compiled() if compile else nullcontext():
            loss, metrics = wrapped(data[inputs] if isinstance(inputs, Tensor) else inputs)
            accelerator.backward(loss)
        accelerator.clip_grad_norm_(module.parameters(), clip)
        for opt in optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        if average is not None:
            follow(average, module, ema)
        return loss.detach(), metrics

    record = on_step is None if record is None else record
    if on_gpu and record and mixed_precision != "fp16" and accelerator.num_processes == 1:
        update = RecordedStep(update)
    run = checkpoints.Run(
        checkpoint, module, [o.optimizer for o in optimizers], average,
        settings={
            "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "samples": len(data),
            "optimizer": optimizer, "weight_decay": weight_decay, "warmup": warmup, "clip": clip, "ema": ema,
            "mixed_precision": mixed_precision, "validate_every": validate_every, "patience": patience,
            "data": _checksum(data) if checkpoint is not None else None,
            "validation": _checksum(validation) if None not in (checkpoint, validation) else None,
            **({} if rows is None else {"rows": repr(rows)}),
            **{f"model's {name}": repr(value) for name, value in getattr(module, "config", {}).items()},
        },
    )  # fmt: skip
    history, start, best = History(), 0, None
    with _own_state(seed), checkpoints.whole_steps(checkpoint) as interrupted:
        if run.exists():
            start, history, best = run.load(history)
        started = time.perf_counter() - history.seconds

        def save(step: int) -> None:
            history.seconds = time.perf_counter() - started
            if accelerator.is_main_process:
                run.save(step, history, best)

        quiet = not progress or not accelerator.is_main_process
        bar = tqdm(range(start, steps), initial=start, total=steps, disable=quiet)
        done = start
        rank, num_ranks = accelerator.process_index, accelerator.num_processes
        rows = rows or (lambda step: batch_rows(len(data), batch_size, seed, step))
        drawn = (rows(step)[rank::num_ranks] for step in range(start, steps))
        if isinstance(data, TokenStore):  # read while the step before runs
            inputs = map(_arguments, batches(data, drawn, accelerator.device))
        else:  # all lies on the device, where a recorded step takes the rows from
            inputs = (r.pin_memory().to(rate.device, non_blocking=True) if on_gpu else r for r in drawn)
        for step in bar:
            # Asked here and not after the look, so that a resumed run stops where an uninterrupted one does.
            if patience is not None and validation is not None:
                if step - history.best_step >= max(patience, 1) * validate_every:
                    break
            if on_step is not None:
                try:
                    on_step(step, module)
                except KeyboardInterrupt:
                    save(step)
                    raise
            set_rate(optimizers, rate, lr * lr_share(step, steps, warmup))
            try:
                loss, metrics = update(next(inputs))
            except RuntimeError as error:  # a CPU's comes without a class of its own
                if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                    raise
                raise MemoryError(
                    f"A batch of {batch_size} does not fit on {accelerator.device}: lower batch_size, the "
                    f"model's num_inputs or num_targets, or set mixed_precision='bf16'."
                ) from None
            done, last = step + 1, step + 1 == steps
            if done % log_every == 0 or last:
                _record(history, done, {"loss": loss, **metrics})
                history.clock[done] = time.perf_counter() - started
                bar.set_postfix(loss=f"{history.records[-1]['loss']:.3f}")
            if validation is not None and (done % validate_every == 0 or last):
                watched = module if average is None else average.module
                value = evaluate_loss(watched, validation, batch_size, seed)
                _record(history, done, {"validation": value})
                if value < history.best_validation:
                    history.best_validation, history.best_step, best = value, done, _copy_state(watched)
            if done % checkpoint_every == 0 or last or interrupted:
                save(done)
            if interrupted:
                raise KeyboardInterrupt
    if best is None:
        history.best_step = done
        best = _copy_state(average.module) if average is not None else None
    if best is not None:
        module.load_state_dict(best)
    module.eval()
    history.seconds = time.perf_counter() - started
    return history


@torch.no_grad()
def evaluate_loss(module: nn.Module, data: Samples, batch_size: int = 256, seed: int = 0) -> float:
    """Mean of ``module.loss`` over ``data`` in eval mode; the same seed draws the same masks."""
    if len(data) == 0:
        raise ValueError("There is no sample to score.")
    was_training = module.training
    module.eval()
    with _own_state(seed):
        starts = range(0, len(data), batch_size)
        sizes = [min(batch_size, len(data) - i) for i in starts]
        fetched = map(_arguments, batches(data, (slice(i, i + batch_size) for i in starts)))
        losses = [module.loss(*batch)[0] * size for batch, size in zip(fetched, sizes, strict=True)]
    module.train(was_training)
    return float(sum(losses)) / len(data)


class _Loss(nn.Module):
    """``module.loss`` as a forward, for accelerate's wrappers; where ``complete``, no token is missing."""

    def __init__(self, module: nn.Module, complete: bool = False):
        super().__init__()
        self.module, self.complete = module, complete

    def forward(self, batch: Any):
        return self.module.loss(batch.tokens) if self.complete else self.module.loss(*_arguments(batch))


def _arguments(batch: Any) -> Sequence[Any]:
    if isinstance(batch, TokenDataset):
        return (batch.tokens, batch.present)
    return batch if isinstance(batch, tuple) else (batch,)  # of a TensorDataset come tuples


def _to(data: Samples | None, device: torch.device) -> Samples | None:
    if isinstance(data, TensorDataset):
        return TensorDataset(*(tensor.to(device) for tensor in data.tensors))
    return data if data is None else data.to(device)


def _checksum(data: Samples) -> int:
    if isinstance(data, TokenStore):
        return data.checksum
    if isinstance(data, TokenDataset):
        return checkpoints.checksum([*data.tokens.values(), *data.present.values()])
    return checkpoints.checksum(data.tensors if isinstance(data, TensorDataset) else [data])


def _check_settings(lr, weight_decay, clip, warmup, ema, counts: dict[str, int | None]) -> None:
    if not (lr > 0 and weight_decay >= 0 and clip > 0 and 0 <= warmup <= 1 and (ema is None or 0 <= ema < 1)):
        raise ValueError(
            f"Training needs lr and clip above 0, weight_decay of 0 or more, warmup in 0..1, ema from 0 to "
            f"below 1; got {lr}, {clip}, {weight_decay}, {warmup}, {ema}."
        )
    if any(count is not None and count < 1 for count in counts.values()):
        raise ValueError(f"{', '.join(counts)} start at 1, got {list(counts.values())}.")


def num_steps(num_samples: int, batch_size: int, steps: int | None, num_epochs: float | None) -> int:
    """Steps of a run given in one of the two; ValueError where that is not possible."""
    if num_samples == 0:
        raise ValueError("There is no sample to train on.")
    if batch_size < 1:
        raise ValueError(f"Training needs at least one sample a batch, got {batch_size}.")
    if (steps is None) == (num_epochs is None):
        raise ValueError(f"Give either steps or num_epochs, got steps={steps} and num_epochs={num_epochs}.")
    steps = steps if steps is not None else math.ceil(num_epochs * num_samples / batch_size)
    if steps < 1 or steps != int(steps):
        raise ValueError(f"Training needs a whole number of steps, at least one, got {steps}.")
    return int(steps)


def _record(history: History, step: int, values: dict[str, Any]) -> None:
    numbers = {k: float(v) for k, v in values.items()}
    if not math.isfinite(numbers.get("loss", 0.0)):
        raise FloatingPointError(
            f"The loss is {numbers['loss']} at step {step}: lower lr, or look for extreme values."
        )
    if history.records and history.records[-1]["step"] == step:
        history.records[-1].update(numbers)
    else:
        history.records.append({"step": step, **numbers})


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({k: v.detach() for k, v in module.state_dict().items()})


@contextmanager
def _own_state(seed: int):
    """Seeded and without denormals inside; the caller's random state and arithmetic back afterwards."""
    flushed = sys.float_info.min * 0.5 == 0.0
    torch.set_flush_denormal(True)  # denormals slow CPU arithmetic a hundredfold
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # manual_seed seeds them all
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_flush_denormal(flushed)
