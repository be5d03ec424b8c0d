"""A recorded step is the step: the same losses and weights, the same random numbers, on a GPU."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from aion_lite import checkpoint
from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer, compiled
from aion_lite.recorded import WARMUP, RecordedStep
from aion_lite.training import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="recordings need a GPU")

SPECS = {
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "pair": TokenSpec(2, 3, "nominal"),
}


class Line(nn.Module):
    """Least squares on samples (B, 4): three inputs and the answer."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 1), nn.Dropout(dropout)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.linear.bias)

    def loss(self, x):
        error = self.linear(self.dropout(x[:, :3]))[:, 0] - x[:, 3]
        return error.square().mean(), {"largest": error.detach().abs().max()}


def samples() -> torch.Tensor:
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def tokens(seed: int = 0) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randint(s.vocab_size, (24, s.num_tokens), generator=g) for n, s in SPECS.items()}
    return TokenDataset(drawn, {"pair": torch.rand(24, generator=g) < 0.7})


def transformer(dropout: float = 0.1, **kwargs) -> MultimodalTransformer:
    return MultimodalTransformer(SPECS, d_model=8, nhead=2, num_layers=1, dropout=dropout, **kwargs)


def run(module, data, **kwargs):
    settings = {"steps": 20, "batch_size": 8, "log_every": 1, "progress": False}
    return train(module, data, **{**settings, **kwargs})


def losses(history):
    return torch.tensor([r["loss"] for r in history.records])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_recorded_and_plain_agree(optimizer, ema, mixed_precision):
    runs = []
    for record in (True, False):
        module = transformer()
        how = {"optimizer": optimizer, "ema": ema, "mixed_precision": mixed_precision, "record": record}
        history = run(module, tokens(), validation=tokens(seed=1), validate_every=6, **how)
        runs.append((losses(history), torch.cat([p.detach().flatten() for p in module.parameters()])))
    atol = 1e-5 if mixed_precision == "no" else 1e-2
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=0, atol=atol)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=0, atol=10 * atol)


def test_random_numbers_go_on_as_without():
    def draw(x):
        return x + torch.rand(4, device="cuda")

    drawn = []
    for step in (draw, RecordedStep(draw)):
        torch.manual_seed(0)
        drawn.append([step(torch.zeros(4, device="cuda")).clone() for _ in range(3 * WARMUP)])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_killed_and_resumed_is_never_killed(tmp_path, monkeypatch):
    whole, cut = Line(dropout=0.5), Line(dropout=0.5)
    run(whole, samples(), ema=0.9)
    save = checkpoint.Run.save

    def killed(self, step, *args):
        save(self, step, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(cut, samples(), ema=0.9, checkpoint=tmp_path, checkpoint_every=8)
    monkeypatch.setattr(checkpoint.Run, "save", save)
    run(cut, samples(), ema=0.9, checkpoint=tmp_path, checkpoint_every=8)
    for p, q in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_recorded_run_may_be_looked_at():
    looked, runs = [], []
    for look in (None, lambda step, module: looked.append(module.linear.weight.detach().clone())):
        module = Line(dropout=0.5)
        runs.append(losses(run(module, samples(), record=True, on_step=look)))
    assert torch.equal(*runs)
    assert len(looked) == 20 and all(not torch.equal(a, b) for a, b in pairwise(looked))


class Waits(Line):
    def loss(self, x):
        loss, metrics = super().loss(x)
        return loss * (2.0 if loss.item() > 0 else 1.0), metrics


def test_a_step_that_waits_is_told_once_and_run_as_it_is():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = run(Waits(), samples())
    assert sum("waits for the GPU" in str(w.message) for w in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = run(Waits(), samples(), record=False)
    torch.testing.assert_close(losses(history), losses(plain))


def test_compiled_masks_are_drawn_anew_at_every_replay():
    data, steps = tokens()[:8], WARMUP + 8
    history = run(transformer(0.0), data, steps=steps, batch_size=8, compile=True, lr=1e-9)
    assert len(set(losses(history)[WARMUP:].tolist())) > 4  # weights and batch stay: the masks do not


@pytest.mark.parametrize("embedding", ["value", "table"])
def test_compiled_and_plain_agree(monkeypatch, embedding):
    monkeypatch.setattr(compiled, "NARROW", 0)  # compiled masks are drawn with other random numbers
    runs = []
    for how in ({"compile": True}, {"record": False}):
        # Without dropout: compiled code draws other random numbers for it.
        history = run(transformer(0.0, embedding=embedding), tokens(), steps=8, **how)
        runs.append(losses(history))
    torch.testing.assert_close(*runs, rtol=0, atol=1e-4)
