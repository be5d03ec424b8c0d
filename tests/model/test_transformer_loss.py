"""The model's loss is the true cross-entropy, and the absent never counts in it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from aion.fourm.fm import FM
from hypothesis import given, settings
from hypothesis import strategies as st
from small_transformer import NAMES, assert_same, by_embedding, make, tokens

from aion_lite.codecs import TokenSpec
from aion_lite.model import sample_masks


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
