"""The code in the README runs as it stands, on a small table of the reader's own."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_runs_and_finds_what_is_in_the_data():
    code = re.search(r"```python\n(.+?)```", README.read_text(), re.S).group(1)
    rng = np.random.default_rng(0)
    age, ward = rng.uniform(20, 90, 300), rng.integers(0, 2, 300)
    glucose = np.exp(4 + age / 90 + 0.1 * rng.standard_normal(300))
    frame = pd.DataFrame({"age": age, "glucose": glucose, "patient": np.arange(300) // 2})
    frame["ward"] = np.array(["surgery", "medicine"])[ward]
    frame.loc[::7, "glucose"] = np.nan
    names = {"frame": frame}
    exec(code.replace("steps=1000", "steps=40"), names)
    known = names["test"].present["glucose"].numpy()
    truth = names["test"].values["glucose"].numpy()[known]
    median = names["prediction"].median.numpy()[known]
    assert np.corrcoef(truth, median)[0, 1] > 0.7  # age explains four fifths of the spread of log glucose
    low, high = names["prediction"].interval(0.9)
    assert (low < high).all()


def test_the_speeds_are_those_that_the_benchmarks_stored():
    script = README.parent / "scripts" / "quote_benchmarks.py"
    spec = importlib.util.spec_from_file_location("quote_benchmarks", script)
    quote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quote)
    assert quote.block() in README.read_text(), "run python scripts/quote_benchmarks.py"
    training = quote.read("train_step")
    assert training["catalogue_ratio"] <= 1.1 and training["gib_at_batch_256"] <= 40
