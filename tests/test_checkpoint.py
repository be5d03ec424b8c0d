"""A run that was killed and resumed is the run that was not, bit for bit; files of no use are refused."""

import math
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aion_lite.checkpoint import whole_steps
from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.training import train

SPECS = {
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "pair": TokenSpec(2, 3, "nominal"),
}
STEPS = 11


def tokens(num_samples: int = 20, seed: int = 0) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    return TokenDataset(
        {n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in SPECS.items()}
    )


def transformer(specs=SPECS, **kwargs) -> MultimodalTransformer:
    torch.manual_seed(0)
    return MultimodalTransformer(
        specs, **{"d_model": 8, "nhead": 2, "num_layers": 1, "dropout": 0.2, **kwargs}
    )


def run(module, folder=None, **kwargs):
    defaults = {
        "steps": STEPS, "batch_size": 6, "checkpoint": folder, "checkpoint_every": 4, "log_every": 1,
        "validation": tokens(seed=1), "validate_every": 3, "progress": False, "device": "cpu",
    }  # fmt: skip
    return train(module, kwargs.pop("data", tokens()), **{**defaults, **kwargs})


def state(module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


def assert_same_run(module, history, other, other_history) -> None:
    assert all(torch.equal(a, b) for a, b in zip(state(module), state(other), strict=True))
    assert history.records == other_history.records
    assert (history.best_step, history.best_validation) == (
        other_history.best_step,
        other_history.best_validation,
    )


class Killed(Exception):
    """Power cut: nothing gets a chance to save."""


def stop_at(step: int, error: type[BaseException]):
    def on_step(now, module):
        if now == step:
            raise error

    return on_step


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


# Files that are of no use


@pytest.fixture
def folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(transformer(), tmp_path / "run", on_step=stop_at(5, KeyboardInterrupt))
    return tmp_path / "run"


def renamed(data: TokenDataset) -> TokenDataset:
    return TokenDataset({"y": data.tokens["x"], "pair": data.tokens["pair"]})


OTHER = {**SPECS, "pair": TokenSpec(2, 4, "nominal")}


@pytest.mark.parametrize(
    ("module", "settings", "says"),
    [
        (
            transformer,
            {"lr": 1e-4},
            r"other settings \(saved, now\): {'lr': \(0.003, 0.0001\)}: .*another checkpoint",
        ),
        (transformer, {"steps": 12}, r"other settings .*'steps': \(11, 12\)"),
        (transformer, {"batch_size": 7}, "other settings .*'batch_size'"),
        (transformer, {"seed": 1}, "other settings .*'seed'"),
        (transformer, {"optimizer": "adamw"}, r"other settings .*'optimizer': \('muon', 'adamw'\)"),
        (transformer, {"ema": 0.9}, r"other settings .*'ema': \(None, 0.9\)"),
        (transformer, {"weight_decay": 0.0, "warmup": 0.5}, "other settings .*'weight_decay'.*'warmup'"),
        (transformer, {"patience": 2}, "other settings .*'patience'"),
        (transformer, {"mixed_precision": "bf16"}, "other settings .*'mixed_precision'"),
        (transformer, {"validation": None}, "other settings .*'validation'"),
        (lambda: transformer(dropout=0.3), {}, r"other settings .*\"model's dropout\": \('0.*', '0.3'\)"),
        (lambda: transformer(seed=1), {}, r"other settings .*\"model's seed\": \('0', '1'\)"),
        (lambda: transformer(weights={"x": 2.0}), {}, "other settings .*model's weights"),
        (transformer, {"data": tokens(21)}, r"other settings .*'samples': \(20, 21\)"),
        (transformer, {"data": tokens(seed=2)}, "other settings .*'data'"),
        (
            lambda: transformer({"y": SPECS["x"], "pair": SPECS["pair"]}),  # weights of the same shapes
            {"data": renamed(tokens()), "validation": None},
            "other modalities: give another folder",
        ),
        (lambda: transformer(OTHER), {}, "of another model or other modalities: give another folder"),
        (lambda: transformer(d_model=16), {}, "of another model or other modalities"),
        (lambda: transformer(num_layers=2), {}, "of another model or other modalities"),
        (
            lambda: transformer({"x": SPECS["x"]}),
            {"data": tokens().select(["x"]), "validation": None},
            "other modal",
        ),
    ],
)
def test_checkpoints_of_other_runs_are_refused_and_touch_nothing(folder, module, settings, says):
    model = module()
    before, file = [t.clone() for t in state(model)], (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=says) as caught:
        run(model, folder, **settings)
    assert "\n" not in str(caught.value) and "checkpoint.pt" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert (folder / "checkpoint.pt").read_bytes() == file


class Code:
    """Not data."""


def truncated(path):
    path.write_bytes(path.read_bytes()[:-500])


def nothing(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("step 7")


def of_another_program(path):
    torch.save({"epoch": 3}, path)


def with_code(path):
    torch.save({"step": Code()}, path)


@pytest.mark.parametrize("spoil", [truncated, nothing, text, of_another_program, with_code])
def test_damaged_files_are_refused(folder, spoil):
    spoil(folder / "checkpoint.pt")
    with pytest.raises(
        ValueError, match=r"checkpoint.pt is damaged \(.*\): delete it to start over"
    ) as caught:
        run(transformer(), folder)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_folder_that_cant_be_written_to_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"Can't write checkpoints to .*file.*: choose another folder"):
            run(transformer(), folder, on_step=stop_at(0, Killed))


def test_a_read_only_folder_is_refused_before_the_first_step(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")  # a mode would not stop root

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        run(transformer(), tmp_path, on_step=stop_at(0, Killed))
