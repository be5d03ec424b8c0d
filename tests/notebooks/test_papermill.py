"""Gate 4: every notebook runs with a second set of parameters and records what it ran with."""

import json

import nbformat
import pytest
from check_notebooks import FOLDER

from aion_lite import cli

# A small run away from the defaults for each notebook, and what must hold of its results.json.
SECOND_RUN = {
    "01_predict_redshifts": ({"seed": 1, "num_train": 1000}, lambda results: r2(results) > 0.7),
    "02_tokenise_a_scalar": (
        {"seed": 1, "num_seeds": 2, "sizes": [100, 1000]},
        lambda results: scalar_error(results) < 0.04,
    ),
    "03_tokenise_an_image": (
        {"seed": 1, "num_train": 600, "steps": 120},
        lambda results: image_r2(results) > 0.8,
    ),
    "04_tokenise_a_series_and_a_spectrum": (
        {"seed": 1, "num_train": 600, "steps": 120},
        lambda results: min(r["r2"] for r in codec_scores(results, 600)) > 0.5,
    ),
    "05_start_from_pretrained": (
        {"seed": 1, "sizes": [60], "steps": 30},
        lambda results: frozen_probes(results)["pretrained"] > 0.45,
    ),
    "06_train_the_transformer": (
        {"seed": 1, "num_train": 1000, "steps": 80},
        lambda results: errors_of_redshift(results, "ugriz + JHK")["masked"] < 0.04,
    ),
    "07_make_data_with_a_known_answer": (
        {"seed": 1, "num_train": 500, "steps": 120},
        lambda results: 0.25 < severity_kept(results, "whitened, no norm, weighted, 1,048,576 codes") < 1.0,
    ),
    "08_augment_images_and_series": (
        {"seed": 1, "sizes": [60], "steps": 40},
        lambda results: min(accuracies(results, "clothes", "watch").values()) > 0.25,
    ),
    "09_pretrain_without_labels": (
        {"seed": 1, "sizes": [60], "steps": 60},
        lambda results: neighbours_gain(results) > 0.02,
    ),
    "10_move_from_synthetic_to_real": (
        {"seed": 1, "num_train": 200, "steps": 90},
        lambda results: risk_found(results, 0) > max(0.65, 0.05 + risk_found(results, 90)),
    ),
    "11_learn_without_pairs": (
        {"seed": 1, "num_train": 2000, "steps": 120},
        lambda results: unpaired_rank(results, "back-translated") > 0.25,
    ),
}


def r2(results: dict) -> float:
    """Of the transformer's redshifts from the five optical bands."""
    return next(
        r["r2"] for r in results["records"] if (r["task"], r["method"]) == ("redshift from ugriz", "value")
    )


def scalar_error(results: dict) -> float:
    """Of 256 codes from 1,000 draws of a normal law, in standard deviations; the worse of two seeds."""
    key = ("normal", "nearest, 256 codes", 1000)
    found = [r["error"] for r in results["records"] if (r["task"], r["method"], r["n"]) == key]
    assert len(found) == 2
    return max(found)


def image_r2(results: dict) -> float:
    """Of the first codec on the test pictures."""
    key = ("first codec", "ImageCodec", 600)
    return next(r["r2"] for r in results["records"] if (r["task"], r["method"], r["n"]) == key)


def codec_scores(results: dict, n: int) -> list[dict]:
    """Of the series and the spectrum codec."""
    found = [r for r in results["records"] if (r["method"], r["n"]) == ("codec", n)]
    assert {r["task"] for r in found} == {"watch", "absorbers"}
    return found


def frozen_probes(results: dict) -> dict[str, float]:
    """Accuracy of the probe on the features of each frozen codec."""
    return {r["method"]: r["accuracy"] for r in results["records"] if r["task"] == "feature probe"}


def errors_of_redshift(results: dict, given: str) -> dict[str, float]:
    """Root mean square error by method, from these bands."""
    return {r["method"]: r["error"] for r in results["records"] if r["task"] == f"redshift from {given}"}


def severity_kept(results: dict, codec: str) -> float:
    """Share of what an X-ray tells of the severity that its tokens still tell."""
    return next(r["kept"] for r in results["records"] if (r["task"], r["method"]) == ("tokens", codec))


def accuracies(results: dict, *tasks: str) -> dict[tuple[str, str], float]:
    """By task and method, of whatever was trained on 60 labels; guessing gives 0.1 and 0.14."""
    found = {(r["task"], r["method"]): r["accuracy"] for r in results["records"] if r["task"] in tasks}
    assert {("clothes", "10 copies"), ("watch", "chosen")} <= set(found)
    return found


def neighbours_gain(results: dict) -> float:
    """What pretraining without labels added to the accuracy of neighbours, by the mean over a picture."""
    curve = next(r["mean"] for r in results["records"] if r["task"] == "neighbours over epochs")
    return curve[-1] - curve[0]


def risk_found(results: dict, degrees: int) -> float:
    """AUROC of a model that saw copies alone, from a law turned by this angle."""
    key = (f"law turned by {degrees} degrees", "synthetic only")
    return next(r["auroc"] for r in results["records"] if (r["task"], r["method"]) == key)


def unpaired_rank(results: dict, method: str) -> float:
    """Rank correlation of glucose with what a method says from the X-ray, no pair seen."""
    return next(r["rank"] for r in results["records"] if (r["method"], r["n"]) == (method, 0))


NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_second_parameters_reach_the_results(name, tmp_path):
    assert name in SECOND_RUN, f"give {name} a second set of parameters in this file"
    values, holds = SECOND_RUN[name]
    source = FOLDER / f"{name}.py"
    known = cli.parameters(cli.read_notebook(source))
    assert set(values) <= set(known)
    given = [part for key, value in values.items() for part in ("-p", f"{key}={value}")]
    assert cli.main(["run", str(source), *given, "-o", str(tmp_path)]) == 0

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["summary"].strip() and "\n" not in results["summary"]
    assert {key: results["parameters"][key] for key in values} == values
    assert holds(results), results
    made = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert all(cell.execution_count for cell in made.cells if cell.cell_type == "code")
    assert list(tmp_path.glob("*.png")), "its figures go to output_dir as well"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_unknown_parameters_are_refused(name, tmp_path, capsys):
    argv = ["run", str(FOLDER / f"{name}.py"), "-p", "nosuch=1", "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    assert "has no parameter 'nosuch'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
