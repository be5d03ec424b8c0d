"""Draws against torch's Gumbel softmax, back-translation against iterative proportional fitting, cycles
against all permutations counted through; errors at the door; no step that waits."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.strategies.cycle import BackTranslation, CycleConsistency, Unpaired, back_translate
from aion_lite.strategies.straight_through import TokenDrawer, straight_through
from aion_lite.training import train

FSQ = FiniteScalarQuantizer((4, 3))


def line(num_codes: int) -> TokenSpec:
    where = torch.linspace(-1.5, 1.5, num_codes)[:, None]
    return TokenSpec(1, num_codes, "ordinal", where, where[:, 0])


SPECS = {
    "image": TokenSpec(6, 12, "grid", FSQ.code_features(), levels=(4, 3), grid=(2, 3)),
    "glucose": line(7), "age": line(5),
}  # fmt: skip
SMALL = {"d_model": 16, "nhead": 2, "num_layers": 1}


def make(specs=SPECS, seed=0, **kwargs) -> MultimodalTransformer:
    model = MultimodalTransformer(specs, **{**SMALL, **kwargs}, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # away from the start, where outputs hardly depend on inputs
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return model


def tokens(B=8, seed=0, specs=SPECS) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randint(s.vocab_size, (B, s.num_tokens), generator=g) for n, s in specs.items()}


# Draws


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_straight_through_is_torchs_gumbel_softmax(temperature):
    ours, theirs = (torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    weight = torch.arange(6.0)
    gradients = []
    for draw, x in ((straight_through, ours), (lambda x, t: F.gumbel_softmax(x, t, hard=True), theirs)):
        torch.manual_seed(1)
        hard = draw(x.requires_grad_(), temperature)
        gradients.append((hard.detach(), *torch.autograd.grad(((hard @ weight) ** 2).sum(), x)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_straight_through_draws_by_the_law_and_never_what_is_ruled_out():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    drawn = straight_through(p.log().expand(20_000, 4), 0.7, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    share = drawn.mean(0)
    assert share[3] == 0
    assert ((share - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


def test_argmax_has_no_gradient_and_straight_through_has():
    logits = torch.randn(4, 3, requires_grad=True)
    assert not F.one_hot(logits.argmax(-1), 3).float().requires_grad
    (gradient,) = torch.autograd.grad(straight_through(logits)[:, 0].sum(), logits)
    assert gradient.abs().sum() > 0


def test_drawn_codes_follow_the_heads_law_and_lie_where_they_should():
    model, B = make(), 4000
    drawer = TokenDrawer(model)
    seen = tokens(1)
    context, mask = model._encode_all(model._checked({"age": seen["age"]}))
    assert mask is None
    context = context.expand(B, -1, -1), mask
    place = torch.tensor([0, 6]).expand(B, -1)  # an image token, and glucose
    h = model.decode(place, torch.ones_like(place, dtype=torch.bool), *context)
    torch.manual_seed(0)
    code, x = drawer(model, h, place)
    law = model.head(h[:1], model.book_T[place[:1]]).exp()[0]
    for i, name in enumerate(("image", "glucose")):
        features = SPECS[name].features
        torch.testing.assert_close(x[:, i, : features.shape[1]], features[code[:, i]])
        share = F.one_hot(code[:, i], 12).float().mean(0)
        assert ((share - law[i]).abs() < 4.5 * (law[i] * (1 - law[i]) / B).sqrt() + 1e-6).all()
    for x_BF in x.unbind(1):  # either token's place has a gradient
        assert torch.autograd.grad(x_BF.sum(), h, retain_graph=True)[0].abs().sum() > 0


# A discrete law, counted through


def pairs_of(joint: np.ndarray, n: int, seed: int, names=("x", "y")) -> TokenDataset:
    rows = np.random.default_rng(seed).choice(joint.size, n, p=joint.ravel())
    x, y = np.unravel_index(rows, joint.shape)
    return TokenDataset({names[0]: torch.tensor(x)[:, None], names[1]: torch.tensor(y)[:, None]})


def fitted(joint: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Iterative proportional fitting (Deming and Stephan 1940): odds ratios stay, marginals become these."""
    for _ in range(500):
        joint = joint * (first / joint.sum(1))[:, None]
        joint = joint * (second / joint.sum(0))
    return joint


def joint_of(model, first: np.ndarray) -> np.ndarray:
    x = torch.arange(len(first))[:, None]
    return first[:, None] * model.predict({"x": x}, "y").probabilities.double().numpy()


TABLES = {"x": TokenSpec(1, 2, "nominal"), "y": TokenSpec(1, 3, "nominal")}


@pytest.mark.parametrize("draw", ["generate", "choose"])
def test_back_translation_ends_at_proportional_fitting(draw):
    """It begins at a joint law with other marginals than the data's, and keeps only its odds ratios."""
    start = np.array([[0.4, 0.1, 0.1], [0.05, 0.15, 0.2]])
    first, second = np.array([0.25, 0.75]), np.array([0.2, 0.3, 0.5])
    model = MultimodalTransformer(TABLES, **SMALL, num_inputs=1, num_targets=1)
    how = {"batch_size": 512, "progress": False, "optimizer": "adamw"}
    train(model, pairs_of(start, 4000, 0), steps=250, lr=5e-3, **how)
    data = pairs_of(np.outer(first, second), 20_000, 1)
    back_translate(model, data, ["x"], ["y"], rounds=5, steps=80, settings={"draw": draw}, lr=5e-3, **how)
    answer = fitted(start, first, second)
    assert abs(joint_of(model, first) - answer).max() < 0.05
    independent = np.outer(first, second)
    assert abs(answer - independent).max() > 0.08, "the answer would not tell"


@pytest.mark.parametrize("truth", [(0, 1), (1, 0)])
def test_a_cycle_with_the_marginal_finds_the_permutation_that_counting_finds(truth):
    """No pair: both permutations have perfect cycles, and one of them the right marginal."""
    p = np.array([0.8, 0.2])
    joint = np.zeros((2, 2))
    joint[range(2), truth] = p
    second = joint.sum(0)
    fits = [order for order in itertools.permutations(range(2)) if np.allclose(second[list(order)], p)]
    assert fits == [truth]
    shuffled = TokenDataset({n: pairs_of(joint, 2000, i).tokens[n] for i, n in enumerate("xy")})
    # Where nothing is told yet, nothing pulls either, and some starts never leave: the loss says which did.
    runs, specs = [], {"x": line(2), "y": line(2)}
    for seed in range(2):
        model = MultimodalTransformer(specs, **SMALL, smoothing=0.0, regression=0.0, seed=seed)
        module = CycleConsistency(model, ["x"], ["y"], marginal_weight=2.0)
        how = {"lr": 2e-2, "optimizer": "adamw", "progress": False, "seed": seed}
        history = train(module, shuffled, steps=200, batch_size=64, **how)
        runs.append((history.records[-1]["loss"], abs(joint_of(model, p) - joint).max()))
    assert min(runs)[1] < 0.05


def test_ten_pairs_settle_what_marginals_cannot():
    """A fair coin and its twin or its opposite: without a pair nothing tells which."""
    for flipped in (False, True):
        joint = np.eye(2)[::-1] / 2 if flipped else np.eye(2) / 2
        data = pairs_of(np.full((2, 2), 0.25), 2000, 0)
        model = MultimodalTransformer(
            {"x": TokenSpec(1, 2, "nominal"), "y": TokenSpec(1, 2, "nominal")}, **SMALL
        )
        module = BackTranslation(model, ["x"], ["y"], pairs=pairs_of(joint, 10, 1))
        train(module, data, steps=80, batch_size=128, lr=5e-3, progress=False)
        assert abs(joint_of(model, np.array([0.5, 0.5])) - joint).max() < 0.1


# What every step does


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a GPU's host wait: numbers read back, sizes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        waits = (aten._local_scalar_dense.default, aten.nonzero.default, aten.multinomial.default)
        assert func not in waits, func
        return func(*args, **(kwargs or {}))


MODULES = {
    "generate": lambda m, **k: BackTranslation(m, ["image"], ["glucose", "age"], **k),
    "choose": lambda m, **k: BackTranslation(m, ["image"], ["glucose", "age"], draw="choose", **k),
    "cycle": lambda m, **k: CycleConsistency(m, ["image"], ["glucose", "age"], **k),
}
every = pytest.mark.parametrize("kind", MODULES)


@every
def test_no_step_waits_for_the_host_and_every_weight_that_matters_moves(kind):
    model = make(smoothing=0.0)  # soft targets call one_hot, which reads back on a CPU alone
    module = MODULES[kind](model, pairs=TokenDataset(tokens(5)), num_asked=4)
    module.train()
    with NoWaiting():
        loss, metrics = module.loss(tokens())
        loss.backward()
    assert set(metrics) >= {"first", "second", "pairs"}
    assert model.training, "drawing a translation must leave the mode as it was"
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []


@every
def test_in_half_precision_every_weight_has_nearly_the_gradient_of_full_precision(kind):
    """Autocast keeps halved weights: a translation's have no gradient, and must not be met again."""
    gradients = []
    for half in (False, True):
        model = make(regression=0.0)
        module = MODULES[kind](model, pairs=TokenDataset(tokens(64)), num_asked=4)
        total = 0.0
        for i in range(8):  # a draw may fall otherwise in half precision, so not one step but a mean
            torch.manual_seed(i)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                total = total + module.loss(tokens(64))[0]
        total.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    full, half = gradients
    assert [n for n, g in half.items() if g is None] == []
    a, b = (torch.cat([g.flatten() for g in x.values()]) for x in (full, half))
    assert F.cosine_similarity(a, b, dim=0) > 0.97


@every
def test_compiled_is_passed_on_to_the_model(kind, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f, **how: lambda *args: seen.append(f) or f(*args))
    seen, model = [], make()
    module = MODULES[kind](model)
    torch.manual_seed(0)
    plain = module.loss(tokens())[0]
    assert not seen
    torch.manual_seed(0)
    with module.compiled():
        within = module.loss(tokens())[0]
    assert model.head.losses in seen
    torch.testing.assert_close(within, plain, rtol=0, atol=0)


@every
def test_rows_that_seem_to_belong_together_teach_nothing(kind):
    """The second side is shuffled at every step: the loss doesn't know which row came beside which."""
    model, B = make(), 64
    x, order = tokens(B), torch.randperm(B, generator=torch.Generator().manual_seed(5))
    y = {**x, "glucose": x["glucose"][order], "age": x["age"][order]}
    module = MODULES[kind](model)
    losses = []
    for given in (x, y):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(torch.stack([module.loss(given)[0] for _ in range(40)]))
    a, b = losses
    assert abs(a.mean() - b.mean()) < 4 * ((a.var() + b.var()) / 40).sqrt()


def test_a_translation_has_no_gradient_and_a_cycle_has():
    model = make()
    for kind, wanted in (("generate", 0.0), ("cycle", 1.0)):
        module = MODULES[kind](model, **({"marginal_weight": 0.0} if kind == "cycle" else {}))
        code, _ = model.flatten(tokens())
        seen = module.seen(code[:, module.places_A], module.places_A)
        if kind == "generate":
            with torch.no_grad():
                there = module.translated(code[:, module.places_A], module.places_A, module.places_C)
            back = module.seen(there, module.places_C)[0]
        else:
            back = module.through(seen, module.places_C)[0]
        gradient = torch.autograd.grad(back.square().sum(), seen[0], allow_unused=True)[0]
        assert (gradient is not None and float(gradient.abs().sum()) > 0) == bool(wanted)


# At the door

AGES = TokenDataset({"age": tokens()["age"]})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda m: BackTranslation(m, ["image"], ["sugar"]), "lists of"),
        (lambda m: BackTranslation(m, "image", ["age"]), "lists of"),
        (lambda m: BackTranslation(m, ["image"], []), "lists of"),
        (lambda m: BackTranslation(m, ["age"], ["age"]), "one side only"),
        (lambda m: BackTranslation(m, ["image"], ["age"], num_asked=0), "num_asked"),
        (lambda m: BackTranslation(m, ["image"], ["age"], draw="guess"), "generate"),
        (lambda m: BackTranslation(m, ["age"], ["image"], draw="choose"), "images first"),
        (lambda m: CycleConsistency(m, ["image"], ["age"], temperature=0.0), "above 0"),
        (lambda m: CycleConsistency(m, ["age"], ["image"]), "images first"),
        (lambda m: BackTranslation(m, ["image"], ["age"], pairs=AGES), "lacks"),
    ],
)  # fmt: skip
def test_errors_at_the_door(build, says):
    with pytest.raises(ValueError, match=says):
        build(make())


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda m: BackTranslation(None, ["image"], ["age"]), TypeError, "^model is .* got a NoneType"),
        (lambda m: back_translate(None, AGES, ["image"], ["age"]), TypeError, "^model is .* got a NoneType"),
        (lambda m: back_translate(m, None, ["image"], ["age"]), TypeError, "got NoneType"),
        (lambda m: back_translate(m, AGES, None, ["age"]), ValueError, "lists of .* got None"),
        (lambda m: back_translate(m, AGES, ["image"], ["age"], rounds="a"), TypeError, "^rounds .* got 'a'"),
        (lambda m: back_translate(m, AGES, ["image"], ["age"], rounds=0), ValueError, "^rounds .* got 0"),
        (lambda m: back_translate(m, AGES, ["image"], ["age"], seed="a"), TypeError, "^seed .* got 'a'"),
        (lambda m: CycleConsistency(m, first=None, second=["age"]), ValueError, "lists of .* got None"),
        (lambda m: CycleConsistency(m, ["image"], 3), ValueError, "lists of .* and 3"),
        (lambda m: CycleConsistency(m, ["image"], [["age"]]), ValueError, r"lists of .* \[\['age'\]\]"),
        (lambda m: CycleConsistency(m, ["image"], ["age"], temperature="a"), TypeError, "^temperature"),
        (lambda m: CycleConsistency(m, ["image"], ["age"], marginal_weight=-1), ValueError, "^marginal_w"),
        (lambda m: BackTranslation(m, ["image"], ["age"], num_asked=2.5), TypeError, "^num_asked .* got 2.5"),
        (lambda m: BackTranslation(m, ["image"], ["age"], num_rounds=0), ValueError, "^num_rounds .* got 0"),
        (lambda m: BackTranslation(m, ["image"], ["age"], pair_batch="a"), TypeError, "^pair_batch .* 'a'"),
        (lambda m: BackTranslation(m, ["image"], ["age"], pair_weight=None), TypeError, "^pair_weight"),
        (lambda m: BackTranslation(m, ["image"], ["age"], first_weight=-1.0), ValueError, "^first_weight"),
        (lambda m: BackTranslation(m, ["image"], ["age"], pairs={}), TypeError, "^pairs is .* got a dict"),
        (lambda m: BackTranslation(m, ["image"], ["age"], translator=3), TypeError, "^translator .* an? int"),
    ],
)  # fmt: skip
def test_wrong_input_gets_one_sentence_that_names_it(build, error, says):
    with pytest.raises(error, match=says):
        build(make())


def test_samples_that_lack_a_side_are_refused_before_training():
    present = {"age": torch.tensor([True] * 7 + [False])}
    module = MODULES["generate"](make())
    with pytest.raises(ValueError, match="'age' lacks some"):
        train(module, TokenDataset(tokens(), present), steps=1, progress=False)


def test_codes_without_a_place_cannot_carry_a_gradient():
    with pytest.raises(ValueError, match="where codes lie"):
        CycleConsistency(MultimodalTransformer(TABLES, **SMALL), ["x"], ["y"])
    with pytest.raises(TypeError, match="abstract"):
        Unpaired(make(), ["image"], ["age"])
    with pytest.raises(ValueError, match="above 0"):
        straight_through(torch.zeros(2, 3), 0.0)
