"""Text as tokens: the library's own ids and strings, any text there and back, the saved tokenizer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers

from aion_lite.codecs.manager import CodecManager
from aion_lite.codecs.text import TextCodec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Scalar, Text

NAME = Text("name", max_length=24)
TEXTS = ["a red heart", "a blue heart", "two hearts", "a red rose", "a hot cup of tea", "naïve 茶 ❤️ [SEP]"]


@pytest.fixture(scope="module")
def codec():
    return TextCodec(NAME, vocab_size=320).fit(TEXTS)


@pytest.fixture
def wordpiece(tmp_path):
    """A tokenizer as BERT has: lossy, with special tokens, cutting and padding on its own account."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "heart", "##s", "a", "[", "]", "se", "##p"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:4])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_ids_are_those_of_the_librarys_own_byte_level_pair_encoding(codec):
    library = ByteLevelBPETokenizer()
    library.train_from_iterator(TEXTS, vocab_size=319, min_frequency=0, show_progress=False)
    tokens = codec.encode(TEXTS)
    assert tokens.shape == (6, 24) and tokens.dtype == torch.int64
    for row, text in zip(tokens, TEXTS, strict=True):
        ids = library.encode(text).ids
        assert row.tolist() == [i + 1 for i in ids] + [0] * (24 - len(ids))
    assert codec.vocab_size == library.get_vocab_size() + 1


def test_a_pretrained_tokenizer_gives_its_own_ids_and_strings(wordpiece):
    library = Tokenizer.from_file(str(wordpiece / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    for path in (wordpiece, wordpiece / "tokenizer.json"):
        codec = TextCodec(NAME, tokenizer=str(path)).fit(["nothing to learn"])
        ids = library.encode("a red heart s tea", add_special_tokens=False).ids
        tokens = codec.encode(["a red heart s tea"])
        assert tokens[0, : len(ids) + 1].tolist() == [i + 1 for i in ids] + [0] and len(ids) == 5
        assert codec.decode(tokens) == [library.decode(ids)]
    assert codec.vocab_size == 13


def test_special_tokens_neither_enter_by_a_text_nor_show_in_one(wordpiece):
    codec = TextCodec(NAME, tokenizer=str(wordpiece))
    assert codec.encode(["[sep]"])[0, :5].tolist() == [9, 11, 12, 10, 0]  # [ se ##p ]
    assert 4 not in codec.encode(["red [SEP] heart"])
    every = torch.tensor([[5, 1, 2, 3, 4, 6, *[0] * 18]])
    assert codec.decode(every).tolist() == ["red heart"]


@given(st.text(max_size=24))
def test_any_text_that_fits_comes_back(codec, text):
    tokens = codec.encode([text])
    fits = len(text.encode()) <= 24
    assert not fits or codec.decode(tokens) == [text]
    if not fits:  # tokens hold one byte or more, so what came back of a cut one is a beginning of it
        (back,) = codec.decode(tokens)
        assert text.startswith(back.rstrip("\ufffd")) or "\ufffd" in text


def test_a_long_text_is_cut_and_keeps_no_end(codec):
    short = TextCodec(Text("name", max_length=3), vocab_size=257).fit(TEXTS)
    tokens = short.encode(["abc", "abcd", "ab", "❤", "a❤"])
    assert (tokens == 0).any(1).tolist() == [False, False, True, False, False]
    assert short.decode(tokens).tolist() == ["abc", "abc", "ab", "❤", "a\ufffd"]


def test_a_text_lasts_up_to_its_first_end(codec):
    present = torch.tensor([True, True, False])
    tokens = codec.encode(["a red heart", "", "a red rose"], present)
    ends = (tokens == 0).float().argmax(1)
    assert ends[0] > 0 and ends[1:].tolist() == [0, 0]
    lasts = torch.arange(24) <= ends[:, None]
    assert torch.equal(codec.token_present(tokens, present), lasts & present[:, None])
    assert (tokens[2] == 0).all() and codec.decode(tokens).tolist() == ["a red heart", "", ""]
    generated = torch.cat([tokens[:1, :5], torch.zeros(1, 1).long(), tokens[:1, :18]], 1)
    assert codec.decode(generated) == codec.decode(tokens[:1] * (torch.arange(24) < 5))


def test_absent_texts_teach_nothing(codec):
    present = torch.tensor([True] * 6 + [False])
    other = TextCodec(NAME, vocab_size=320).fit([*TEXTS, "xyzxyzxyz" * 9], present)
    assert other.tokenizer.to_str() == codec.tokenizer.to_str()


def test_fitting_again_starts_anew_and_order_does_not_matter(codec):
    other = TextCodec(NAME, vocab_size=320).fit(["something else"]).fit(TEXTS[::-1])
    assert other.tokenizer.to_str() == codec.tokenizer.to_str()


def test_every_process_learns_the_same(codec):
    """The library hashes with a seed of its own in each; these numbers came of another one."""
    assert codec.encode(["two cups of tea"])[0, :6].tolist() == [294, 297, 83, 286, 287, 0]


def test_few_texts_make_few_tokens():
    codec = TextCodec(NAME).fit(["ab"])
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry) == (24, 258, "nominal")


def test_ids_with_gaps_have_room(tmp_path):
    Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec(NAME, tokenizer=str(tmp_path))
    assert codec.vocab_size == 9 and codec.encode(["b"])[0, :2].tolist() == [8, 0]
    assert codec.decode(codec.encode(["b"])) == ["b"]


def test_the_tokenizer_travels_with_the_codec(codec, wordpiece, tmp_path):
    unfitted, pretrained = TextCodec(NAME), TextCodec(NAME, tokenizer=str(wordpiece))
    (wordpiece / "tokenizer.json").unlink()
    for i, saved in enumerate((codec, pretrained)):
        saved.save_pretrained(tmp_path / str(i))
        loaded = TextCodec.from_pretrained(tmp_path / str(i))
        assert torch.equal(loaded.encode(TEXTS), saved.encode(TEXTS)) and loaded.modality == NAME
        assert (loaded.decode(loaded.encode(TEXTS)) == saved.decode(saved.encode(TEXTS))).all()
    assert (
        loaded.fit(TEXTS).vocab_size == 13 and "[SEP]" not in loaded.decode(loaded.encode(["[SEP] red"]))[0]
    )
    unfitted.save_pretrained(tmp_path / "unfitted")
    assert TextCodec.from_pretrained(tmp_path / "unfitted").fit(TEXTS).vocab_size > 258


def test_a_damaged_tokenizer_is_refused(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "json.data": tensors["json.data"][:-40].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"codec of Text\('name'\) holds no tokenizer that can be read"):
        TextCodec.from_pretrained(tmp_path)


def test_in_a_manager_beside_a_scalar(tmp_path):
    present = [True, False, True, True, True, True]
    data = MultimodalDataset([NAME, Scalar("x")], {"name": TEXTS, "x": np.arange(6.0)}, {"name": present})
    codecs = CodecManager([TextCodec(NAME), *CodecManager([Scalar("x")]).codecs.values()]).fit(data)
    tokens = codecs.encode(data)
    assert tokens.present["name"].shape == (6, 24) and not tokens.present["name"][1].any()
    codecs.save_pretrained(tmp_path)
    back = CodecManager.from_pretrained(tmp_path).decode(tokens)["name"]
    assert back.tolist() == [TEXTS[0], "", *TEXTS[2:]]


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda c: TextCodec(NAME).encode(["a"]), RuntimeError, r"Text\('name'\) is not fitted: call fit"),
        (lambda c: TextCodec(NAME).vocab_size, RuntimeError, "not fitted"),
        (lambda c: TextCodec(NAME).fit([]), ValueError, "no measured sample"),
        (lambda c: TextCodec(NAME).fit(["a"], [False]), ValueError, "no measured sample"),
        (lambda c: TextCodec(NAME, vocab_size=256), ValueError, "257 or more .* got 256"),
        (lambda c: TextCodec(Scalar("x")), TypeError, "needs a Text, got Scalar"),
        (
            lambda c: TextCodec(NAME, tokenizer="no/such"),
            FileNotFoundError,
            "no/such is missing: put the tok",
        ),
        (lambda c: TextCodec(NAME, tokenizer="tests"), FileNotFoundError, "tests/tokenizer.json is missing"),
        (lambda c: TextCodec(NAME, tokenizer="pyproject.toml"), ValueError, "toml holds no tokenizer"),
        (lambda c: c.encode("a"), TypeError, "sequence of strings"),
        (lambda c: c.encode(["\ud83d"]), ValueError, "not Unicode .surrogates not allowed"),
        (lambda c: c.fit(["\ud83d"]), ValueError, "not Unicode"),
        (lambda c: c.decode(torch.zeros(2, 23).long()), ValueError, r"\(B, 24\), got \(2, 23\)"),
        (lambda c: c.decode(torch.zeros(2, 24)), TypeError, "integers, got torch.float32"),
        (lambda c: c.decode(torch.full((2, 24), 320)), ValueError, r"must lie in 0\.\.\d+, got 320"),
        (lambda c: c.decode(torch.full((2, 24), -1)), ValueError, r"must lie in 0\.\.\d+, got -1"),
        (lambda c: c.loss(TEXTS), TypeError, "nothing to train by gradient"),
    ],
)
def test_bad_use_is_refused(codec, act, error, says):
    with pytest.raises(error, match=says):
        act(codec)
