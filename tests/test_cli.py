"""`aion-lite run`, `list` and `data`: real papermill runs of a notebook of four cells.

Run: pytest tests/test_cli.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pytest

from aion_lite import cli

SOURCE = """\
# %% [markdown]
# # Add numbers
#
# You add two numbers {cite:p}`nobody`
# and see the sum. This is more.

# %% tags=["parameters"]
profile: str = "fast"  # "fast" or "full"
seed: int = 0  # added
scale: float = 1.0  # multiplied
sizes: list[int] = [1, 2]  # summed
loud: bool = False  # not used
output_dir: str = ""  # where results.json goes

# %%
import json, os, time
from pathlib import Path
total = scale * (seed + sum(sizes))
print(os.getcwd())

# %%
if profile == "fail":
    raise ValueError("no such galaxy")
if profile == "wait":
    Path(output_dir, "kernel.pid").write_text(str(os.getpid()))
    time.sleep(60)

# %%
if output_dir:
    Path(output_dir, "fig-sum.png").write_bytes(b"not really a picture")
    Path(output_dir, "results.json").write_text(json.dumps({"summary": f"total {total}", "profile": profile}))
"""


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """A folder with notebooks/01_add_numbers.py, made the working directory."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_add_numbers.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv: str) -> str:
    """The one sentence on stderr of a refused call."""
    assert cli.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    "name", ["1", "01", "01_add_numbers", "notebooks/01_add_numbers", "notebooks/01_add_numbers.py"]
)
def test_a_notebook_is_found_by_number_name_or_path(book, name):
    assert cli.find_notebook(name) == book / "notebooks" / "01_add_numbers.py"


def test_run_passes_parameters_and_reports_what_it_wrote(book, capsys):
    argv = [
        "run",
        "1",
        "-p",
        "seed=7",
        "-p",
        "scale=2",
        "-p",
        "sizes=[3,4]",
        "-p",
        "loud=true",
        "--profile",
        "full",
    ]
    assert cli.main(argv) == 0
    out = Path("runs") / "01_add_numbers"
    assert json.loads((out / "results.json").read_text()) == {"summary": "total 28.0", "profile": "full"}
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"notebook  {out}/01_add_numbers.ipynb",
        f"figure    {out}/fig-sum.png",
        f"results   {out}/results.json",
        "total 28.0",
    ]
    nb = nbformat.read(out / "01_add_numbers.ipynb", as_version=4)
    counts = [cell.execution_count for cell in nb.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4, 5]  # one more than the source: papermill's injected parameters
    # the kernel works where the notebook lies, so that a notebook finds its files as it does in JupyterLab
    assert f"{book}/notebooks\n" in [o.get("text") for cell in nb.cells for o in cell.get("outputs", [])]
    assert not (out / "01_add_numbers.partial.ipynb").exists()


def test_the_ipynb_half_runs_as_well_and_a_failure_replaces_nothing(book, capsys):
    made = book / "notebooks" / "01_add_numbers.ipynb"
    jupytext.write(jupytext.reads(SOURCE, fmt="py:percent"), made)
    before = made.read_bytes()
    assert cli.main(["run", str(made), "-o", "out {1}"]) == 0  # braces: papermill would format them
    done = Path("out {1}") / "01_add_numbers.ipynb"
    finished = done.read_bytes()
    capsys.readouterr()

    assert cli.main(["run", str(made), "-o", "out {1}", "--profile", "fail"]) == 1
    err = capsys.readouterr().err
    assert "ValueError: no such galaxy" in err and "partial.ipynb" in err and "Traceback" not in err
    partial = nbformat.read(done.with_suffix(".partial.ipynb"), as_version=4)
    outputs = [output.output_type for cell in partial.cells for output in cell.get("outputs", [])]
    assert "error" in outputs
    assert done.read_bytes() == finished and made.read_bytes() == before


def test_an_interrupted_run_keeps_its_partial_notebook_and_leaves_no_kernel(book):
    command = [sys.executable, "-c", "import sys; from aion_lite.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "run", "1", "--profile", "wait", "-o", "out"],
        start_new_session=True,
        stderr=subprocess.PIPE,
    ) as process:
        pid_file = book / "out" / "01_add_numbers.partial" / "kernel.pid"
        until(lambda: pid_file.exists() and pid_file.read_text(), "the notebook's second cell to start")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Interrupted" in err and b"Traceback" not in err
    assert (
        nbformat.read(book / "out" / "01_add_numbers.partial.ipynb", as_version=4).cells[3].execution_count
        == 3
    )
    until(lambda: not Path("/proc", pid_file.read_text()).exists(), "the kernel to end")


def until(condition, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["-p", "sede=1"],
            "has no parameter 'sede' (did you mean 'seed'?); it has profile (str), seed (int)",
        ),
        (["-p", "seed=abc"], "takes seed as int, got 'abc'; the default is 0"),
        (["-p", "seed=1.5"], "takes seed as int"),
        (["-p", "scale=nan"], "takes scale as float, got 'nan'"),
        (["-p", "scale=inf"], "takes scale as float"),
        (["-p", "loud=perhaps"], "takes loud as bool"),
        (["-p", "sizes=1,two"], "takes sizes as list[int]"),
        (["-p", "seed"], "-p takes name=value, got 'seed'"),
        (["-p", "output_dir=x"], "given with -o"),
    ],
)
def test_wrong_parameters_are_refused_and_nothing_is_written(book, capsys, given, says):
    assert says in refused(capsys, "run", "1", *given)
    assert os.listdir(book) == ["notebooks"]


def test_a_list_of_words_is_taken_with_or_without_quotes():
    known = {"ways": cli.Parameter("ways", "list[str]", "['value', 'table']", "")}
    for text in ("value,table", '["value", "table"]', "['value', 'table']", cli.as_typed(known["ways"])):
        assert cli.check_parameters([f"ways={text}"], known, "x") == {"ways": ["value", "table"]}


def test_without_the_book_s_packages_the_way_to_them_is_told(book, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    assert "pip install 'aion-lite[book]'" in refused(capsys, "run", "1")


def test_profile_is_refused_where_there_is_none(book, capsys):
    (book / "notebooks" / "02_plain.py").write_text("# %%\nprint(1)\n")
    assert "02_plain has no parameter 'profile'; it has none" in refused(
        capsys, "run", "2", "--profile", "full"
    )


def test_an_output_folder_that_cannot_be_written_is_refused(book, capsys):
    (book / "file").write_text("")  # not chmod: root may write anywhere
    assert "cannot write to the output folder file/out (Not a directory)" in refused(
        capsys, "run", "1", "-o", "file/out"
    )
    assert "holds the notebook itself" in refused(capsys, "run", "1", "-o", "notebooks")


def test_an_unknown_or_broken_notebook_is_refused(book, capsys):
    assert "no notebook '01_add_nubmers' (did you mean '01_add_numbers'?)" in refused(
        capsys, "run", "01_add_nubmers"
    )
    (book / "broken.ipynb").write_text('{"cells": [')
    assert "cannot be read as a notebook" in refused(capsys, "run", "broken.ipynb")
    (book / "odd.py").write_text('# %% tags=["parameters"]\nseed: int = = 1\n')
    assert "the parameters cell" in refused(capsys, "run", "odd.py")


def test_list_names_notebooks_parameters_and_data(book, capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "01_add_numbers: Add numbers\n    You add two numbers {cite:p}`nobody` and see the sum.\n" in out
    assert "    -p sizes=1,2  (list[int]) summed\n" in out
    assert "    -p seed=0  (int) added\n" in out and "output_dir" not in out
    from aion_lite.data import datasets

    assert all(dataset.name in out for dataset in datasets())


def test_data_tells_what_is_wrong_in_one_sentence(capsys, tmp_path):
    assert "nosuch" in refused(capsys, "data", "nosuch")
    from aion_lite.data import datasets

    assert str(tmp_path) in refused(capsys, "data", datasets()[0].name, "--folder", str(tmp_path))


def test_help_loads_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom aion_lite.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(sorted({'torch', 'papermill', 'jupytext', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "usage: aion-lite" in out and out.endswith("[]\n")


def test_a_failing_run_leaves_an_earlier_result_as_it_was(book, monkeypatch):
    assert cli.main(["run", "1", "-o", "out"]) == 0
    before = {file.name: file.read_bytes() for file in (book / "out").iterdir() if file.is_file()}
    assert cli.main(["run", "1", "--profile", "fail", "-o", "out"]) == 1
    assert {name: (book / "out" / name).read_bytes() for name in before} == before
