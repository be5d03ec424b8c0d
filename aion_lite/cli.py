"""The command line: run a notebook of the book with your parameters, list what there is, fetch a data set.

- A notebook's parameters are the annotated assignments of its cell tagged ``parameters``. Names and types are
  checked before anything runs, because papermill takes an unknown name and goes on with the default.
- While it runs, the executed notebook is ``NAME.partial.ipynb``; it takes its final name when every cell ran.
  A failed or interrupted run is therefore kept, and never replaces a finished one.
- Exit status: 0 done, 1 a cell failed, 2 refused before anything ran, 130 interrupted.
"""

import argparse
import ast
import difflib
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import aion_lite


class Refused(Exception):
    """A mistake of the user's, told in one sentence."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell, ``name: kind = default  # help``, each part as it is written."""

    name: str
    kind: str
    default: str
    help: str


def notebooks() -> dict[str, Path]:
    """Every notebook by name: of the nearest ``notebooks`` folder upwards, else of aion-lite's checkout."""
    for base in (Path.cwd(), *Path.cwd().parents, Path(aion_lite.__file__).parents[1]):
        # .ipynb first, so that .py wins: it is the source half of the pair
        halves = [path for half in ("ipynb", "py") for path in base.glob(f"notebooks/[0-9][0-9]_*.{half}")]
        if halves:
            return dict(sorted({path.stem: path for path in halves}.items()))
    return {}


def find_notebook(name: str) -> Path:
    """A path of either half, or a name (``01_predict_redshifts``) or number (``1``) from the book."""
    for path in (Path(name), Path(name + ".py"), Path(name + ".ipynb")):
        if path.suffix in (".py", ".ipynb") and path.is_file():
            return path.resolve()
    known = notebooks()
    for stem, path in known.items():
        if name == stem or stem.startswith(f"{name:0>2}_"):
            return path
    listed = ", ".join(known) or "none: run this in a checkout of aion-lite, or give a path"
    raise Refused(f"there is no notebook {name!r}{close(name, known)}; the book has {listed}.")


def close(name: str, known) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def read_notebook(path: Path):
    import jupytext

    try:
        return jupytext.read(path, fmt="py:percent" if path.suffix == ".py" else "ipynb")
    except Exception as error:  # a broken file breaks in many ways inside nbformat; all mean the same here
        raise Refused(f"{path} cannot be read as a notebook: {error}.") from error


def parameters(nb) -> dict[str, Parameter]:
    """What the cell tagged ``parameters`` declares; no cell, no parameters."""
    found = {}
    for source in (cell.source for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])):
        for node in ast.parse(source, "the parameters cell").body:
            match node:
                case ast.AnnAssign(ast.Name(name), kind, ast.expr() as default):
                    rest = source.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
                    help = rest.partition("#")[2].strip()
                    found[name] = Parameter(name, ast.unparse(kind), ast.unparse(default), help)
    return found


def describe(nb) -> tuple[str, str]:
    """Title and first sentence."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", text, re.M)
    prose = re.search(r"^[\w*\"'“(].+?[.!?](?=\s)", text + "\n", re.M | re.S)
    return title.group(1) if title else "", " ".join(prose.group().split()) if prose else ""


def value_of(text: str, kind: str):
    """``text`` as a value of the annotated ``kind``; ValueError, KeyError or SyntaxError where it is none."""
    if kind.startswith("list["):
        items = [item.strip(" '\"") for item in text.strip("[] ").split(",")]
        return [value_of(item, kind[5:-1]) for item in items if item]
    if kind == "bool":
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    if kind == "float" and not math.isfinite(float(text)):
        raise ValueError
    return {"int": int, "float": float, "str": str}.get(kind, ast.literal_eval)(text)


def as_typed(p: Parameter) -> str:
    """The default as a shell takes it: lists without brackets, quotes and spaces."""
    return ",".join(map(str, ast.literal_eval(p.default))) if p.kind.startswith("list[") else p.default


def check_parameters(given: list[str], known: dict[str, Parameter], notebook: str) -> dict[str, object]:
    values = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise Refused(f"-p takes name=value, got {item!r}.")
        if name == "output_dir":
            raise Refused("the folder for results is given with -o DIR, not as a parameter.")
        if name not in known:
            listed = ", ".join(f"{p.name} ({p.kind})" for p in known.values()) or "none"
            raise Refused(f"{notebook} has no parameter {name!r}{close(name, known)}; it has {listed}.")
        kind, default = known[name].kind, known[name].default
        try:
            values[name] = value_of(text, kind)
        except (ValueError, KeyError, SyntaxError):
            message = f"{notebook} takes {name} as {kind}, got {text!r}; the default is {default}."
            raise Refused(message) from None
    return values


def run(args) -> int:
    path = find_notebook(args.notebook)
    nb = read_notebook(path)
    known = parameters(nb)
    given = args.parameter + ([f"profile={args.profile}"] if args.profile is not None else [])
    values = check_parameters(given, known, path.stem)

    out = Path(args.output or Path("runs") / path.stem)
    done, partial = out / f"{path.stem}.ipynb", out / f"{path.stem}.partial.ipynb"
    staged = out / f"{path.stem}.partial"  # for what it writes; earlier results stay until it is done
    if out.resolve() == path.parent:
        raise Refused(f"the output folder {out} holds the notebook itself: choose another with -o.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
    except OSError as error:
        why = error.strerror or error
        raise Refused(f"cannot write to the output folder {out} ({why}): choose another with -o.") from None
    if "output_dir" in known:
        values["output_dir"] = str(staged.resolve())

    status = execute(nb, partial, values, cwd=path.parent)
    if status != 0:
        print(f"The notebook as far as it ran: {partial}", file=sys.stderr)
        return status
    os.replace(partial, done)
    written = [Path(shutil.move(file, out / file.name)) for file in sorted(staged.iterdir())]
    staged.rmdir()
    report(done, written)
    return 0


def execute(nb, output: Path, values: dict, cwd: Path) -> int:
    """Papermill, with a failing cell told in a few lines in place of a traceback through papermill."""
    # A venv's or conda's own kernel before one of the same name in the home folder.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else the kernel warns of frozen modules
    import papermill
    from nbclient.exceptions import DeadKernelError

    to = str(output.resolve()).replace("{", "{{").replace("}", "}}")  # papermill formats braces in paths
    kernel = {"kernel_name": "python3", "language": "python", "extra_arguments": ["--log-level=CRITICAL"]}
    try:
        papermill.execute_notebook(nb, to, values, cwd=cwd, **kernel)
    except papermill.PapermillExecutionError as error:
        source = "\n".join(f"    {line}" for line in error.source.splitlines()[:8])
        print(f"Cell [{error.exec_count}] failed:\n{source}\n{error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except DeadKernelError:
        print("The kernel died; most often the machine ran out of memory.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


def report(notebook: Path, written: list[Path]) -> None:
    """The last lines of a run: where things lie, and the score."""
    results = notebook.with_name("results.json")
    print(f"notebook  {notebook}")
    for figure in (file for file in written if file.suffix == ".png"):
        print(f"figure    {figure}")
    if results in written:
        print(f"results   {results}")
        print(json.loads(results.read_text()).get("summary", "(no summary in results.json)"))


def show_list(args) -> int:
    from aion_lite.data import datasets

    print("Notebooks (aion-lite run NAME -p name=value)")
    for name, path in notebooks().items():
        nb = read_notebook(path)
        print("\n  {}: {}\n    {}".format(name, *describe(nb)))
        for p in parameters(nb).values():
            if p.name != "output_dir":  # -o gives it
                print(f"    -p {p.name}={as_typed(p)}  ({p.kind}) {p.help}")
    print("\nData sets (aion-lite data NAME)\n")
    for dataset in datasets():
        print(f"  {dataset}")
    return 0


def get_data(args) -> int:
    from aion_lite.data import fetch

    try:
        print(fetch(args.name, args.folder))
    except (ValueError, RuntimeError, OSError) as error:
        raise Refused(str(error)) from error
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("aion-lite", description="Run the book's notebooks and fetch its data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("run", help="run a notebook with your parameters")
    sub.add_argument("notebook", help="path of either half, or its name or number in the book")
    sub.add_argument(
        "-p", dest="parameter", action="append", default=[], metavar="name=value", help="repeatable"
    )
    sub.add_argument("--profile", help="shorthand for -p profile=...; full is the long run")
    sub.add_argument("-o", dest="output", metavar="DIR", help="output folder; default runs/NOTEBOOK")
    sub.set_defaults(call=run)

    sub = commands.add_parser("list", help="notebooks with their parameters, and data sets")
    sub.set_defaults(call=show_list)

    sub = commands.add_parser("data", help="fetch a public data set, or check a folder of yours")
    sub.add_argument("name")
    sub.add_argument("--folder", metavar="DIR", help="where you placed the files yourself")
    sub.set_defaults(call=get_data)

    args = parser.parse_args(argv)
    try:
        return args.call(args)
    except BrokenPipeError:  # the reader of the list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Refused, SyntaxError) as error:
        print(f"aion-lite {args.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"aion-lite {args.command}: there is no {error.name}: pip install 'aion-lite[book]'.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
