"""A run that was killed and resumed is the run that was not, bit for bit."""

import math
import signal
import threading

import numpy as np
import pytest
import torch
from checkpointed_runs import SPECS, STEPS, Killed, run, state, stop_at, transformer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aion_lite.checkpoint import whole_steps
from aion_lite.model import MultimodalTransformer


def assert_same_run(module, history, other, other_history) -> None:
    assert all(torch.equal(a, b) for a, b in zip(state(module), state(other), strict=True))
    assert history.records == other_history.records
    assert (history.best_step, history.best_validation) == (
        other_history.best_step,
        other_history.best_validation,
    )


KINDS = {
    "muon": {"optimizer": "muon"},
    "adamw": {"optimizer": "adamw"},
    "muon with average": {"optimizer": "muon", "ema": 0.8},
    "adamw, no validation, average": {"optimizer": "adamw", "ema": 0.8, "validation": None},
    "bf16": {"mixed_precision": "bf16"},
}
WHOLE = {}


def whole_run(kind: str):
    if kind not in WHOLE:
        module = transformer()
        WHOLE[kind] = module, run(module, **KINDS[kind])
    return WHOLE[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("step", "error"), [(6, KeyboardInterrupt), (4, KeyboardInterrupt), (7, Killed), (2, Killed)]
)
def test_killed_and_resumed_is_never_killed(tmp_path, kind, step, error):
    with pytest.raises(error):
        run(transformer(), tmp_path, on_step=stop_at(step, error), **KINDS[kind])
    torch.manual_seed(99)
    module = transformer()
    if step > 4 or error is KeyboardInterrupt:  # there is a checkpoint: what one starts with does not matter
        torch.nn.init.zeros_(module.mask_token)
    history = run(module, tmp_path, **KINDS[kind])
    assert_same_run(module, history, *whole_run(kind))


@given(stops=st.lists(st.tuples(st.integers(0, STEPS - 1), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_again_and_again(tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("run")
    for step, softly in stops:
        try:
            run(transformer(), folder, on_step=stop_at(step, KeyboardInterrupt if softly else Killed))
        except (KeyboardInterrupt, Killed):
            pass
    module = transformer()
    assert_same_run(module, run(module, folder), *whole_run("muon"))


def test_a_checkpoint_changes_nothing_and_a_finished_run_is_not_run_again(tmp_path):
    module = transformer()
    assert_same_run(module, run(module, tmp_path), *whole_run("muon"))
    again, steps = transformer(), []
    history = run(again, tmp_path, on_step=lambda step, module: steps.append(step))
    assert steps == [] and not again.training
    assert_same_run(again, history, *whole_run("muon"))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("step", [5, 14, 23])
def test_early_stop_comes_at_the_same_step_after_a_kill(tmp_path, step):
    kwargs = {
        "steps": 60,
        "patience": 2,
        "optimizer": "adamw",
        "lr": 0.05,
        "validate_every": 2,
        "checkpoint_every": 3,
    }
    module = transformer()
    whole = run(module, **kwargs)
    last = whole.records[-1]["step"]
    assert last == whole.best_step + 4 < 60
    with pytest.raises(KeyboardInterrupt):
        run(transformer(), tmp_path, on_step=stop_at(min(step, last - 1), KeyboardInterrupt), **kwargs)
    other = transformer()
    assert_same_run(other, run(other, tmp_path, **kwargs), module, whole)


# Ctrl-C, which comes at any time


class Pressed(MultimodalTransformer):
    """Ctrl-C is pressed in the middle of its loss, at one step of the training or of the validation."""

    when: tuple[bool, int] = (True, 10**9)
    times: int = 1
    calls: tuple[int, int] = (0, 0)

    def loss(self, *args, **kwargs):
        out = super().loss(*args, **kwargs)
        self.calls = self.calls[0] + (not self.training), self.calls[1] + self.training
        if (self.training, self.calls[self.training]) == self.when:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return out


def pressed(when, times=1) -> Pressed:
    torch.manual_seed(0)
    module = Pressed(SPECS, d_model=8, nhead=2, num_layers=1, dropout=0.2)
    module.when, module.times = when, times
    return module


@pytest.mark.parametrize("when", [(True, 6), (True, 8), (True, STEPS), (False, 1), (False, 16)])
def test_ctrl_c_waits_for_a_whole_step(tmp_path, when):
    with pytest.raises(KeyboardInterrupt):
        run(pressed(when), tmp_path, checkpoint_every=10**6)
    assert (tmp_path / "checkpoint.pt").is_file()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    module = transformer()
    assert_same_run(module, run(module, tmp_path, checkpoint_every=10**6), *whole_run("muon"))


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(pressed((True, 7), times=2), tmp_path)
    module = transformer()
    assert_same_run(module, run(module, tmp_path), *whole_run("muon"))


def test_without_a_checkpoint_ctrl_c_stops_at_once():
    module = pressed((True, 3))
    with pytest.raises(KeyboardInterrupt):
        run(module)
    assert module.calls[1] == 3


def test_a_handler_of_the_users_and_other_threads_are_left_alone():
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with whole_steps() as asked:
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT] and asked == []
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = [threading.Thread(target=lambda: seen.append(whole_steps().__enter__()))]
    threads[0].start()
    threads[0].join()
    assert seen[1] == [] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


# What is already there is kept


class Diverging(MultimodalTransformer):
    """Its weights, and then its loss, are no numbers from step 6 on; the loss is looked at much later."""

    def loss(self, *args, **kwargs):
        loss, metrics = super().loss(*args, **kwargs)
        self.calls = getattr(self, "calls", 0) + 1
        return loss * (math.nan if self.calls > 6 else 1.0), metrics


def test_a_run_that_diverged_does_not_write_over_its_checkpoint(tmp_path):
    torch.manual_seed(0)
    module = Diverging(SPECS, d_model=8, nhead=2, num_layers=1, dropout=0.2)
    with pytest.raises(FloatingPointError, match="weights are no longer finite at step 8: lower lr"):
        run(module, tmp_path, log_every=100, validation=None)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4 and all(t.isfinite().all() for t in saved["module"].values())


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        run(transformer(), tmp_path, on_step=stop_at(7, Killed))

    def half(state, path):
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="No space left"):
            run(transformer(), tmp_path)
    module = transformer()
    assert_same_run(module, run(module, tmp_path), *whole_run("muon"))


def test_it_holds_data_and_no_code_even_from_numpys_numbers(tmp_path):
    numbers = {
        "lr": np.float64(3e-3),
        "steps": np.int64(STEPS),
        "weight_decay": np.float32(0.05),
        "seed": np.int64(0),
    }
    with pytest.raises(KeyboardInterrupt):
        run(transformer(), tmp_path, on_step=stop_at(5, KeyboardInterrupt), **numbers)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 5 and saved["settings"]["lr"] == 3e-3
    run(transformer(), tmp_path, **numbers)


def test_seconds_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(transformer(), tmp_path, on_step=stop_at(9, KeyboardInterrupt))
    spent = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"]["seconds"]
    assert 0 < spent < run(transformer(), tmp_path).seconds
