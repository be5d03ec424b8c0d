"""CodecManager: all codecs of a data set fitted, applied, saved in AION's layout and read back bit by bit."""

import json

import numpy as np
import pytest
import torch
from four_modalities import MODALITIES, assert_same_tokens, dataset, one_more
from torch import nn

from aion_lite.codecs import CategoryCodec, Codec, CodecManager, ScalarCodec, TokenSpec
from aion_lite.data import MultimodalDataset, load_sdss_galaxies
from aion_lite.modalities import Category, Image, Modality, Scalar, Spectrum, Table
from aion_lite.quantizers import FiniteScalarQuantizer


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_each_declaration_gets_its_codec_under_its_name(manager):
    assert list(manager) == list(manager.codecs) == [m.name for m in MODALITIES] and len(manager) == 4
    kinds = [ScalarCodec, ScalarCodec, CategoryCodec, ScalarCodec]
    assert [type(manager[m.name]) for m in MODALITIES] == kinds
    assert sum(1 for _ in manager.buffers()) == 9  # three of each scalar's quantizer


def test_declarations_and_codecs_may_be_mixed():
    mine = ScalarCodec(MODALITIES[0], codebook_size=7)
    manager = CodecManager([mine, *MODALITIES[1:]]).fit(dataset())
    assert manager["values"] is mine and mine.vocab_size == 7
    assert len(CodecManager(dataset().modalities)) == 4


def test_tokens_decode_to_the_nearest_value(manager):
    data = dataset()
    tokens = manager.encode(data)
    assert {n: t.shape for n, t in tokens.tokens.items()} == {m.name: (300, 1) for m in MODALITIES}
    decoded = manager.decode(tokens)
    for name, present in data.present.items():
        assert torch.equal(tokens.present[name], present) and (tokens.tokens[name][~present] == 0).all()
        x, y = data.values[name][present].float(), decoded[name][present].float()
        torch.testing.assert_close(y, x, rtol=0.05, atol=0.01)
    seen = data.present["type"]
    assert torch.equal(manager.decode({"type": tokens.tokens["type"]})["type"][seen], decoded["type"][seen])


def test_saved_in_aions_layout_and_read_back_bit_equal(manager, tmp_path):
    manager.save_pretrained(tmp_path)
    expected = [f"codecs/{m.name}/{f}" for m in MODALITIES for f in ("config.json", "model.safetensors")]
    written = files(tmp_path)
    assert sorted(f for f in written if "README" not in f) == sorted([*expected, "codecs/codecs.json"])
    again = CodecManager.from_pretrained(tmp_path)
    assert [again[n].modality for n in again] == MODALITIES
    new = dataset(seed=1)
    assert_same_tokens(again.encode(new), manager.encode(new))
    assert_same_tokens(again.fit(new).encode(new), manager.fit(new).encode(new))  # the stream goes on too


def test_no_pickle_is_ever_written(manager, tmp_path):
    manager.save_pretrained(tmp_path)
    assert {f.rsplit(".")[-1] for f in files(tmp_path)} <= {"json", "safetensors", "md"}


def test_saving_twice_is_saving_the_second(manager, tmp_path):
    CodecManager(MODALITIES).save_pretrained(tmp_path)
    manager.save_pretrained(tmp_path)
    assert_same_tokens(CodecManager.from_pretrained(tmp_path).encode(dataset()), manager.encode(dataset()))


def test_encode_changes_neither_data_nor_codecs(manager):
    data = dataset(seed=2)
    before = {n: v.clone() for n, v in data.values.items()}, [b.clone() for b in manager.buffers()]
    manager.train()
    manager.encode(data)
    assert all(torch.equal(data.values[n], v) for n, v in before[0].items())
    assert all(torch.equal(a, b) for a, b in zip(manager.buffers(), before[1], strict=True))


def test_real_galaxies_lose_less_than_their_errors():
    galaxies = load_sdss_galaxies()
    manager = CodecManager(galaxies.modalities).fit(galaxies)
    decoded = manager.decode(manager.encode(galaxies))
    for band in "ugrizJHK":
        present = galaxies.present[band]
        lost = (decoded[band] - galaxies.values[band])[present].abs().median().item()
        assert lost < 0.1 * np.nanmedian(galaxies.info[f"{band}_err"])


# ---- codecs of one's own


class FluxCodec(Codec):
    """A spectrum as ``width`` tokens of two finite scalars each."""

    def __init__(self, modality: Spectrum, width: int = 4):
        super().__init__()
        self.modality, self.width = modality, width
        self.quantizer = FiniteScalarQuantizer([5, 5])
        self.inner, self.outer = (
            nn.Linear(modality.shape[0], 2 * width),
            nn.Linear(2 * width, modality.shape[0]),
        )

    def _encode(self, x, present):
        return self.inner(x).reshape(len(x), 2, self.width)

    def _decode(self, z):
        return self.outer(z.flatten(1))

    def token_spec(self):
        return TokenSpec(self.width, 25, "grid", self.quantizer.code_features(), levels=(5, 5))

    def loss(self, x):
        return (self._decode(self.quantizer.quantize(self._encode(x))) - x).square().mean(), {}


class UnannotatedCodec(FluxCodec):
    def __init__(self, modality, width=3):
        super().__init__(modality, width)


class LooselyAnnotatedCodec(FluxCodec):
    def __init__(self, modality: Modality, width: int = 3):
        super().__init__(modality, width)


class RowCodec(FluxCodec):
    """Of a Table, whose declaration holds declarations."""

    def __init__(self, modality: Table, width: int = 2):
        super().__init__(modality, width)


SKY = Spectrum("sky", wavelength=(1.0, 2.0, 4.0))
ROW = Table("row", columns=(Scalar("a"), Scalar("b", transform="log")))


@pytest.mark.parametrize(
    "codec",
    [FluxCodec(SKY, width=5), UnannotatedCodec(SKY), LooselyAnnotatedCodec(SKY), RowCodec(ROW)],
    ids=lambda codec: type(codec).__name__,
)
def test_a_codec_of_ones_own_round_trips(codec, tmp_path):
    x = torch.rand(20, *codec.modality.shape) + 0.1
    data = MultimodalDataset(
        [codec.modality, MODALITIES[0]],
        {codec.modality.name: x, "values": x[:, 0]},
        {codec.modality.name: torch.arange(20) > 3},
    )
    manager = CodecManager([codec, MODALITIES[0]]).fit(data)
    manager.save_pretrained(tmp_path)
    again = CodecManager.from_pretrained(tmp_path)
    mine = again[codec.modality.name]
    assert type(mine) is type(codec) and mine.modality == codec.modality and mine.width == codec.width
    tokens = manager.encode(data)
    assert tokens.tokens[codec.modality.name].shape == (20, codec.width)
    assert (tokens.tokens[codec.modality.name][:4] == 0).all()  # absent
    assert_same_tokens(again.encode(data), tokens)
    decoded = again.decode(tokens)[codec.modality.name]
    assert torch.equal(decoded[4:], manager.decode(tokens)[codec.modality.name][4:])
    assert decoded.shape == x.shape and decoded[:4].isnan().all()


# ---- bad input


def all_missing():
    present = {"values": torch.zeros(300, dtype=torch.bool)}
    data = dataset()
    return MultimodalDataset(MODALITIES, data.values, {**data.present, **present})


def test_a_modality_never_measured_cant_be_fitted_but_can_be_encoded(manager):
    with pytest.raises(ValueError, match=r"Scalar\('values'\) has no measured sample"):
        CodecManager(MODALITIES).fit(all_missing())
    tokens = manager.encode(all_missing())
    assert not tokens.present["values"].any() and (tokens.tokens["values"] == 0).all()


def test_one_sample_is_enough():
    data = MultimodalDataset(MODALITIES[:1], {"values": [3.25]})
    manager = CodecManager(data.modalities).fit(data)
    assert manager.decode(manager.encode(data))["values"].tolist() == [3.25]


def other_unit():
    return dataset(modalities=[Scalar("values", unit="F"), *MODALITIES[1:]])


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda m: CodecManager(MODALITIES).encode(dataset()), RuntimeError, "not fitted"),
        (lambda m: m.encode(one_more()), ValueError, "No codec for 'redshift'; there are codecs for"),
        (lambda m: m.encode(other_unit()), ValueError, "codec is for .*unit='K'.* declares .*unit='F'"),
        (lambda m: m.fit(other_unit()), ValueError, "codec is for .*unit='K'.* declares .*unit='F'"),
        (lambda m: m.fit(dataset().select(["type"])), ValueError, "codec is for .*'values'.* declares None"),
        (lambda m: m["redshift"], ValueError, "No codec for 'redshift'"),
        (lambda m: m.decode({"redshift": torch.zeros(1, 1).long()}), ValueError, "No codec for 'redshift'"),
        (lambda m: CodecManager([MODALITIES[0], MODALITIES[0]]), ValueError, "must differ"),
        (lambda m: CodecManager([Image("xray")]), TypeError, r"Image\('xray'\) has no default codec"),
    ],
)
def test_bad_use_is_refused(manager, act, error, says):
    with pytest.raises(error, match=says):
        act(manager)


def test_bad_folders_are_refused(manager, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"codecs\.json is missing"):
        CodecManager.from_pretrained(tmp_path)
    manager.save_pretrained(tmp_path)
    index = tmp_path / "codecs" / "codecs.json"
    whole = index.read_text()
    index.write_text(whole[:20])
    with pytest.raises(ValueError, match=r"codecs\.json is damaged"):
        CodecManager.from_pretrained(tmp_path)
    index.write_text(json.dumps({"values": "SmellCodec"}))
    with pytest.raises(ValueError, match="'values' is a SmellCodec, which is not defined: import"):
        CodecManager.from_pretrained(tmp_path)
    for nothing in ("[]", "{}", "null"):
        index.write_text(nothing)
        with pytest.raises(ValueError, match=r"codecs\.json names no codecs"):
            CodecManager.from_pretrained(tmp_path)
    index.write_text(whole)
    weights = tmp_path / "codecs" / "values" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"values/model\.safetensors is damaged or cut short"):
        CodecManager.from_pretrained(tmp_path)


def test_a_folder_that_cant_be_written_to_is_refused(manager, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Can't save the codec to .*file.*: choose another folder"):
        manager.save_pretrained(tmp_path / "file")


def test_an_interrupted_save_is_not_taken_for_a_whole_one(manager, tmp_path, monkeypatch):
    monkeypatch.setattr(CategoryCodec, "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        manager.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"codecs\.json is missing"):
        CodecManager.from_pretrained(tmp_path)


def test_what_was_absent_decodes_to_nothing():
    data = MultimodalDataset(
        [Scalar("x"), Category("c", values=("a", "b"))],
        {"x": torch.arange(4.0), "c": torch.tensor([0, 1, 1, 0])},
        {"x": torch.tensor([True, False, True, True]), "c": torch.tensor([True, True, True, False])},
    )
    manager = CodecManager(data.modalities).fit(data)
    decoded = manager.decode(manager.encode(data))
    assert torch.isnan(decoded["x"]).tolist() == [False, True, False, False]
    assert decoded["c"].tolist() == [0, 1, 1, -1]


def test_fitting_changes_no_codec_where_one_was_never_measured():
    absent = {"b": torch.zeros(2, dtype=torch.bool)}
    data = MultimodalDataset([Scalar("a"), Scalar("b")], {"a": [1.0, 2.0], "b": [0.0, 0.0]}, absent)
    codecs = CodecManager(list(data.modalities.values()))
    with pytest.raises(ValueError, match="has no measured sample to be fitted on"):
        codecs.fit(data)
    assert int(codecs["a"].quantizer.num_seen) == 0


def test_a_folder_that_holds_another_modality_s_codec_is_refused(tmp_path):
    a, b = (CategoryCodec(Category(name, values=("x", "y"))) for name in "ab")
    CodecManager([a, b]).save_pretrained(tmp_path)
    a.save_pretrained(tmp_path / "codecs" / "b")
    with pytest.raises(ValueError, match=r"codecs/b holds the codec of Category\('a'\)"):
        CodecManager.from_pretrained(tmp_path)
