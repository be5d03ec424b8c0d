"""Gates 1 and 2: the halves of each pair are one notebook, it ran, and it can be read by everyone.

Below, proof that each gate can fail: a small pair in order, broken one way at a time.
"""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from check_notebooks import FOLDER, check_folder, check_pair
from make_notebooks import main as make_notebooks
from make_notebooks import still

ROOT = FOLDER.parent
PAIRS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("source", PAIRS, ids=lambda path: path.stem)
def test_pair_is_in_order(source):
    assert check_pair(source) == []


def test_no_half_is_alone():
    assert [finding for finding in check_folder() if "half" in finding] == []


SOURCE = """\
# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Draw a line

# %% tags=["parameters"]
profile: str = "fast"  # how long
seed: int = 0  # of every random choice
output_dir: str = ""  # where results go

# %% tags=["nbval-check-output"]
print("seed", seed)

# %% tags=["nbval-check-output"]
2 + seed

# %% mystnb={"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "One dot."}}
from base64 import b64decode
from IPython.display import Image
Image(b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    (folder / "01_draw_line.py").write_text(SOURCE)
    assert make_notebooks(["--folder", str(folder)]) == 0
    return folder


@pytest.fixture
def pair(made, tmp_path) -> Path:
    """The .py half of a fresh copy of a pair in order."""
    for half in made.iterdir():
        (tmp_path / half.name).write_bytes(half.read_bytes())
    source = tmp_path / "01_draw_line.py"
    assert check_folder(tmp_path) == []
    return source


def edited(source: Path, old: str, new: str) -> list[str]:
    """Findings after replacing text in both halves, so that only the edit is wrong and not the pairing."""
    text = source.read_text()
    made = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert old in text
    source.write_text(text.replace(old, new))
    for cell, fresh in zip(made.cells, jupytext.read(source).cells, strict=True):
        cell.source, cell.metadata = fresh.source, fresh.metadata
    nbformat.write(made, source.with_suffix(".ipynb"))
    return check_pair(source)


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ('tags=["nbval-check-output"]', 'tags=["hide-input"]', "0 cells are tagged nbval-check-output"),
        ('["nbval-check-output"]\n2', '["raises-exception"]\n2', "tag 'raises-exception' is not one of"),
        (', "image": {"alt": "One dot."}', "", "draws without mystnb image alt"),
        ('"caption": "A dot."', '"caption": " "', "draws without mystnb figure caption"),
        ('"name": "fig-dot"', '"label": "fig-dot"', "draws without mystnb figure name"),
        ("seed: int = 0  # of every random choice", "seed: int = 0", "parameter seed has no comment"),
        ("seed: int = 0", "seed: float = 0", "parameters lack seed: int"),
        ("seed: int = 0", "sizes: set = {1}  # x\nseed: int = 0", "parameter sizes is annotated set"),
        ('tags=["parameters"]', "", "tagged parameters; tagged are []"),
        ("2 + seed", "%pip install something\n2 + seed", "installs something"),
        ("2 + seed", 'open("/home/me/galaxies.csv")', "absolute path /home/me"),
        ("# # Draw a line", "# Draw a line", "does not begin with a title"),
    ],
)
def test_a_broken_rule_is_found(pair, old, new, finding):
    assert finding in "\n".join(edited(pair, old=old, new=new))


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("2 + seed", "3 + seed", "the halves differ"),
        ("One dot.", "Two dots.", "the halves differ"),
        ("nbval-check-output", "nbval-skip", "the halves differ"),
        ("name: python3", "name: my-env", "names another kernel"),
        ("formats: ipynb,py:percent", "formats: ipynb", "lacks jupytext formats"),
    ],
)
def test_a_drifted_pair_is_found(pair, old, new, finding):
    pair.write_text(pair.read_text().replace(old, new))
    assert finding in "\n".join(check_pair(pair))


def test_a_missing_half_is_found(pair):
    (pair.parent / "02_new_idea.py").write_text(SOURCE)
    (pair.parent / "03_old_idea.ipynb").write_text("{}")
    found = "\n".join(check_folder(pair.parent))
    assert "02_new_idea: has no .ipynb half" in found and "03_old_idea: has no .py half" in found


def change(pair: Path, edit) -> str:
    made = nbformat.read(pair.with_suffix(".ipynb"), as_version=4)
    edit(made)
    nbformat.write(made, pair.with_suffix(".ipynb"))
    return "\n".join(check_pair(pair))


def output(kind: str, **fields):
    return nbformat.v4.new_output(kind, **fields)


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (
            lambda nb: nb.cells[2].update(execution_count=None),
            "did not all run once and in order: [1, None, 3, 4]",
        ),
        (lambda nb: nb.cells[2].update(execution_count=7), "did not all run once and in order: [1, 7, 3, 4]"),
        (lambda nb: nb.cells[2].outputs.append(output("error", ename="E", evalue="oh")), "ended in E: oh"),
        (
            lambda nb: nb.cells[2].outputs.append(output("stream", name="stderr", text="50 %")),
            "wrote to stderr",
        ),
        (
            lambda nb: nb.cells[2].outputs.append(output("stream", text="in /opt/x.py")),
            "absolute path /opt/x",
        ),
        (lambda nb: nb.cells[4].outputs.append(nb.cells[4].outputs[0]), "one PNG a cell"),
        (lambda nb: nb.cells[2].outputs.append(output("stream", text="x" * 300_000)), "allowed are 300,000"),
        (lambda nb: nb.cells[2].update(outputs=[]), "ought to show something and has no output"),
        (lambda nb: nb.cells[4].update(outputs=[]), "ought to show something and has no output"),
        (lambda nb: nb.cells[2].update(id="f00d"), "has id 'f00d', not its position"),
        (lambda nb: nb.cells[2].metadata.update(papermill={}), "carries metadata ['papermill']"),
    ],
)
def test_a_run_that_does_not_count_is_found(pair, edit, finding):
    assert finding in change(pair, edit)


def test_nbval_finds_an_output_that_changed(pair):
    """Gate 3 can fail: the run prints another number than the one that is committed."""
    change(pair, lambda nb: nb.cells[2].outputs[0].update(text="seed 1\n"))
    options = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--rootdir", pair.parent]
    command = [sys.executable, "-m", "pytest", *options, pair.with_suffix(".ipynb")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=pair.parent)
    assert run.returncode == 1 and "1 failed, 3 passed" in run.stdout, run.stdout


def test_making_is_repeatable_and_a_failure_leaves_the_old_half(pair, capsys):
    made = pair.with_suffix(".ipynb")
    before = made.read_bytes()
    assert make_notebooks(["01_draw_line", "--folder", str(pair.parent)]) == 0
    assert made.read_bytes() == before

    pair.write_text(SOURCE.replace("2 + seed", "1 / seed"))
    assert make_notebooks(["--folder", str(pair.parent)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert made.read_bytes() == before
    assert sorted(path.name for path in pair.parent.iterdir()) == ["01_draw_line.ipynb", "01_draw_line.py"]

    assert make_notebooks(["02_nosuch", "--folder", str(pair.parent)]) == 2


def test_a_widget_leaves_its_picture_and_a_bare_one_nothing():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}}
    outputs = [output("display_data", data=dict(view) | more) for more in ({"image/png": "p"}, {})]
    outputs += [output("stream", text="said")]
    assert [o.get("data", o.get("text")) for o in still(outputs)] == [{"image/png": "p"}, "said"]
