"""The model's promises: masked is left out, the loss is the true cross-entropy, the absent never counts."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from aion.fourm.fm import FM
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_lite.codecs import CodecManager, TokenSpec
from aion_lite.data import MultimodalDataset
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Category, Scalar
from aion_lite.model import SIZES, MultimodalTransformer, sample_masks
from aion_lite.quantizers import FiniteScalarQuantizer, ScalarReservoirQuantizer

FSQ = FiniteScalarQuantizer((4, 3, 3))


def ordinal(num_codes: int, seed: int = 0) -> TokenSpec:
    quantizer = ScalarReservoirQuantizer(num_codes, 1000)
    quantizer.update(torch.randn(1000, generator=torch.Generator().manual_seed(seed)))
    return TokenSpec(1, num_codes, "ordinal", quantizer.code_features(), quantizer.values)


SPECS = {
    "mass": ordinal(16), "sex": TokenSpec(1, 3, "nominal"), "size": ordinal(24, seed=1),
    "image": TokenSpec(6, 36, "grid", FSQ.code_features(), levels=(4, 3, 3), grid=(2, 3)),
}  # fmt: skip
NAMES = list(SPECS)


def make(embedding: str = "value", specs=SPECS, seed: int = 0, **kwargs) -> MultimodalTransformer:
    torch.manual_seed(seed)
    shape = {"d_model": 16, "nhead": 2, "num_layers": 2}
    settings = {**shape, "embedding": embedding, "regression": 0.0, **kwargs}
    model = MultimodalTransformer(specs, **settings)
    for p in model.parameters():  # away from the start, where the outputs hardly depend on the inputs
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    return model.eval()


def tokens(num_samples: int = 8, seed: int = 0, specs=SPECS) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in specs.items()
    }


MODELS = {embedding: make(embedding) for embedding in ("value", "table")}
by_embedding = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def assert_same(a, b, atol=1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


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


# The loss


def by_hand(model, x, present, seed):
    """(loss, nll by name): the same masks, then torch's cross-entropy token by token in a loop."""
    code_BT, present_BT = model.flatten(x, present)
    input_BI, is_input_BI, target_BO, is_target_BO = sample_masks(
        present_BT, model.modality_T, len(model.names), model.num_inputs, model.num_targets,
        torch.Generator().manual_seed(seed), model.min_inputs, hold_out_G=model.hold_out_G,
    )  # fmt: skip
    context = model.encode(code_BT.gather(1, input_BI), input_BI, is_input_BI)
    logp = model.head(model.decode(target_BO, is_target_BO, *context), model.book_T[target_BO])
    nll: dict[str, list] = {name: [] for name in model.names}
    for b, o in is_target_BO.nonzero().tolist():
        place = int(target_BO[b, o])
        name = model.names[int(model.modality_T[place])]
        logits = logp[b, o, : model.specs[name].vocab_size]
        nll[name].append(F.cross_entropy(logits[None], code_BT[b, place][None]))
    means = {name: torch.stack(v).mean() for name, v in nll.items() if v}
    return torch.stack(list(means.values())).mean(), means


@by_embedding
@given(seed=st.integers(0, 10_000), measured=st.sampled_from([0.3, 0.7, 1.0]))
@settings(max_examples=6, deadline=None)
def test_the_loss_is_torchs_cross_entropy_per_token(model, seed, measured):
    g = torch.Generator().manual_seed(seed)
    x, present = tokens(seed=seed), {n: torch.rand(8, generator=g) < measured for n in NAMES}
    present["mass"][0] = True
    with torch.no_grad():
        loss, metrics = model.loss(x, present, torch.Generator().manual_seed(seed))
        expected, means = by_hand(model, x, present, seed)
    assert list(metrics) == [f"nll/{n}" for n in NAMES]
    for name in NAMES:
        if name in means:
            assert_same(metrics[f"nll/{name}"], means[name])
        else:
            assert metrics[f"nll/{name}"].isnan()
    if model.smoothing == 0:
        assert_same(loss, expected)


def test_soft_targets_become_the_hard_loss():
    model, x = make(smoothing=1e-5), tokens()
    soft, _ = model.loss(x, generator=torch.Generator().manual_seed(0))
    model.smoothing = 0.0
    hard, _ = model.loss(x, generator=torch.Generator().manual_seed(0))
    assert_same(soft, hard)
    model.smoothing = 0.2
    wide, _ = model.loss(x, generator=torch.Generator().manual_seed(0))
    assert float((wide - hard).detach().abs()) > 1e-2


def test_soft_targets_leave_the_score_alone():
    a, b = make(smoothing=0.0), make(smoothing=0.1)
    scores = [m.loss(tokens(), generator=torch.Generator().manual_seed(0))[1] for m in (a, b)]
    assert all(torch.equal(scores[0][k], scores[1][k]) for k in scores[0])


@by_embedding
def test_absent_modalities_count_in_neither_sum_nor_number(model):
    x = tokens()
    absent = {"image": torch.zeros(8, dtype=torch.bool), "sex": torch.zeros(8, dtype=torch.bool)}
    loss, metrics = model.loss(x, absent, torch.Generator().manual_seed(0))
    alone, _ = model.loss({n: x[n] for n in ("mass", "size")}, None, torch.Generator().manual_seed(0))
    assert_same(loss, alone)
    assert metrics["nll/image"].isnan() and metrics["nll/sex"].isnan()
    if model.smoothing == 0:
        assert_same(loss, (metrics["nll/mass"] + metrics["nll/size"]) / 2)


def test_a_batch_with_nothing_measured_costs_nothing():
    model = make()
    loss, metrics = model.loss(tokens(), {n: torch.zeros(8, dtype=torch.bool) for n in NAMES})
    loss.backward()
    assert loss == 0 and all(m.isnan() for m in metrics.values())
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_weights_weigh_modalities():
    weights = {"mass": 3.0, "sex": 0.0}
    model, plain = make("table", weights=weights), make("table")
    loss, nll = model.loss(tokens(), generator=torch.Generator().manual_seed(0))
    _, same = plain.loss(tokens(), generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(nll[k], same[k]) for k in nll)
    assert_same(loss, (3 * nll["nll/mass"] + nll["nll/size"] + nll["nll/image"]) / 5)


def test_aions_token_loss_is_weighted_by_vocabulary_and_ours_is_not():
    """10 tokens of 4,375 codes and 100 of 64: AION's mean over tokens is far from the mean per token."""
    specs = {"image": TokenSpec(10, 4375, "nominal"), "scalars": TokenSpec(100, 64, "nominal")}
    model = make("table", specs, num_targets=110, num_inputs=0)
    x = tokens(1, specs=specs)
    loss, nll = model.loss(x)  # no inputs, so that every token is asked
    place = torch.arange(110)[None]
    nothing = model.encode(place[:, :0], place[:, :0], place[:, :0].bool())
    with torch.no_grad():
        h = model.decode(place, torch.ones_like(place, dtype=torch.bool), *nothing)
        logp = model.head(h, model.book_T[place])[0]
    heads = {"image": logp[:10], "scalars": logp[10:, :64]}
    stub = SimpleNamespace(
        modality_info={"image": {"id": 0}, "scalars": {"id": 1}},
        decoder_embeddings={n: SimpleNamespace(forward_logits=lambda _, n=n: heads[n]) for n in heads},
    )
    target, which = torch.cat([x["image"], x["scalars"]], 1), model.modality_T[None]
    aion, parts = FM.forward_token_loss(stub, torch.zeros(1, 110, 1), target, dict.fromkeys(heads), which)
    ours = {n: float(nll[f"nll/{n}"]) for n in heads}
    for name in heads:
        assert float(parts[name]) == pytest.approx(ours[name], rel=1e-5)
    per_token = (10 * ours["image"] + 100 * ours["scalars"]) / 110
    by_vocabulary = (43_750 * ours["image"] + 6_400 * ours["scalars"]) / 50_150
    assert float(aion) == pytest.approx(by_vocabulary, rel=1e-5)
    assert abs(by_vocabulary - per_token) > 0.5
    assert float(loss.detach()) == pytest.approx((ours["image"] + ours["scalars"]) / 2, rel=1e-5)


def test_full_inputs_need_no_mask_and_give_the_same_loss(monkeypatch):
    """Where the budget is always filled, attention runs without a mask: faster, and nothing else."""
    model, asked, masks = make(num_inputs=4, min_inputs=4), tokens(), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda *a: masks.append(a[2]) or encode(*a))
    present = {name: torch.ones(len(t), dtype=torch.bool) for name, t in asked.items()}
    losses = [model.loss(asked, p, torch.Generator().manual_seed(1))[0] for p in (None, present)]
    assert_same(*losses)
    assert masks[0] is None
    assert masks[1].all()
    for less in ({"min_inputs": 3}, {"hold_out": {"mass": 0.5}}, {"num_inputs": 9, "min_inputs": 9}):
        assert not make(**{"num_inputs": 4, "min_inputs": 4, **less})._always_full(asked, None), less


@pytest.mark.parametrize("embedding", ["value", "table"])
def test_gradient_reaches_every_parameter(embedding):
    # Two modalities of several tokens: one alone of its modality sees only itself, with no choice to learn.
    model = make(embedding, dropout=0.1).train()
    for seed in range(4):
        model.loss(tokens(64, seed))[0].backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert missing == []


def test_same_seed_same_model_and_masks():
    a, b = make(seed=3), make(seed=3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    losses = [m.loss(tokens(), generator=torch.Generator().manual_seed(2))[0] for m in (a, b)]
    assert torch.equal(*losses)


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
