"""The benchmark compares like with like, and runs where there is no GPU."""

import importlib.util
from pathlib import Path

import pytest
import torch

from aion_lite.codecs import ImageCodec
from aion_lite.evaluation import read_results
from aion_lite.modalities import Image

pytest.importorskip("aion", reason="needs polymathic-aion")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "encode_images.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("encode_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shape_has_as_many_weights_as_aions_codec(benchmark):
    with torch.device("meta"):
        theirs, _ = benchmark.aion_encoder(512, "meta")
        for width, depth, encoder_depth in benchmark.SHAPES.values():
            ours = ImageCodec(Image("image", 4, 96), benchmark.LEVELS, 4, width, depth, encoder_depth)
            assert benchmark.count(ours) == pytest.approx(benchmark.count(theirs), rel=0.02)


def test_a_tiny_run_times_every_method_and_writes_only_where_it_is_told(benchmark, tmp_path):
    before = benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None
    assert benchmark.main(["--tiny", "--out", str(tmp_path / "tiny.json")]) == 0
    settings, records = read_results(tmp_path / "tiny.json")
    assert settings["parameters"]["tiny"]
    assert set(records.method) == {benchmark.AION, *benchmark.SHAPES}
    assert (records.slowest <= records.images_per_second).all()
    assert (records.images_per_second <= records.fastest).all()
    assert (records[records.method == benchmark.AION].times_aion == 1).all()
    assert (benchmark.OUT.read_bytes() if benchmark.OUT.exists() else None) == before
