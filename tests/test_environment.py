"""environment.yml (conda) asks for what pyproject.toml asks for, and the version is one."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_pins_are_equal():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    extras = PROJECT["optional-dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert pip == ["-e .", *PROJECT["dependencies"], *extras["book"], *extras["test"]]


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_readme_and_makefile_give_the_same_lines():
    readme = one_line((ROOT / "README.md").read_text())
    makefile = (ROOT / "Makefile").read_text()
    lines = re.findall(r"^\t(\$\(BIN\)/(?:aion-lite|pytest|jupyter|python scripts/gpu).*)$", makefile, re.M)
    assert len(lines) == 5
    assert [line for line in lines if one_line(line) not in readme] == []


def one_line(text: str) -> str:
    """Without line breaks, and with the environment named as the README names it."""
    return re.sub(r"[\s\\]+", " ", text.replace("$(BIN)", ".venv/bin"))
