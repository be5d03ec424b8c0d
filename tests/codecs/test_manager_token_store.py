"""CodecManager: tokens encoded to disk are those in memory, and only for the codecs that made them."""

import pyarrow as pa
import pytest
import torch
from four_modalities import MODALITIES, assert_same_tokens, dataset, one_more

from aion_lite.codecs import CodecManager, ImageCodec, ScalarCodec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Category, Image


def test_a_data_set_encoded_to_disk_is_the_one_encoded_in_memory(manager, tmp_path):
    data = dataset(n=301, seed=4)
    store = manager.encode_dataset(data, tmp_path / "tokens", batch_size=64)
    assert len(store) == 301
    assert_same_tokens(store[:], manager.encode(data))
    by_parts = manager.encode_dataset((data[i : i + 150] for i in (0, 150, 300)), tmp_path / "parts")
    assert by_parts.checksum == store.checksum
    assert_same_tokens(by_parts[:], store[:])
    kinds = {n: str(f.type.value_type) for n, f in arrow_columns(tmp_path / "tokens").items()}
    assert kinds == {"values": "uint16", "mass of star": "uint16", "type": "uint8", "train": "uint16"}


def arrow_columns(folder):
    with pa.memory_map(str(folder / "tokens.arrow")) as source:
        schema = pa.ipc.open_stream(source).schema
    return {f.name.removeprefix("tokens/"): f for f in schema if f.name.startswith("tokens/")}


def test_tokens_on_disk_are_read_by_the_codecs_that_made_them(manager, tmp_path):
    data = dataset(seed=4)
    manager.encode_dataset(data, tmp_path / "tokens")
    manager.save_pretrained(tmp_path)
    again = CodecManager.from_pretrained(tmp_path)
    assert_same_tokens(again.load_dataset(tmp_path / "tokens")[:], manager.encode(data))


def fitted_anew():
    return CodecManager(MODALITIES).fit(dataset(seed=1))


def of_another_size():
    return CodecManager([ScalarCodec(MODALITIES[0], codebook_size=7), *MODALITIES[1:]]).fit(dataset())


def other_classes():
    kinds = Category("type", values=("E", "S", "SB"))
    other = [kinds if m.name == "type" else m for m in MODALITIES]
    return CodecManager(other).fit(dataset(modalities=other))


def with_one_missing():
    return CodecManager(MODALITIES[:-1]).fit(dataset().select([m.name for m in MODALITIES[:-1]]))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (fitted_anew, "Tokens of 'values' in .* were made by another codec than this manager's"),
        (of_another_size, "Tokens of 'values' in .* by another codec"),
        (other_classes, "Tokens of 'type' in .* by another codec"),
        (with_one_missing, "No codec for 'train'"),
    ],
)
def test_tokens_of_other_codecs_are_refused(manager, tmp_path, other, says):
    manager.encode_dataset(dataset(), tmp_path)
    with pytest.raises(ValueError, match=says):
        other().load_dataset(tmp_path)


def test_a_codec_fitted_further_has_other_tokens(manager, tmp_path):
    manager.encode_dataset(dataset(), tmp_path)
    manager.fit(dataset(seed=1))
    with pytest.raises(ValueError, match="before it was fitted anew: encode the data again"):
        manager.load_dataset(tmp_path)


def test_the_arguments_of_a_codec_count_where_its_weights_are_the_same(tmp_path):
    image = Image("image", channels=1, size=8)
    plain, compressed = (ImageCodec(image, [3, 3], 4, 8, 1, 1, compression=c) for c in (None, 0.01))
    compressed.load_state_dict(plain.state_dict())
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    CodecManager([plain]).encode_dataset(MultimodalDataset([image], {"image": x}), tmp_path)
    assert len(CodecManager([plain]).load_dataset(tmp_path)) == 5
    with pytest.raises(ValueError, match=r"'image' in .* by another codec"):
        CodecManager([compressed]).load_dataset(tmp_path)


def test_nothing_to_encode_is_refused(manager, tmp_path):
    with pytest.raises(ValueError, match="no data set to encode"):
        manager.encode_dataset([], tmp_path)
    for none in (0, -1):
        with pytest.raises(ValueError, match="batch_size is a number of samples, 1 or more"):
            manager.encode_dataset(one_more(), tmp_path, batch_size=none)
    with pytest.raises(ValueError, match="No codec for 'redshift'"):
        manager.encode_dataset(one_more(), tmp_path)
