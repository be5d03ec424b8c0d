"""A training step recorded once as a CUDA graph and replayed: a small model's thousand kernels take longer to
launch from Python than to run. Imports torch alone; knows nothing of models, data or schedules.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

WARMUP = 3  # steps that run as they are: optimizers make their state, kernels are chosen


class RecordedStep:
    """Calls ``step(inputs)``: a few times as it is, then from a recording of it.

    ``inputs``: tensors, in any nest of lists and dicts, of the same shapes at every call; each replay reads
    them from the same place, and what ``step`` returns lies in the same place after each call. The random
    numbers go on from call to call as they would without a recording.

    A step that waits for the device (``.item()``, ``nonzero``) cannot be recorded; it is found out in the
    last call before the recording, told in a warning, and goes on being run as it is.
    """

    def __init__(self, step: Callable[[Any], Any]):
        self.step, self.calls = step, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[torch.Tensor] = []
        self.outputs: Any = None
        self.waits = False

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        if self.waits or self.calls <= WARMUP:
            return self._as_it_is(inputs)
        if self.graph is None:
            self._record(inputs)
        else:
            for place, x in zip(self.inputs, pytree.tree_leaves(inputs), strict=True):
                place.copy_(x, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _as_it_is(self, inputs: Any) -> Any:
        # On the stream of the recording, so that nothing the step keeps is tied to another one.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self._watched(inputs) if self.calls == WARMUP else self.step(inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _watched(self, inputs: Any) -> Any:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outputs = self.step(inputs)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        self.waits = any("called a synchronizing" in str(warning.message) for warning in told)
        if self.waits:
            warnings.warn("This step waits for the GPU, so it is not recorded, and slower.", stacklevel=4)
        return outputs

    def _record(self, inputs: Any) -> None:
        leaves, structure = pytree.tree_flatten(inputs)
        self.inputs = [x.clone() for x in leaves]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.outputs = self.step(pytree.tree_unflatten(self.inputs, structure))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(f"This step can't be recorded ({reason}): train with record=False.") from error
        self.graph = graph
