"""Checkpoints of other runs, damaged files and folders of no use are refused, and nothing is touched."""

import pytest
import torch
from checkpointed_runs import SPECS, Killed, run, state, stop_at, tokens, transformer

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset


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
