"""Tables as tokens: one a column, classes exact, numbers to the nearest quantile, missing cells kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aion_lite.codecs import CodecManager, ScalarCodec
from aion_lite.codecs.table import TableCodec
from aion_lite.data import load_support2
from aion_lite.modalities import Category, Scalar, Table

COLUMNS = (
    Scalar("temp"),
    Category("sex", values=("female", "male")),
    Scalar("crea", transform="log"),
    Scalar("urine", transform="arcsinh", scale=100.0),
)
ROW = Table("row", columns=COLUMNS)


def cells(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.lognormal(size=(n, 4))
    x[:, 1] = rng.integers(0, 2, n)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(rng.random((n, 4)) > 0.3)


@pytest.fixture(scope="module")
def codec():
    return TableCodec(ROW, codebook_size=32).fit(*cells(500))


def test_each_column_gets_the_tokens_of_its_own_quantiles(codec):
    x, present = cells(300, seed=1)
    tokens = codec.encode(x, present)
    assert tokens.shape == (300, 4) and tokens.dtype == torch.int64
    for i, scale in enumerate([lambda x: x, None, np.log, lambda x: np.arcsinh(x / 100)]):
        seen, column = present[:, i].numpy(), x[:, i].double().numpy()
        if scale is None:
            expected = column.astype(int)
        else:
            values = codec.token_spec().parts[COLUMNS[i].name].values.double().numpy()
            expected = np.abs(scale(column)[:, None] - scale(values)).argmin(1)
        np.testing.assert_array_equal(tokens[:, i].numpy()[seen], expected[seen])
        assert (tokens[:, i][~present[:, i]] == 0).all()
    assert torch.equal(codec.token_present(tokens, present), present)


def test_a_column_is_coded_as_it_would_be_alone(codec):
    x, present = cells(500)
    alone = ScalarCodec(COLUMNS[2], 32, 20_000).fit(x[:, 2], present[:, 2])
    assert torch.equal(codec.encode(x, present)[:, 2:3], alone.encode(x[:, 2], present[:, 2]))


@given(order=st.permutations(range(4)))
def test_the_order_of_the_columns_does_not_matter(codec, order):
    x, present = cells(500)
    other = TableCodec(Table("row", columns=[COLUMNS[i] for i in order]), codebook_size=32)
    other.fit(x[:, order], present[:, order])
    assert torch.equal(other.encode(x[:, order], present[:, order]), codec.encode(x, present)[:, order])


@given(value=st.floats(width=32))
def test_what_a_missing_cell_holds_never_matters(codec, value):
    x, present = cells(500)
    gaps = x.where(present, value)
    other = TableCodec(ROW, codebook_size=32).fit(gaps, present)
    assert torch.equal(other.encode(gaps, present), codec.encode(x, present))


def test_every_token_round_trips_and_absent_rows_are_absent(codec):
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry) == (4, 32, "mixed")
    assert list(spec.codebooks("row")) == ["row.temp", "row.sex", "row.crea", "row.urine"]
    assert [part.geometry for part in spec.parts.values()] == ["ordinal", "nominal", "ordinal", "ordinal"]
    every = torch.arange(32)[:, None] % torch.tensor([part.vocab_size for part in spec.parts.values()])
    assert torch.equal(codec.encode(codec.decode(every)), every)
    rows = torch.arange(32) % 2 == 0
    tokens = codec.encode(codec.decode(every), rows)
    assert torch.equal(tokens[rows], every[rows]) and (tokens[~rows] == 0).all()
    assert torch.equal(codec.token_present(tokens, rows), rows)
    assert codec.encode(torch.zeros(0, 4)).shape == (0, 4)


def test_encode_changes_neither_input_nor_codec(codec):
    x, present = cells(50)
    before, state = x.clone(), {name: t.clone() for name, t in codec.state_dict().items()}
    codec.train()
    codec.decode(codec.encode(x, present))
    codec.eval()
    assert torch.equal(x, before)
    assert all(torch.equal(t, state[name]) for name, t in codec.state_dict().items())


# ---- real patients


def test_support2_round_trips(tmp_path):
    data = load_support2().select(["demography", "vitals", "labs"])
    manager = CodecManager([TableCodec(m) for m in data.modalities.values()]).fit(data)
    tokens = manager.encode(data)
    for name, codec in manager.codecs.items():
        x, present = data.values[name], data.present[name]
        assert torch.equal(tokens.present[name], present) and not present.all()
        decoded, parts = codec.decode(tokens.tokens[name]), codec.token_spec().parts
        for i, column in enumerate(codec.modality.columns):
            a, b = x[present[:, i], i].double().numpy(), decoded[present[:, i], i].double().numpy()
            if isinstance(column, Category):
                np.testing.assert_array_equal(a, b)
                continue
            codes = parts[column.name].values.double().numpy()
            assert codes[0] <= a.min() and a.max() <= codes[-1]  # the reservoir has seen them all
            above = np.searchsorted(codes, a).clip(1)
            width = codes[above] - codes[above - 1]  # of the cell between the two codes around a value
            assert (np.abs(a - b) <= width * (1 + 1e-6)).all()
            assert np.abs(a - b).mean() < 0.02 * a.std()
    manager.save_pretrained(tmp_path)
    again = CodecManager.from_pretrained(tmp_path)
    for name, t in again.encode(data).tokens.items():
        assert torch.equal(t, tokens.tokens[name])
        assert torch.equal(again[name].decode(t), manager[name].decode(t))
        assert again[name].modality == data.modalities[name]


# ---- bad input


def without(column):
    x, present = cells(50)
    present[:, column] = False
    return x, present


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (
            lambda c: c.fit(*without(2)),
            ValueError,
            r"Table\('row'\) has no measured cell .* in crea: declare",
        ),
        (lambda c: c.fit(*without([0, 1])), ValueError, "in temp, sex: declare the table without"),
        (lambda c: TableCodec(ROW).encode(cells(3)[0]), RuntimeError, r"Scalar\('temp'\) is not fitted"),
        (lambda c: TableCodec(COLUMNS[0]), TypeError, "needs a Table, got Scalar"),
        (lambda c: c.encode(cells(3)[0][:, :3]), ValueError, r"shape \(B, 4\), got \(3, 3\)"),
        (lambda c: c.encode(-cells(3)[0]), ValueError, "sex|crea"),
        (lambda c: c.decode(torch.zeros(2, 3).long()), ValueError, r"shape \(B, 4\), got \(2, 3\)"),
        (lambda c: c.decode(torch.full((1, 4), 2)), ValueError, r"row.sex must lie in 0\.\.1, got 2"),
        (lambda c: c.loss(torch.zeros(1, 4)), TypeError, "nothing to train by gradient"),
    ],
)
def test_bad_use_is_refused(codec, act, error, says):
    before = {name: t.clone() for name, t in codec.state_dict().items()}
    with pytest.raises(error, match=says):
        act(codec)
    assert all(torch.equal(t, before[name]) for name, t in codec.state_dict().items())
