"""Scalars and categories as tokens: nearest quantile, absent samples apart, the stream resumed from disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aion_lite.codecs import CategoryCodec, Codec, ScalarCodec
from aion_lite.modalities import Category, Scalar

PLAIN, LOG = Scalar("z"), Scalar("mass", unit="Msun", transform="log")
ARCSINH = Scalar("flux", transform="arcsinh", scale=0.3)
SEX = Category("sex", values=("female", "male"))
scalars = pytest.mark.parametrize("modality", [PLAIN, LOG, ARCSINH], ids=str)


def positive(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).exp()


def state(codec):
    return {name: tensor.clone() for name, tensor in codec.state_dict().items()}


def assert_same_state(codec, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())


@scalars
def test_tokens_are_the_nearest_on_the_declared_scale(modality):
    x = positive(2000)
    codec = ScalarCodec(modality, codebook_size=256).fit(x)
    scale = {"z": lambda x: x, "mass": np.log, "flux": lambda x: np.arcsinh(x / 0.3)}[modality.name]
    values = codec.token_spec().values.double().numpy()
    distance = np.abs(scale(x.double().numpy())[:, None] - scale(values))
    tokens = codec.encode(x)
    assert tokens.shape == (2000, 1) and tokens.dtype == torch.int64
    np.testing.assert_allclose(distance[np.arange(2000), tokens[:, 0]], distance.min(1), atol=1e-12)
    np.testing.assert_array_equal(codec.decode(tokens).numpy(), values[tokens[:, 0]].astype(np.float32))


@scalars
def test_every_token_round_trips(modality):
    codec = ScalarCodec(modality, codebook_size=128).fit(positive(999))
    every = torch.arange(codec.vocab_size)[:, None]
    assert torch.equal(codec.encode(codec.decode(every)), every)


@scalars
@pytest.mark.parametrize("n", [10, 1])
def test_few_samples_are_enough(modality, n):
    x = positive(n)
    codec = ScalarCodec(modality).fit(x)
    torch.testing.assert_close(codec.decode(codec.encode(x)), x, rtol=5e-3, atol=0)
    assert codec.vocab_size == (1024 if n > 1 else 1)


def test_beyond_what_was_seen_the_end_code_answers():
    codec = ScalarCodec(PLAIN).fit(torch.tensor([1.0, 2.0, 3.0]))
    assert codec.decode(codec.encode(torch.tensor([-1e30, 1e30]))).tolist() == [1, 3]


def test_the_spec_says_where_codes_lie():
    codec = ScalarCodec(LOG, codebook_size=64).fit(positive(300))
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry, spec.grid) == (1, 64, "ordinal", (1,))
    assert spec.features.shape == (64, 2) and (spec.values.diff() > 0).all()
    assert (codec.num_tokens, codec.vocab_size) == (1, 64)


@scalars
def test_absent_samples_get_token_0_and_teach_nothing(modality):
    x, present = positive(200), torch.arange(200) % 3 > 0
    gaps = x.where(present, torch.nan)
    codec, whole = (ScalarCodec(modality, codebook_size=32) for _ in range(2))
    codec.fit(gaps, present.tolist())
    assert_same_state(codec, state(whole.fit(x[present])))
    tokens = codec.encode(gaps, present.numpy())
    assert (tokens[~present] == 0).all()
    assert torch.equal(tokens[present], whole.encode(x[present]))


def test_encode_and_decode_change_neither_codec_nor_input():
    codec, x = ScalarCodec(PLAIN, codebook_size=32).fit(positive(100)), positive(50) + 9
    before, x_before = state(codec), x.clone()
    codec.train()
    codec.decode(codec.encode(x, torch.arange(50) > 3))
    assert_same_state(codec, before)
    assert torch.equal(x, x_before)


@scalars
@pytest.mark.parametrize("cut", [0, 1, 7, 10])
def test_a_stream_cut_saved_and_resumed_is_the_whole_one(modality, cut, tmp_path):
    batches = positive(1000).split(100)
    sizes = {"codebook_size": 32, "reservoir_size": 150, "seed": 3, "even": 0.3}
    whole, first = (ScalarCodec(modality, **sizes) for _ in range(2))
    for batch in batches:
        whole.fit(batch)
    for batch in batches[:cut]:
        first.fit(batch)
    first.save_pretrained(tmp_path)
    resumed = ScalarCodec.from_pretrained(tmp_path)
    assert resumed.modality == modality
    for batch in batches[cut:]:
        resumed.fit(batch)
    assert_same_state(resumed, state(whole))
    x = positive(500, seed=1)
    assert torch.equal(resumed.encode(x), whole.encode(x))


def test_loading_prints_nothing(tmp_path, capsys):
    ScalarCodec(PLAIN).save_pretrained(tmp_path)
    ScalarCodec.from_pretrained(str(tmp_path))
    assert capsys.readouterr().out == ""


def test_a_category_is_its_own_token(tmp_path):
    codec = CategoryCodec(SEX).fit([0, 1])
    assert codec.encode([1, 0, 1], [True, True, False]).tolist() == [[1], [0], [0]]
    assert codec.decode(torch.tensor([[1], [0]])).tolist() == [1, 0]
    spec = codec.token_spec()
    assert (spec.num_tokens, spec.vocab_size, spec.geometry, spec.features) == (1, 2, "nominal", None)
    codec.save_pretrained(tmp_path)
    assert CategoryCodec.from_pretrained(tmp_path).modality == SEX


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: ScalarCodec(PLAIN).encode([1.0]), RuntimeError, r"Scalar\('z'\) is not fitted"),
        (lambda: ScalarCodec(PLAIN).decode(torch.zeros(1, 1).long()), RuntimeError, "not fitted"),
        (lambda: ScalarCodec(PLAIN).vocab_size, RuntimeError, "not fitted"),
        (lambda: ScalarCodec(PLAIN).fit([]), ValueError, "no measured sample"),
        (lambda: ScalarCodec(PLAIN).fit([1.0], [False]), ValueError, "no measured sample"),
        (lambda: ScalarCodec(PLAIN).fit([1.0, np.nan]), ValueError, "NaN or infinite"),
        (lambda: ScalarCodec(PLAIN).fit([1, 2]), TypeError, "floating-point"),
        (lambda: ScalarCodec(LOG).fit([1.0, 0.0]), ValueError, "values <= 0"),
        (lambda: ScalarCodec(PLAIN, codebook_size=1), ValueError, "integers of 2 or more"),
        (lambda: ScalarCodec(PLAIN, codebook_size=np.int64(9)), ValueError, "integers of 2 or more"),
        (lambda: ScalarCodec(SEX), TypeError, "needs a Scalar, got Category"),
        (lambda: CategoryCodec(PLAIN), TypeError, "needs a Category, got Scalar"),
        (lambda: fitted().encode([np.inf]), ValueError, "NaN or infinite"),
        (lambda: fitted().decode(torch.zeros(2).long()), ValueError, r"shape \(B, 1\), got \(2,\)"),
        (lambda: fitted().decode(torch.zeros(2, 1)), TypeError, "Codes must be integers"),
        (lambda: fitted().decode(torch.tensor([[3]])), ValueError, r"0\.\.2, got 3\.\.3"),
        (lambda: fitted().loss(torch.zeros(1)), TypeError, "nothing to train by gradient"),
        (lambda: CategoryCodec(SEX).encode([2]), ValueError, "outside 0..1"),
        (lambda: CategoryCodec(SEX).decode(torch.tensor([0, 1])), ValueError, r"shape \(B, 1\), got \(2,\)"),
        (lambda: CategoryCodec(SEX).decode(torch.tensor([[2]])), ValueError, r"0\.\.1, got 2"),
    ],
)
def test_bad_use_is_refused(act, error, says):
    with pytest.raises(error, match=says):
        act()


def fitted():
    return ScalarCodec(PLAIN, codebook_size=3).fit([1.0, 2.0, 3.0])


def write(path, text):
    path.write_text(text)


def without_counter(path):
    tensors = load_file(path)
    del tensors["quantizer.num_seen"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("file", "damage", "error", "says"),
    [
        (
            "model.safetensors",
            lambda p: p.write_bytes(p.read_bytes()[:-9]),
            ValueError,
            "damaged or cut short",
        ),
        ("model.safetensors", lambda p: p.write_bytes(b""), ValueError, "damaged or cut short"),
        ("model.safetensors", without_counter, ValueError, "does not fit.*num_seen"),
        ("model.safetensors", lambda p: p.unlink(), FileNotFoundError, "model.safetensors is missing"),
        ("config.json", lambda p: p.unlink(), FileNotFoundError, "config.json is missing"),
        ("config.json", lambda p: write(p, "{"), ValueError, "config.json is damaged"),
        (
            "config.json",
            lambda p: write(p, p.read_text().replace("scalar", "smell")),
            ValueError,
            "kind.*'smell'",
        ),
        ("config.json", lambda p: write(p, p.read_text().replace("50", "60")), ValueError, "does not fit"),
    ],
)
def test_a_damaged_folder_is_refused(file, damage, error, says, tmp_path):
    ScalarCodec(PLAIN, codebook_size=3, reservoir_size=50).fit([1.0, 2.0]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["modality"]["kind"] == "scalar"
    damage(tmp_path / file)
    with pytest.raises(error, match=rf"(?s){says}"):
        ScalarCodec.from_pretrained(tmp_path)


def test_another_codecs_folder_is_refused(tmp_path):
    CategoryCodec(SEX).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"needs a Scalar, got Category\('sex'\)"):
        ScalarCodec.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path):
    for folder in (tmp_path / "nothing", str(tmp_path / "nothing")):
        with pytest.raises(FileNotFoundError, match=r"nothing/config\.json is missing"):
            ScalarCodec.from_pretrained(folder)


def test_weights_in_pickle_are_refused(tmp_path):
    """What the hub's mixin would fall back on where a repository has no safetensors."""
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        Codec._load_as_pickle(fitted(), str(tmp_path / "pytorch_model.bin"), "cpu", True)


@pytest.mark.parametrize("config", ["[]", "{}", "null", '{"modality": 3}'])
def test_a_config_of_no_codec_is_refused(tmp_path, config):
    ScalarCodec(PLAIN).fit(positive(20)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json declares no modality: give a folder"):
        ScalarCodec.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["runs/no/such", "nowhere"])
def test_a_path_that_is_not_there_is_no_name_of_a_hub_repository(name):
    with pytest.raises(FileNotFoundError, match=rf"{name}/config\.json is missing"):
        ScalarCodec.from_pretrained(name)


def test_a_save_that_fails_leaves_the_codec_that_was_there(tmp_path, monkeypatch):
    first = ScalarCodec(Scalar("x")).fit(torch.arange(20.0))
    first.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(self, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(ScalarCodec, "_save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space left"):
        ScalarCodec(Scalar("x")).fit(torch.arange(5.0)).save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_codes_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match="tensor of codes, got list"):
        CategoryCodec(Category("k", values=("a", "b"))).decode([[0]])
