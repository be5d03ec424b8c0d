"""The rules of the book's notebooks, checked without running them; each finding is one sentence.

Used by the tests, by `make notebooks` and by pre-commit: `python scripts/check_notebooks.py`.
A pair is NN_name.py (the source) and NN_name.ipynb (generated, executed, committed).
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks

from aion_lite.cli import parameters

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
FORMATS = "ipynb,py:percent"
TAGS = {
    "parameters",
    "hide-input",
    "remove-cell",
    "nbval-check-output",
    "nbval-ignore-output",
    "nbval-skip",
}
KINDS = re.compile(r"(list\[)?(int|float|bool|str)\]?")
STANDARD = {"profile": "str", "seed": "int", "output_dir": "str"}
MAX_BYTES = 300_000
ABSOLUTE = re.compile(r"(?<![\w./])/(?:home|root|tmp|work|Users|usr|opt|var|mnt|data)/\w+|\b[A-Z]:\\\w")


def check_folder(folder: Path = FOLDER) -> list[str]:
    """Everything wrong in a folder of notebooks."""
    sources, made = ({path.stem for path in folder.glob(f"*.{half}")} for half in ("py", "ipynb"))
    bad = [f"{name}: has no .ipynb half; run make notebooks" for name in sorted(sources - made)]
    bad += [f"{name}: has no .py half, which is the source" for name in sorted(made - sources)]
    if not sources:
        bad.append(f"{folder} holds no notebooks")
    for name in sorted(sources & made):
        bad += check_pair(folder / f"{name}.py")
    return bad


def check_pair(source: Path) -> list[str]:
    """Everything wrong with one pair, given its .py half."""
    made = source.with_suffix(".ipynb")
    nb = nbformat.read(made, as_version=4)
    bad = []
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", source.stem):
        bad.append("is not named NN_verb_object")
    bad += check_same(jupytext.read(made), jupytext.read(source))
    bad += check_ran(nb) + check_parameters(nb) + check_tags(nb) + check_figures(nb) + check_content(nb)
    if made.stat().st_size > MAX_BYTES:
        bad.append(f"its .ipynb has {made.stat().st_size:,} bytes, allowed are {MAX_BYTES:,}")
    return [f"{source.stem}: {finding}" for finding in bad]


def check_same(made, source) -> list[str]:
    """Both halves hold the same cells under the same header."""
    bad = []
    for half, nb in ((".ipynb", made), (".py", source)):
        if nb.metadata.get("kernelspec") != KERNEL:
            bad.append(f"the header of its {half} half names another kernel than {KERNEL}")
        if nb.metadata.get("jupytext", {}).get("formats") != FORMATS:
            bad.append(f"the header of its {half} half lacks jupytext formats: {FORMATS}")
    try:
        compare_notebooks(made, source, fmt="py:percent", raise_on_first_difference=True, compare_ids=False)
    except NotebookDifference as difference:
        bad.append(f"the halves differ; edit the .py half and run make notebooks:\n{difference}")
    return bad


def check_ran(nb) -> list[str]:
    """Every code cell ran, in order, without error, and said nothing on stderr."""
    cells = code_cells(nb)
    counts = [cell.execution_count for cell in cells]
    bad = []
    if counts != list(range(1, len(cells) + 1)):
        bad.append(f"its code cells did not all run once and in order: {counts}")
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                bad.append(f"code cell {number} ended in {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                bad.append(
                    f"code cell {number} wrote to stderr (a warning, a progress bar): {output.text[:80]!r}"
                )
    return bad


def check_parameters(nb) -> list[str]:
    """One parameters cell, the first code cell, each line annotated and commented."""
    tagged = [number for number, cell in enumerate(code_cells(nb), 1) if "parameters" in tags(cell)]
    if tagged != [1]:
        return [f"the first code cell, and only that, is tagged parameters; tagged are {tagged}"]
    known = parameters(nb)
    bad = []
    for name, kind in STANDARD.items():
        if name not in known or known[name].kind != kind:
            bad.append(f"its parameters lack {name}: {kind}")
    for p in known.values():
        if not KINDS.fullmatch(p.kind):
            bad.append(f"parameter {p.name} is annotated {p.kind}; the command line reads {KINDS.pattern}")
        if not p.help:
            bad.append(f"parameter {p.name} has no comment that says what it is")
    return bad


def check_tags(nb) -> list[str]:
    """Only tags that mean something here, two to four cells whose output is compared, and no output lost."""
    bad = [
        f"tag {tag!r} is not one of {sorted(TAGS)}"
        for cell in nb.cells
        for tag in tags(cell)
        if tag not in TAGS
    ]
    compared = sum("nbval-check-output" in tags(cell) for cell in nb.cells)
    if not 2 <= compared <= 4:
        bad.append(f"{compared} cells are tagged nbval-check-output, 2 to 4 are wanted")
    for number, cell in enumerate(code_cells(nb), 1):
        shows = "nbval-check-output" in tags(cell) or "figure" in cell.metadata.get("mystnb", {})
        if shows and not cell.outputs:
            bad.append(f"code cell {number} ought to show something and has no output; run make notebooks")
    return bad


def check_figures(nb) -> list[str]:
    """Each cell that draws has one picture, with a name, a caption, and words for those who cannot see it."""
    bad = []
    for number, cell in enumerate(code_cells(nb), 1):
        pictures = [mime for o in cell.outputs for mime in o.get("data", {}) if mime.startswith("image/")]
        if not pictures or "remove-cell" in tags(cell):
            continue
        if pictures != ["image/png"]:
            bad.append(f"code cell {number} draws {pictures}; one PNG a cell can carry a caption")
        options = cell.metadata.get("mystnb", {})
        for place, key in (("figure", "caption"), ("figure", "name"), ("image", "alt")):
            if not str(options.get(place, {}).get(key, "")).strip():
                bad.append(f"code cell {number} draws without mystnb {place} {key}")
    return bad


def check_content(nb) -> list[str]:
    """A title; nothing that installs, nothing of this machine, nothing left by a run."""
    bad = []
    if not nb.cells or not nb.cells[0].source.startswith("# "):
        bad.append("its first cell does not begin with a title")
    for position, cell in enumerate(nb.cells):
        if cell.id != f"cell-{position:03d}":
            bad.append(f"cell {position} has id {cell.id!r}, not its position; run make notebooks")
        if extra := set(cell.metadata) - {"tags", "mystnb"}:
            bad.append(f"cell {position} carries metadata {sorted(extra)}; run make notebooks")
        if cell.cell_type == "code" and re.search(r"^\s*[!%]+ *(pip|conda|mamba|apt)", cell.source, re.M):
            bad.append(f"cell {position} installs something; the environment is pyproject.toml's")
        for text in (cell.source, *texts(cell)):
            if found := ABSOLUTE.search(text):
                bad.append(f"cell {position} holds the absolute path {found.group()}")
    return bad


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def texts(cell):
    """Every text among a cell's outputs."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (value for mime, value in output.get("data", {}).items() if mime.startswith("text/"))


if __name__ == "__main__":
    findings = check_folder()
    print("\n".join(findings) or "notebooks: all pairs in order")
    sys.exit(1 if findings else 0)
