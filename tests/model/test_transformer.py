"""The model's promises: masked is left out, the absent never counts, bad use is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_transformer import MODELS, NAMES, SPECS, assert_same, by_embedding, make, tokens

from aion_lite.codecs import CodecManager, TokenSpec
from aion_lite.data import MultimodalDataset
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Category, Scalar
from aion_lite.model import SIZES, MultimodalTransformer

# Masked is left out


@by_embedding
@pytest.mark.parametrize("left_out", NAMES[1:])
def test_absent_is_left_out(model, left_out):
    x = tokens()
    rest = {n: t for n, t in x.items() if n != left_out}
    absent = TokenDataset(x, {left_out: torch.zeros(8, dtype=torch.bool)})
    assert_same(model.predict(absent, "mass").log_probs, model.predict(rest, "mass").log_probs)
    assert_same(model.embed(absent), model.embed(rest))
    assert (
        float((model.predict(x, "mass").log_probs - model.predict(rest, "mass").log_probs).abs().max()) > 1e-2
    )


@by_embedding
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_what_stands_in_absent_tokens_changes_nothing(model, seed):
    g = torch.Generator().manual_seed(seed)
    present = {n: torch.rand(8, s.num_tokens, generator=g) < 0.5 for n, s in SPECS.items()}
    x, other = tokens(seed=seed), tokens(seed=seed + 1)
    junk = {n: torch.where(present[n], x[n], -1) for n in x}
    other = {n: torch.where(present[n], x[n], other[n]) for n in x}
    masks = [torch.Generator().manual_seed(1) for _ in range(3)]
    losses = [model.loss(t, present, m)[0] for t, m in zip((x, other, junk), masks, strict=True)]
    assert_same(losses[1], losses[0])
    assert_same(losses[2], losses[0])
    predictions = [model.predict(TokenDataset(t, present), "size").log_probs for t in (x, other, junk)]
    assert_same(predictions[1], predictions[0])
    assert_same(predictions[2], predictions[0])


@by_embedding
def test_the_order_of_the_dict_does_not_matter(model):
    x = tokens()
    turned = dict(reversed(x.items()))
    assert torch.equal(model.predict(x, "sex").log_probs, model.predict(turned, "sex").log_probs)
    assert torch.equal(model.embed(x), model.embed(turned))
    losses = [model.loss(t, generator=torch.Generator().manual_seed(0))[0] for t in (x, turned)]
    assert torch.equal(*losses)


@by_embedding
def test_a_sample_does_not_depend_on_its_batch(model):
    x = TokenDataset(tokens(), {n: torch.rand(8) < 0.6 for n in NAMES})
    whole = model.predict(x, "mass").log_probs
    assert_same(model.predict(x, "mass", batch_size=3).log_probs, whole)
    assert_same(model.predict(x[5], "mass").log_probs[0], whole[5])
    assert_same(model.embed(x, batch_size=3), model.embed(x))


@by_embedding
def test_nothing_measured_gives_the_same_finite_prediction_to_all(model):
    nothing = TokenDataset(tokens(), {n: torch.zeros(8, dtype=torch.bool) for n in NAMES})
    for name in NAMES:
        logp = model.predict(nothing, name).log_probs
        assert logp.isfinite().all()
        assert_same(logp, logp[:1].expand_as(logp))
    assert model.embed(nothing).isfinite().all()
    assert_same(
        model.predict({"mass": tokens()["mass"]}, "mass").log_probs, model.predict(nothing, "mass").log_probs
    )


@by_embedding
def test_the_targets_own_tokens_are_not_looked_at(model):
    x, other = tokens(), tokens(seed=5)
    without = {n: t for n, t in x.items() if n != "image"}
    for inputs in (x, {**x, "image": other["image"]}):
        assert torch.equal(
            model.predict(inputs, "image").log_probs, model.predict(without, "image").log_probs
        )


@by_embedding
def test_prediction_and_training_see_the_same_model(model):
    """predict equals decode after encode of the tokens alone, gathered as training gathers them."""
    x = tokens()
    rest = {n: t for n, t in x.items() if n != "size"}
    code_BT, present_BT = model.flatten(rest)
    place = present_BT[0].nonzero()[:, 0].flip(0).expand(8, -1)  # in any order
    context = model.encode(code_BT.gather(1, place), place, torch.ones_like(place, dtype=torch.bool))
    asked = (model.modality_T == NAMES.index("size")).nonzero()[:, 0].expand(8, -1)
    h = model.decode(asked, torch.ones_like(asked, dtype=torch.bool), *context)
    logp = model.head(h, model.book_T[asked])
    assert_same(logp[..., :24], model.predict(rest, "size").log_probs)


@by_embedding
def test_tokens_that_are_not_asked_do_not_touch_those_that_are(model):
    x = tokens()
    context, _ = model._encode_all(TokenDataset(x))  # all is measured: no mask
    place = torch.arange(9).expand(8, -1)
    asked = torch.rand(8, 9, generator=torch.Generator().manual_seed(0)) < 0.5  # some in every row
    logp = model.decode(place, asked, context, None)
    for b in range(8):
        kept = asked[b].nonzero()[:, 0][None]
        alone = model.decode(kept, torch.ones_like(kept, dtype=torch.bool), context[b : b + 1], None)
        assert_same(alone[0], logp[b, kept[0]])


def test_embeddings_of_tokens_come_with_their_mask():
    model, x = MODELS["value"], tokens()
    present = {"sex": torch.arange(8) % 2 == 0}
    every, seen = model.embed(TokenDataset(x, present), pool=None)
    assert every.shape == (8, 10, 16) and seen.shape == (8, 10)
    assert seen[:, 2].tolist() == present["sex"].tolist() and seen.sum() == 8 * 10 - 4  # register is first
    mean = torch.stack([row[mask].mean(0) for row, mask in zip(every, seen, strict=True)])
    assert_same(mean, model.embed(TokenDataset(x, present)))


# Settings and bad input


@pytest.mark.parametrize(
    ("size", "shape"),
    {"small": (128, 4, 4), "medium": (256, 8, 6), "full": (512, 8, 12), "base": (768, 12, 12)}.items(),
)
def test_named_sizes(size, shape):
    assert tuple(SIZES[size].values()) == shape and list(SIZES[size]) == ["d_model", "nhead", "num_layers"]
    model = MultimodalTransformer.of_size(
        size, {"x": TokenSpec(1, 4, "nominal")}, num_layers=1, num_targets=7
    )
    assert model.num_targets == 7 and len(model.encoder) == len(model.decoder) == 1
    assert model.mask_token.shape == shape[:1] and model.encoder[0].attention.num_heads == shape[1]


def test_muon_gets_the_matrices_of_the_blocks_only():
    model = make()
    inside = {id(p) for p in model.hidden_matrices()}
    names = {n for n, p in model.named_parameters() if id(p) in inside}
    assert names == {
        n for n, p in model.named_parameters() if n.startswith(("encoder.", "decoder.")) and p.ndim == 2
    }


def test_from_a_codec_manager():
    ds = MultimodalDataset(
        [Scalar("age"), Category("sex", values=("f", "m"))],
        {"age": torch.arange(50.0), "sex": torch.arange(50) % 2},
    )
    codecs = CodecManager(ds.modalities).fit(ds)
    model = MultimodalTransformer(codecs, d_model=16, nhead=2, num_layers=1).eval()
    assert model.predict(codecs.encode(ds), "age").mean.shape == (50,)
    assert model.predict(codecs.encode(ds), "sex").probabilities.shape == (50, 2)


def another_codec():
    return {"mass": torch.full((4, 1), 16)}  # 16 codes: 0..15


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda m: m.predict(another_codec(), "size"), r"Tokens of 'mass' must be \(B, 1\) in 0..15"),
        (lambda m: m.predict({"mass": torch.tensor([[-1]])}, "size"), "'mass' must be"),
        (lambda m: m.embed({"image": torch.zeros(4, 5, dtype=torch.int64)}), r"'image' must be \(B, 6\)"),
        (lambda m: m.check(TokenDataset(another_codec())), "another codec"),
        (lambda m: m.loss({"image": torch.zeros(4, 5, dtype=torch.int64)}), "another codec"),
        (lambda m: m.loss({"colour": torch.zeros(4, 1, dtype=torch.int64)}), "knows no modality 'colour'"),
        (lambda m: m.predict({"colour": torch.zeros(4, 1, dtype=torch.int64)}, "mass"), "'colour'"),
        (lambda m: m.predict(tokens(), "colour"), "knows no modality 'colour'; it was built for"),
        (lambda m: m.generate(tokens(), ["mass", "colour"]), "'colour'"),
        (lambda m: m.predict(tokens(0), "mass"), "no sample"),
        (lambda m: m.embed(tokens(0)), "no sample"),
        (lambda m: make("both"), "embedding must be 'value' or 'table', got 'both'"),
        (lambda m: make(specs={}), "at least one modality"),
        (lambda m: make(weights={"colour": 2.0}), "'colour'"),
        (lambda m: make(hold_out={"colour": 1.0}), "'colour'"),
        (lambda m: make(weights={"mass": -1.0}), r"weights\['mass'\] must lie between 0"),
        (lambda m: make(hold_out={"mass": 5.0}), r"hold_out\['mass'\] must lie between 0 and 1"),
        (lambda m: make(num_targets=0), "num_targets of 1 or more"),
        (lambda m: make(num_layers=0), "num_layers, nhead and num_targets of 1 or more"),
        (lambda m: make(d_model=10, nhead=4), "multiple of nhead"),
        (lambda m: MultimodalTransformer.of_size("huge", SPECS), "size must be one of small"),
    ],
)
def test_bad_use_is_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act(MODELS["value"])


def test_one_modality_of_one_code_is_no_special_case():
    spec = TokenSpec(1, 1, "ordinal", torch.zeros(1, 2), torch.tensor([4.5]))
    model = make(specs={"constant": spec})
    loss, _ = model.loss({"constant": torch.zeros(3, 1, dtype=torch.int64)})
    prediction = model.predict({"constant": torch.zeros(3, 1, dtype=torch.int64)}, "constant")
    assert float(loss.detach()) == 0 and prediction.mean.tolist() == prediction.median.tolist() == [4.5] * 3


def test_a_prediction_is_without_dropout_and_leaves_the_mode_as_it_was():
    torch.manual_seed(0)
    spec = TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.arange(8.0))
    model = MultimodalTransformer({"a": spec, "b": spec}, 16, 2, 1, dropout=0.5).train()
    tokens = {"a": torch.arange(8)[:, None]}
    assert torch.equal(model.predict(tokens, "b").log_probs, model.predict(tokens, "b").log_probs)
    assert model.training
