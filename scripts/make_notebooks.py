"""Make every .ipynb of the book from its .py half, and run it: `make notebooks`, or with names for a few.

The .py half is the source. Each notebook is run with its default parameters and replaces the old .ipynb only
if every cell ran, so a failure leaves the book as it was and is told by the exit status. Apart from outputs
the bytes depend on the source alone: ids by position, one kernel name, no times, no versions.
"""

import argparse
import base64
import io
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, not one in the home folder
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

import jupytext
import nbformat
import papermill
from check_notebooks import FOLDER, KERNEL, check_pair
from PIL import Image

METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": KERNEL,
    "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
}


def make(source: Path) -> None:
    """Run one .py half and put the executed .ipynb beside it; raises if a cell fails."""
    nb = jupytext.read(source, fmt="py:percent")
    nb.metadata = nbformat.from_dict(METADATA)
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".making-") as folder:
        made = Path(folder) / source.with_suffix(".ipynb").name
        options = {"kernel_name": "python3", "extra_arguments": ["--log-level=CRITICAL"]}
        nb = papermill.execute_notebook(nb, str(made), cwd=source.parent, **options)
        nbformat.write(tidy(nb), made)
        made.replace(source.with_suffix(".ipynb"))


def tidy(nb):
    """Without what a run leaves behind: times, random ids, split streams, widget states."""
    nb.metadata = nbformat.from_dict(METADATA)
    for position, cell in enumerate(nb.cells):
        cell.id = f"cell-{position:03d}"
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb") and v}
        )
        if cell.cell_type == "code":
            cell.outputs = small(still(merged(cell.outputs)))
    nb.nbformat, nb.nbformat_minor = 4, 5
    nbformat.validate(nb)
    return nb


def small(outputs: list) -> list:
    """Pictures with a palette in place of true colour: half the bytes, and no difference to the eye."""
    for output in outputs:
        png = output.get("data", {}).get("image/png")
        if png:
            file = io.BytesIO()
            picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
            picture.quantize(128, dither=Image.Dither.NONE).save(file, "png", optimize=True)
            output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()
    return outputs


def still(outputs: list) -> list:
    """Without views of widgets, which are dead without their state; the picture beside one stays."""
    for output in outputs:
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return [output for output in outputs if output.output_type != "display_data" or output.data]


def merged(outputs: list) -> list:
    """Neighbouring pieces of one stream as one: where a print is cut depends on the moment."""
    result = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Regenerate and run the book's notebooks from their .py halves."
    )
    parser.add_argument("names", nargs="*", help="names such as 01_predict_redshifts; default all")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args(argv)

    sources = {path.stem: path for path in sorted(args.folder.resolve().glob("[0-9][0-9]_*.py"))}
    unknown = [name for name in args.names if Path(name).stem not in sources]
    if unknown:
        print(
            f"no source {', '.join(unknown)} in {args.folder}; there are {', '.join(sources)}",
            file=sys.stderr,
        )
        return 2
    bad = []
    for name in [Path(name).stem for name in args.names] or sources:
        print(name, flush=True)
        try:
            make(sources[name])
        except Exception as error:
            bad.append(f"{name} failed, its .ipynb is as it was: {error}")
        else:
            bad += check_pair(sources[name])  # what `make test` would say, said now
    print("\n".join(bad) or "all made and checked", file=sys.stderr if bad else sys.stdout)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
