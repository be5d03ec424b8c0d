"""In the context the costly parts go through torch.compile; outside, and in the numbers, nothing changes."""

import functools
import pickle
from copy import deepcopy

import pytest
import torch

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer, compiled
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.training import train

FSQ = FiniteScalarQuantizer([4, 3])
SPECS = {
    "image": TokenSpec(4, 12, "grid", FSQ.code_features(), levels=FSQ.num_levels, grid=(2, 2)),
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "word": TokenSpec(2, 3, "nominal"),
}


def tokens() -> TokenDataset:
    g = torch.Generator().manual_seed(0)
    return TokenDataset(
        {n: torch.randint(s.vocab_size, (16, s.num_tokens), generator=g) for n, s in SPECS.items()}
    )


def model(**kwargs) -> MultimodalTransformer:
    return MultimodalTransformer(
        SPECS, d_model=16, nhead=2, num_layers=2, num_inputs=4, num_targets=4, **kwargs
    )


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without the seconds of its code generator: traced, and run as traced."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


@pytest.mark.parametrize(("embedding", "narrow"), [("value", 16), ("table", 16), ("value", 15)])
def test_compiled_and_plain_agree_and_blocks_share_their_code(traced, monkeypatch, embedding, narrow):
    monkeypatch.setattr(compiled, "NARROW", narrow)
    losses = []
    for compile in (True, False):
        traced.clear()
        how = {"batch_size": 8, "compile": compile, "log_every": 1, "progress": False, "device": "cpu"}
        history = train(model(embedding=embedding), tokens(), steps=4, **how)
        losses.append(torch.tensor([r["loss"] for r in history.records]))
        # Encoder block, decoder block, losses, and masks where 16 is narrow.
        assert traced["unique_graphs"] == ((3 + (narrow == 16)) if compile else 0)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["x", "image"])
def test_a_question_inside_gets_the_same_answer(traced, target):
    traced.clear()
    ours, given = model(), tokens().select([name for name in SPECS if name != target])
    plain = ours.predict(given, target)
    assert traced["unique_graphs"] == 0
    with ours.compiled():
        inside = ours.predict(given, target)
    assert traced["unique_graphs"] == 2  # encoder block, decoder block
    torch.testing.assert_close(inside.log_probs, plain.log_probs, rtol=0, atol=1e-5)


def test_outside_everything_is_as_before(traced):
    ours = model()
    before = [dict(part.__dict__) for part in (ours.head, *ours.blocks())]
    for _ in range(2):
        with ours.compiled():
            assert "losses" in ours.head.__dict__ and "sample_masks" in ours.__dict__
    assert [dict(part.__dict__) for part in (ours.head, *ours.blocks())] == before
    assert "sample_masks" not in ours.__dict__


def test_a_copy_trains_its_own_weights_and_contexts_may_be_nested(traced):
    ours, how = model(), {"steps": 1, "batch_size": 8, "compile": True, "progress": False, "device": "cpu"}
    with ours.compiled():
        with ours.compiled():
            pass
        assert "losses" in ours.head.__dict__
        assert "losses" not in deepcopy(model()).head.__dict__
    train(ours, tokens(), **how)
    before, copied = ours.encoder[0].mlp.up.weight.clone(), pickle.loads(pickle.dumps(deepcopy(ours)))
    train(copied, tokens(), **how)
    assert torch.equal(ours.encoder[0].mlp.up.weight, before)
    assert not torch.equal(copied.encoder[0].mlp.up.weight, before)


def test_checkpointing_changes_memory_and_no_number():
    losses = []
    for checkpointing in (False, True):
        ours = model(dropout=0.1)
        ours.gradient_checkpointing = checkpointing
        history = train(ours, tokens(), steps=3, batch_size=8, log_every=1, progress=False, device="cpu")
        losses.append([r["loss"] for r in history.records])
    assert losses[0] == losses[1]


def test_what_names_no_parts_to_compile_is_refused():
    class Line(torch.nn.Linear):
        def loss(self, x):
            return self(x).square().mean(), {}

    with pytest.raises(TypeError, match=r"modules with a context compiled\(\); Line has none"):
        train(Line(1, 1), torch.ones(3, 1), steps=1, compile=True, progress=False, device="cpu")
