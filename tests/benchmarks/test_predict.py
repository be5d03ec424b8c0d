"""The benchmark asks the same of both sides, and runs where there is no GPU."""

import importlib.util
from pathlib import Path

import pytest
import torch

from aion_lite.codecs import TokenSpec
from aion_lite.evaluation import read_results
from aion_lite.model import MultimodalTransformer

pytest.importorskip("aion", reason="needs polymathic-aion")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "predict.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("predict_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_blocks_have_as_many_weights_as_aions(benchmark):
    shape = {**benchmark.SHAPES["base"], "num_layers": 1}
    theirs = benchmark.aion_model(shape, "cpu")
    ours = MultimodalTransformer({"x": TokenSpec(1, 4, "nominal")}, **shape)
    for part in ("encoder", "decoder"):
        mine, aions = (sum(p.numel() for p in getattr(m, part).parameters()) for m in (ours, theirs))
        assert mine == pytest.approx(aions, rel=1e-3)


def test_the_codebooks_are_aions(benchmark):
    from aion.fourm.modality_info import MODALITY_INFO

    for name, spec in benchmark.specs().items():
        assert MODALITY_INFO[name]["vocab_size"] == spec.vocab_size
    assert len(benchmark.specs(40)) == 40 and list(benchmark.specs(40))[:7] == list(benchmark.specs())


def test_both_sides_draw_the_image_anew_in_as_many_steps(benchmark):
    """How many tokens enter the first decoder block, call by call."""
    shape, tokens = benchmark.SHAPES["tiny"], benchmark.make_tokens(2, "cpu")
    theirs = benchmark.aion_model(shape, "cpu")
    ours = MultimodalTransformer(benchmark.specs(), **shape).eval()
    widths = {}
    for name, model, tasks in (
        ("theirs", theirs, benchmark.aion_tasks(theirs, 4)), ("ours", ours, benchmark.our_tasks(ours, 4)),
    ):  # fmt: skip
        seen = widths.setdefault(name, [])
        for blocks in (model.encoder, model.decoder):
            blocks[0].register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].shape[1]))
        with torch.no_grad():
            drawn = tasks["generate"](tokens)
        assert drawn.shape == (2, 576) and not torch.equal(drawn, tokens["tok_image"])
        assert 0 <= drawn.min() and drawn.max() < 4375
    known = [5, 5 + 144, 5 + 288, 5 + 432]
    assert widths["theirs"] == [n for k in known for n in (k, 144)]
    assert widths["ours"] == [n for k in known for n in (k + 1, 144)]  # the register


def test_a_tiny_run_times_every_method_and_writes_only_where_it_is_told(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    out = tmp_path / "tiny.json"
    assert benchmark.main(["--size", "tiny", "--steps", "3", "--rounds", "2", "--out", str(out)]) == 0
    settings, records = read_results(out)
    assert settings["parameters"]["size"] == "tiny"
    assert set(records.method) == {"AION", "ours", "ours, table", "ours, 40 modalities"}
    assert {task.split(",")[0] for task in records.task} == {"predict", "generate"}
    assert (records.slowest <= records.samples_per_second).all()
    assert (records.samples_per_second <= records.fastest).all()
    plain = records[(records.method == "AION") & records.task.str.endswith("fp32")]
    assert (plain.times_aion == 1).all() and (plain.times_aion_fp32 == 1).all()
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_whole_run_asks_for_a_gpu(benchmark, capsys):
    assert benchmark.main([]) == 2
    assert "no GPU here: give --size tiny" in capsys.readouterr().err
