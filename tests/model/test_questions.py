"""Questions to a model whose modalities have several codebooks: parts, hidden cells, log-scores."""

import pytest
import torch

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer
from aion_lite.training import train


def line(num_codes: int) -> TokenSpec:
    values = torch.linspace(-1.7, 1.7, num_codes)
    return TokenSpec(1, num_codes, "ordinal", values[:, None], values)


FSQ = FiniteScalarQuantizer([4, 3])
LABS = TokenSpec.joined({"glucose": line(8), "sex": TokenSpec(1, 2, "nominal"), "crea": line(5)})
SPECS = {
    "labs": LABS,
    "image": TokenSpec(4, 12, "grid", FSQ.code_features(), levels=(4, 3), grid=(2, 2)),
    "age": line(6),
}


def tokens(num: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    columns = [torch.randint(part.vocab_size, (num, 1), generator=g) for part in LABS.parts.values()]
    rest = {n: torch.randint(s.vocab_size, (num, s.num_tokens), generator=g) for n, s in SPECS.items()}
    return {**rest, "labs": torch.cat(columns, 1)}


@pytest.fixture(scope="module", params=["value", "table"])
def model(request) -> MultimodalTransformer:
    model = MultimodalTransformer(SPECS, d_model=16, nhead=2, num_layers=2, embedding=request.param)
    torch.manual_seed(0)
    for p in model.parameters():  # away from the start, where tokens hardly depend on each other
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    return model.eval()


def test_parts_are_called_by_modality_and_part(model):
    assert list(model.codebooks) == ["labs.glucose", "labs.sex", "labs.crea", "image", "age"]
    assert LABS.num_tokens == 3 and LABS.vocab_size == 8


def test_a_part_is_predicted_over_its_own_codes_from_the_other_columns(model):
    x = tokens()
    p = model.predict(x, "labs.crea")
    assert p.log_probs.shape == (6, 1, 5) and torch.equal(p.values, LABS.parts["crea"].values)
    own, sex = ({**x, "labs": x["labs"].clone()} for _ in range(2))
    own["labs"][:, 2] = (own["labs"][:, 2] + 1) % 5
    sex["labs"][:, 1] = 1 - sex["labs"][:, 1]
    assert torch.equal(model.predict(own, "labs.crea").log_probs, p.log_probs)
    assert not torch.allclose(model.predict(sex, "labs.crea").log_probs, p.log_probs)


def test_hidden_is_the_same_as_not_measured(model):
    x = tokens()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[:, 2] = False
    without = TokenDataset(x, {"labs": present})
    torch.testing.assert_close(
        model.predict(x, "labs.crea").log_probs, model.predict(without, "labs.crea").log_probs
    )


@pytest.mark.parametrize("target", ["labs.glucose", "labs.sex", "age", "image"])
def test_log_prob_is_that_of_the_prediction(model, target):
    x = tokens()
    true = x["labs"][:, ["glucose", "sex"].index(target[5:])][:, None] if "." in target else x[target]
    p = model.predict(x, target)
    torch.testing.assert_close(model.log_prob(x, target).sum(1), p.log_prob(true), rtol=1e-4, atol=1e-5)


def test_log_prob_of_a_whole_table_and_of_what_is_not_measured(model):
    x, present = tokens(), torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    logp = model.log_prob(TokenDataset(x, {"labs": present}), "labs")
    assert logp.shape == (6, 3) and torch.equal(logp.isnan(), ~present)
    # Columns asked together see none of each other.
    rest = {n: t for n, t in x.items() if n != "labs"}
    nothing = TokenDataset({**rest, "labs": x["labs"]}, {"labs": torch.zeros(6, 3, dtype=torch.bool)})
    alone = model.predict(nothing, "labs.sex").log_prob(x["labs"][:, [1]])
    assert alone.shape == (6,) and logp[present].isfinite().all()


def test_generated_columns_stay_in_their_own_codebooks(model):
    drawn = model.generate(tokens(200), "labs", generator=torch.Generator().manual_seed(0)).tokens["labs"]
    assert drawn.max(0).values.tolist() == [7, 1, 4]


# Only what is known is encoded


def some(x: dict[str, torch.Tensor], seed: int = 0) -> TokenDataset:
    """Another selection measured in every sample; nothing in the first, everything in the second."""
    g = torch.Generator().manual_seed(seed)
    present = {n: torch.rand(t.shape, generator=g) < 0.4 for n, t in x.items()}
    for mask in present.values():
        mask[0], mask[1] = False, True
    return TokenDataset(x, present)


def from_every_place(model, data: TokenDataset, hidden: torch.Tensor):
    """The context and its mask when all places enter, known or not."""
    code, present = model.flatten(data.tokens, data.present)
    return model.encode(code, torch.arange(code.shape[1]).expand_as(code), present & ~hidden)


@pytest.mark.parametrize("target", ["labs.crea", "age", "image"])
@pytest.mark.parametrize("rows", [slice(0, 12), slice(0, 1), slice(2, 12)])
def test_leaving_out_places_that_are_not_known_changes_nothing(model, target, rows):
    data = some(tokens(12))[rows]
    asked = model._places(target)
    with torch.no_grad():
        place = asked.nonzero()[:, 0].expand(len(data), -1)
        context = from_every_place(model, data, asked)
        h = model.decode(place, torch.ones_like(place, dtype=torch.bool), *context)
        logp = model.head(h, model.book_T[place])[..., : model.codebooks[target].vocab_size]
        every, mask = from_every_place(model, data, torch.zeros_like(asked))
    torch.testing.assert_close(model.predict(data, target).log_probs, logp, rtol=0, atol=1e-5)
    each, seen = model.embed(data, pool=None)
    assert torch.equal(seen, mask[:, 0, 0]) and each.shape == every.shape
    torch.testing.assert_close(each[seen], every[seen], rtol=0, atol=1e-5)
    assert (each[~seen] == 0).all()


def widths_of(model, act) -> tuple[set[int], list[int]]:
    """How many tokens enter the first block of encoder and decoder, call by call."""
    seen = {"encoder": [], "decoder": []}
    hooks = [
        getattr(model, part)[0].register_forward_pre_hook(
            lambda _, x, part=part: seen[part].append(x[0].shape[1])
        )
        for part in seen
    ]
    act()
    for hook in hooks:
        hook.remove()
    return seen["encoder"], seen["decoder"]


def test_cost_follows_what_is_known_and_asked(model):
    x = tokens(5)
    labs, register = {"labs": x["labs"]}, 1
    assert widths_of(model, lambda: model.predict(labs, "age")) == ([3 + register], [1])
    assert widths_of(model, lambda: model.predict(x, "labs.sex")) == ([7 + register], [1])
    assert widths_of(model, lambda: model.embed({"age": x["age"]})) == ([1 + register], [])
    # Three steps of 1, 1 and 2 of the image's tokens, each after those before it.
    grows = widths_of(model, lambda: model.generate(labs, "image", num_steps=3))
    assert grows == ([3 + register, 4 + register, 5 + register], [1, 1, 2])


@pytest.mark.parametrize("target", ["labs", "labs.weight", "lab", ""])
def test_a_question_without_an_answer_says_what_to_ask(model, target):
    with pytest.raises(ValueError, match=r"labs\.glucose|knows no modality"):
        model.predict(tokens(), target)


def test_codes_of_a_column_outside_its_own_codebook_are_refused(model):
    x = tokens()
    x["labs"][0, 1] = 2  # within the table's largest codebook, not within that of sex
    with pytest.raises(ValueError, match="another codec"):
        model.predict(x, "age")


def test_a_model_of_tables_is_saved_whole(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = MultimodalTransformer.from_pretrained(tmp_path)
    assert again.specs == model.specs and list(again.codebooks) == list(model.codebooks)
    for target in model.codebooks:
        mine, theirs = (m.predict(tokens(), target) for m in (model, again))
        assert torch.equal(mine.log_probs, theirs.log_probs)
        assert mine.values is None or torch.equal(mine.values, theirs.values)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_samples_is_refused(model, batch_size):
    for ask in (model.predict, model.log_prob):
        with pytest.raises(ValueError, match="batch_size is a number of samples, 1 or more"):
            ask(tokens(), "age", batch_size=batch_size)
    with pytest.raises(ValueError, match="batch_size"):
        model.embed(tokens(), batch_size=batch_size)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16], ids=str)
def test_codes_of_any_integers_are_those_of_int64(model, dtype):
    x, narrow = tokens(), {name: code.to(dtype) for name, code in tokens().items()}
    assert torch.equal(model.log_prob(narrow, "image"), model.log_prob(x, "image"))
    drawn, loss = [], []
    for given in (narrow, x):
        drawn.append(model.generate(given, "image", generator=torch.Generator().manual_seed(0)))
        loss.append(model.loss(given, generator=torch.Generator().manual_seed(0))[0])
    assert torch.equal(*(d.tokens["image"] for d in drawn)) and torch.equal(*loss)


@pytest.mark.parametrize("embedding", ["value", "table"])
def test_it_learns_that_one_column_is_a_function_of_another(embedding):
    labs = tokens(256)["labs"]
    labs[:, 1] = labs[:, 0] % 2
    model = MultimodalTransformer({"labs": LABS}, d_model=32, nhead=2, num_layers=2, embedding=embedding)
    train(model, TokenDataset({"labs": labs}), steps=200, lr=5e-3, progress=False, device="cpu")
    p = model.predict({"labs": labs}, "labs.sex")
    assert float((p.probabilities.argmax(-1) == labs[:, 1]).float().mean()) > 0.95
