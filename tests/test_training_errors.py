"""What can't be trained is refused before the first step; what fails on the way says what to turn."""

import math

import pytest
import torch
from torch import nn
from training_runs import SPECS, Broken, Line, run, samples, tokens, transformer

from aion_lite.data import MultimodalDataset
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Scalar
from aion_lite.training import evaluate_loss


def out_of_memory(loss):
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(factor):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+: lower lr"):
        run(Broken(lambda loss: loss * factor), samples(), steps=20, log_every=5)


@pytest.mark.parametrize("fails", [out_of_memory, lambda loss: torch.empty(2**60)], ids=["GPU", "CPU"])
def test_a_batch_that_does_not_fit_says_what_to_turn(fails):
    with pytest.raises(MemoryError, match=r"batch of 8 does not fit on cpu: lower batch_size, .*num_inputs"):
        run(Broken(fails), samples(), steps=20)


def nothing() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(24, dtype=torch.bool) for name in SPECS}


def other_tokens() -> TokenDataset:
    return TokenDataset({"x": torch.full((5, 1), 8)})  # 8 codes: 0..7


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: run(Line(), samples(0), steps=3), "no sample to train on"),
        (lambda: run(Line(), samples()), "either steps or num_epochs, got steps=None and num_epochs=None"),
        (lambda: run(Line(), samples(), steps=3, num_epochs=1), "either steps or num_epochs"),
        (lambda: run(Line(), samples(), steps=0), "at least one, got 0"),
        (lambda: run(Line(), samples(), num_epochs=0), "at least one, got 0"),
        (lambda: run(Line(), samples(), steps=3, batch_size=0), "at least one sample a batch, got 0"),
        (lambda: run(Line(), samples(), num_epochs=1, batch_size=0), "at least one sample a batch, got 0"),
        (lambda: run(Line(), samples(), steps=3, optimizer="sgd"), "'muon' or 'adamw', got 'sgd'"),
        (lambda: run(Line(), samples(), steps=3, validation=samples(0)), "no sample to score"),
        (lambda: run(Line(), samples(), steps=1.5), "a whole number of steps, at least one, got 1.5"),
        (lambda: run(Line(), samples(), steps=3, log_every=0), "log_every, patience start at 1, got"),
        (lambda: run(Line(), samples(), steps=3, checkpoint_every=0), "start at 1, got"),
        (lambda: run(Line(), samples(), steps=3, patience=0), "start at 1, got .*0"),
        *[
            (
                lambda name=name, value=value: run(Line(), samples(), steps=3, **{name: value}),
                f"got .*{value}",
            )
            for name, values in {
                "lr": (0.0, -1.0, math.nan),
                "clip": (-1.0, 0.0, math.nan),
                "ema": (math.nan, -0.1, 1.0),
                "weight_decay": (-1.0, math.nan),
                "warmup": (-1.0, 2.0),
            }.items()
            for value in values
        ],
        (
            lambda: run(transformer(), TokenDataset(tokens().tokens, nothing()), steps=3),
            "Nothing was measured in any of the 24 samples",
        ),
        (lambda: evaluate_loss(Line(), samples(0)), "no sample to score"),
        (lambda: run(transformer(), other_tokens(), steps=3), "'x'.*another codec"),
        (lambda: run(transformer(), tokens(), steps=3, validation=other_tokens()), "'x'.*another codec"),
        (
            lambda: run(transformer(), TokenDataset({"z": torch.zeros(4, 1).long()}), steps=3),
            "no modality 'z'",
        ),
    ],
)
def test_bad_use_is_refused_before_the_first_step(act, says):
    with pytest.raises(ValueError, match=says):
        act()


def test_a_data_set_that_was_not_encoded_is_refused():
    data = MultimodalDataset([Scalar("x")], {"x": [1.0, 2.0]})
    for act in (lambda: run(transformer(), data, steps=3), lambda: transformer().predict(data, "x")):
        with pytest.raises(TypeError, match="got MultimodalDataset"):
            act()


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: run(transformer(), torch.rand(8, 3), steps=2), "needs tokens by modality, got Tensor"),
        (lambda: run(Line(), None, steps=2), "needs tokens or a tensor, got NoneType"),
        (lambda: run(nn.Linear(2, 1), samples(), steps=2), "with a method loss, got Linear"),
    ],
)
def test_what_cant_be_trained_is_refused(act, says):
    with pytest.raises(TypeError, match=says):
        act()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no device 'cuda' here, but 'cpu'"):
        run(Line(), samples(), steps=1, device="cuda")
