"""TokenStore: what was written comes back whole, in any order; training from disk is bit-equal."""

import json
import math
import threading

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_lite.codecs import TokenSpec
from aion_lite.data.token_store import TokenStore, batches, pieces
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.passes import batch_rows
from aion_lite.training import evaluate_loss, train

# One modality for each kind of integer; "row" has single tokens missing, whose bits fill no whole byte.
VOCAB_SIZES = {"image": 4375, "row": 256, "word": 70_000, "age of/star": 9}
WIDTHS = {"image": 6, "row": 3, "word": 1, "age of/star": 1}
NUM_SAMPLES = 53


def make(num_samples: int = NUM_SAMPLES, seed: int = 0) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    tokens = {n: torch.randint(v, (num_samples, WIDTHS[n]), generator=g) for n, v in VOCAB_SIZES.items()}
    for name, codes in tokens.items():  # the ends of each range
        codes[0], codes[-1] = VOCAB_SIZES[name] - 1, 0
    present = {n: torch.rand(num_samples, generator=g) < 0.6 for n in ("image", "word")}
    present["row"] = torch.rand(num_samples, 3, generator=g) < 0.6
    return TokenDataset(tokens, present)


TOKENS = make()


def parts(tokens: TokenDataset, *sizes: int):
    """Batches of these sizes and the rest."""
    ends = [*np.cumsum(sizes), len(tokens)]
    return (tokens[i:j] for i, j in zip([0, *ends[:-1]], ends, strict=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return TokenStore.write(tmp_path_factory.mktemp("store"), parts(TOKENS, 7, 16, 1), VOCAB_SIZES)


def assert_same(a: TokenDataset, b: TokenDataset) -> None:
    assert list(a.tokens) == list(b.tokens) and len(a) == len(b)
    for name in a.tokens:
        assert a.tokens[name].dtype == torch.int64
        assert torch.equal(a.tokens[name], b.tokens[name]) and torch.equal(a.present[name], b.present[name])


def test_all_of_it_comes_back(store):
    assert len(store) == NUM_SAMPLES
    assert_same(store[:], TOKENS)
    assert_same(TokenStore(store.folder)[:], TOKENS)


def test_datasets_reads_the_same_file(store):
    """The oracle is another reader: its columns, in the smallest types, hold the same numbers."""
    theirs = datasets.Dataset.from_file(str(store.folder / "tokens.arrow"))
    kinds = {n.removeprefix("tokens/"): f.feature.dtype for n, f in theirs.features.items() if "tokens/" in n}
    assert kinds == {"image": "uint16", "row": "uint8", "word": "int32", "age of/star": "uint8"}
    for name in VOCAB_SIZES:
        assert theirs[f"tokens/{name}"][:] == TOKENS.tokens[name].tolist()
        assert theirs[f"present/{name}"][:] == TOKENS.present[name].tolist()


@given(rows=st.lists(st.integers(-NUM_SAMPLES, NUM_SAMPLES - 1), max_size=80))
@settings(max_examples=60, deadline=None)
def test_rows_in_any_order_are_those_of_memory(store, rows):
    rows = torch.tensor(rows, dtype=torch.int64)
    assert_same(store[rows], TOKENS[rows])


@pytest.mark.parametrize(
    "rows",
    [
        slice(3, 30), slice(None, None, 5), slice(40, 10), slice(-4, None), 0, -1, [5, 2, 2],
        np.array([52, 0]), torch.arange(NUM_SAMPLES) % 3 == 0, np.arange(NUM_SAMPLES) % 7 == 2,
        torch.tensor([], dtype=torch.int64),
    ],
)  # fmt: skip
def test_every_way_to_name_rows(store, rows):
    assert_same(store[rows], TOKENS[rows])


def test_a_loop_gives_every_sample_once(store):
    assert [int(one.tokens["word"]) for one in store] == TOKENS.tokens["word"][:, 0].tolist()


def test_fewer_modalities_of_the_same_samples(store):
    part = store.select(["row", "word"])
    assert_same(part[[4, 1]], TOKENS.select(["row", "word"])[[4, 1]])
    assert part.checksum != store.checksum


def test_the_checksum_is_that_of_the_tokens_and_not_of_their_batches(store, tmp_path):
    again = TokenStore.write(tmp_path / "a", parts(TOKENS, 31), VOCAB_SIZES)
    assert again.checksum == store.checksum
    for name, place in (("tokens", (20, 0)), ("present", (20,))):
        other = make()
        named = getattr(other, name)["image"]
        named[place] = ~named[place] if name == "present" else (named[place] + 1) % 4375
        assert TokenStore.write(tmp_path / name, [other], VOCAB_SIZES).checksum != store.checksum


# Batches of a run


def orders(num_steps: int, batch_size: int = 8) -> list[torch.Tensor]:
    return [batch_rows(NUM_SAMPLES, batch_size, 3, step) for step in range(num_steps)]


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 20])
def test_batches_from_disk_are_those_from_memory(store, num_steps):
    from_disk, from_memory = (list(batches(data, orders(num_steps))) for data in (store, TOKENS))
    assert len(from_disk) == len(from_memory) == num_steps
    for a, b in zip(from_disk, from_memory, strict=True):
        assert_same(a, b)


def test_a_stream_that_is_left_ends_its_thread(store):
    stream = batches(store, orders(20))
    next(stream)
    assert any("tokens" in t.name for t in threading.enumerate())
    stream.close()
    assert not any("tokens" in t.name for t in threading.enumerate())


def test_an_error_of_the_other_thread_arrives(store):
    with pytest.raises(IndexError, match=r"There are 53 samples, asked were rows 0\.\.53"):
        list(batches(store, [torch.tensor([0, 53])]))


def test_pieces_hold_everything_once(store):
    cut = list(pieces(store, size=20))
    assert [len(piece) for piece in cut] == [20, 20, 13]
    assert torch.equal(torch.cat([piece.tokens["image"] for piece in cut]), TOKENS.tokens["image"])
    assert next(iter(pieces(TOKENS))) is TOKENS


# Training


SPECS = {
    name: TokenSpec(WIDTHS[name], VOCAB_SIZES[name], "nominal") for name in ("image", "row", "age of/star")
}


def model() -> MultimodalTransformer:
    return MultimodalTransformer(SPECS, d_model=8, nhead=2, num_layers=1, dropout=0.1)


def run(data, **kwargs):
    module = model()
    history = train(
        module, data, **{"batch_size": 8, "progress": False, "device": "cpu", "log_every": 1, **kwargs}
    )
    return torch.cat([p.detach().flatten() for p in module.parameters()]), history.records


def test_a_model_trained_from_disk_is_bit_equal(store):
    """Over more than two passes, with validation from disk too, stopped early as the other one is."""
    kwargs = {"steps": 18, "seed": 5, "validate_every": 4, "patience": 2, "lr": 0.1}
    data = {"disk": store.select(list(SPECS)), "memory": TOKENS.select(list(SPECS))}
    runs = {name: run(x, validation=x, **kwargs) for name, x in data.items()}
    assert torch.equal(runs["disk"][0], runs["memory"][0]) and runs["disk"][1] == runs["memory"][1]
    other, _ = run(data["disk"], **{**kwargs, "seed": 6})
    assert not torch.equal(other, runs["disk"][0])


def test_a_score_from_disk_is_bit_equal(store):
    module = model()
    values = {evaluate_loss(module, x.select(list(SPECS)), batch_size=9) for x in (store, TOKENS)}
    assert len(values) == 1 and math.isfinite(*values)


def test_a_run_from_disk_is_resumed_and_another_store_is_refused(store, tmp_path):
    data = store.select(list(SPECS))
    whole, records = run(data, steps=9)

    def stop(step, module):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, steps=9, checkpoint=tmp_path / "run", on_step=stop)
    other = TokenStore.write(tmp_path / "other", [make(seed=1)], VOCAB_SIZES).select(list(SPECS))
    with pytest.raises(ValueError, match=r"other settings.*'data'"):
        run(other, steps=9, checkpoint=tmp_path / "run")
    resumed, again = run(data, steps=9, checkpoint=tmp_path / "run")
    assert torch.equal(resumed, whole) and again == records


def test_tokens_of_another_codec_are_refused_wherever_they_lie(tmp_path):
    codes = torch.zeros(9000, 3, dtype=torch.int64)  # more than one piece
    good = TokenDataset({"row": codes.clone()})
    codes[8999, 1] = 255
    bad = TokenStore.write(tmp_path, [TokenDataset({"row": codes})], {"row": 256})
    module = MultimodalTransformer({"row": TokenSpec(3, 255, "nominal")}, d_model=8, nhead=2, num_layers=1)
    for data, validation in ((bad, None), (good, bad)):
        with pytest.raises(ValueError, match=r"'row'.*another codec"):
            train(module, data, steps=1, validation=validation, progress=False, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_the_gpu(store):
    from_disk = list(batches(store, orders(20), "cuda"))
    assert all(t.is_cuda for batch in from_disk for t in (*batch.tokens.values(), *batch.present.values()))
    for a, b in zip(from_disk, batches(TOKENS, orders(20)), strict=True):
        assert_same(a.to("cpu"), b)
    assert store.to("cuda")[3].tokens["word"].is_cuda


# Bad use


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (53, IndexError, r"53 samples, asked were rows 53\.\.53"),
        (torch.tensor([0, -54]), IndexError, r"rows -54\.\.0"),
        (torch.tensor([0.5]), TypeError, r"integers \(B,\) or a mask of all, got float32"),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, r"got int64 \(2, 2\)"),
        (torch.ones(52, dtype=torch.bool), TypeError, r"mask of all, got bool \(52,\)"),
    ],
)
def test_rows_that_are_not_there_are_refused(store, rows, error, says):
    with pytest.raises(error, match=says):
        store[rows]


def wide() -> TokenDataset:
    return TokenDataset({"x": torch.zeros(3, 2).long()})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([TokenDataset({"x": torch.tensor([[4]])})], r"Tokens of 'x' must lie in 0\.\.3, got 4\.\.4"),
        ([TokenDataset({"x": torch.tensor([[-1]])})], r"got -1\.\.-1"),
        ([TokenDataset({"y": torch.tensor([[0]])})], r"Expected tokens of \['x'\], got \['y'\]"),
        ([wide(), TokenDataset({"x": torch.zeros(3, 1).long()})], "same shapes"),
        ([wide(), TokenDataset(wide().tokens, {"x": torch.ones(3, 2) > 0})], "same shapes"),
        ([], "no sample to write"),
        ([wide()[:0]], "no sample to write"),
    ],
)
def test_bad_batches_are_refused_and_leave_what_was_there(tmp_path, made, says):
    TokenStore.write(tmp_path, [wide()], {"x": 4})
    with pytest.raises(ValueError, match=says):
        TokenStore.write(tmp_path, made, {"x": 4})
    assert_same(TokenStore(tmp_path)[:], wide())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["tokens.arrow", "tokens.json"]


def test_a_store_is_replaced_while_another_still_reads_the_old_one(tmp_path):
    old = TokenStore.write(tmp_path, [TOKENS], VOCAB_SIZES)
    new = TokenStore.write(tmp_path, [make(9, seed=1)], VOCAB_SIZES)
    assert_same(old[:], TOKENS)
    assert_same(new[:], make(9, seed=1))


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokens\.json is missing: give the folder"):
        TokenStore(tmp_path)
    TokenStore.write(tmp_path, [TOKENS], VOCAB_SIZES)
    description, arrow = tmp_path / "tokens.json", tmp_path / "tokens.arrow"
    whole, data = description.read_text(), arrow.read_bytes()
    description.write_text(whole[:50])
    with pytest.raises(ValueError, match=r"tokens\.json is damaged"):
        TokenStore(tmp_path)
    for other in ("[]", json.dumps({**json.loads(whole), "format": 0})):
        description.write_text(other)
        with pytest.raises(ValueError, match="not of format 1"):
            TokenStore(tmp_path)
    description.write_text(whole)
    arrow.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"tokens\.arrow is missing or cut short"):
        TokenStore(tmp_path)
    arrow.write_bytes(b"\x07" * len(data))
    with pytest.raises(ValueError, match=r"tokens\.arrow is damaged"):
        TokenStore(tmp_path)
    arrow.unlink()
    with pytest.raises(ValueError, match="is missing or cut short"):
        TokenStore(tmp_path)


def test_a_folder_that_cant_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Can't write tokens to .*file.*: choose another folder"):
        TokenStore.write(tmp_path / "file", [TOKENS], VOCAB_SIZES)


def test_a_damaged_description_or_file_says_so(tmp_path):
    batch = TokenDataset({"x": torch.arange(2000).reshape(1000, 2) % 50})
    TokenStore.write(tmp_path / "store", [batch], {"x": 50})
    arrow, about = tmp_path / "store" / "tokens.arrow", tmp_path / "store" / "tokens.json"
    whole, description = arrow.read_bytes(), json.loads(about.read_text())
    arrow.write_bytes(b"\xff" * 200 + whole[200:])
    with pytest.raises(ValueError, match=r"tokens.arrow is damaged .*: copy the folder again"):
        TokenStore(tmp_path / "store")
    arrow.write_bytes(whole)
    about.write_text('{"format": 1}')
    with pytest.raises(ValueError, match="is not of format 1"):
        TokenStore(tmp_path / "store")
    about.write_text(json.dumps({**description, "num_samples": 999}))
    with pytest.raises(ValueError, match=r"tokens.arrow and tokens.json are not of one store"):
        TokenStore(tmp_path / "store")
    about.write_text(json.dumps({**description, "vocab_sizes": {"y": 50}}))
    with pytest.raises(ValueError, match=r"tokens.arrow and tokens.json are not of one store"):
        TokenStore(tmp_path / "store")


def test_a_file_damaged_anywhere_is_refused_in_a_sentence_or_read(tmp_path):
    TokenStore.write(tmp_path, [TOKENS], VOCAB_SIZES)
    arrow = tmp_path / "tokens.arrow"
    whole, refused = arrow.read_bytes(), 0
    for start in range(0, len(whole), 24):
        arrow.write_bytes((whole[:start] + b"\xff" * 8 + whole[start + 8 :])[: len(whole)])
        try:
            TokenStore(tmp_path)[:]
        except ValueError as error:
            assert "copy the folder again" in str(error)
            refused += 1
    assert refused > 10


def test_a_source_that_cant_be_read_is_not_called_a_folder_that_cant_be_written(tmp_path):
    def source():
        yield TOKENS[:5]
        raise FileNotFoundError("images.fits is gone")

    with pytest.raises(FileNotFoundError, match=r"^images.fits is gone$"):
        TokenStore.write(tmp_path, source(), VOCAB_SIZES)
