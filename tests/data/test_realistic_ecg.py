"""Realistic ecgs against scipy's peak finder, neurokit2's own and the clock."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks

from aion_lite.data import BayesLimit, SyntheticDataGenerator, read_synthetic
from aion_lite.data import synthetic_law as law
from aion_lite.data.realistic_ecg import FINE_RATE, LENGTH, RATE, EcgSimulator

RATES = np.array([30.0, 45.3, 60.0, 75.0, 96.0, 120.0, 180.0])
PHASES = np.array([0.0, 0.25, 0.5, 63 / 64, 0.1, 0.7, 0.9])


def make(num=30, ecg="realistic", **options):
    return SyntheticDataGenerator(num, seed=5, image_size=16, ecg=ecg, **options)


@pytest.fixture(scope="module")
def neurokit():
    return pytest.importorskip("neurokit2")


@pytest.fixture(scope="module")
def patients(neurokit):
    return make().generate_correlated_data()


# --- the traces


def test_a_trace_beats_at_its_rate_from_its_phase(neurokit):
    with EcgSimulator(workers=2) as simulator:
        traces = simulator.traces(RATES, PHASES, np.arange(7))
    assert traces.shape == (7, LENGTH) == (7, law.LENGTH) and traces.dtype == np.float32 and law.RATE == RATE
    for trace, rate, phase in zip(traces, RATES, PHASES, strict=True):
        peaks = find_peaks(trace, height=0.5)[0]
        assert 60 * RATE / np.diff(peaks).mean() == pytest.approx(rate, rel=0.01)
        turns = peaks[0] / RATE * rate / 60 + phase  # whole at an R wave
        assert turns == pytest.approx(round(turns), abs=0.06)
        theirs = neurokit.ecg_peaks(trace, sampling_rate=RATE)[1]["ECG_R_Peaks"]
        assert 60 * RATE / np.median(np.diff(theirs)) == pytest.approx(rate, rel=0.03)
    lengths = np.diff(find_peaks(traces[2], height=0.5)[0])
    assert len(set(lengths)) > 1  # no clock
    assert traces.mean(1) == pytest.approx(np.zeros(7), abs=1e-5)


def test_rates_and_seeds_at_which_the_plain_call_never_returns_do(neurokit):
    """At 100 Hz and 60 beats a minute the first five never return; the cause is the 0 that ends the table."""
    seeds = np.r_[0, 5, 6, 30, 31, np.arange(100, 130)]
    with EcgSimulator(workers=2) as simulator:
        traces = simulator.traces(np.full(35, 60.0), np.zeros(35), seeds)
    assert len(np.unique(traces, axis=0)) == 35
    last = [
        neurokit.signal_resample(np.ones(16), sampling_rate=1, desired_sampling_rate=hz)[-1]
        for hz in (100, FINE_RATE)
    ]
    assert last == pytest.approx([0, 1])


def test_the_seed_decides_whatever_the_number_of_processes(neurokit):
    arguments = np.full(60, 71.5), np.linspace(0, 1, 60), np.arange(60) % 59
    with EcgSimulator(workers=1) as one, EcgSimulator(workers=2) as two:
        a, b, c = one.traces(*arguments), two.traces(*arguments), two.traces(*(x[:3] for x in arguments))
        assert len(one._children) == 1 and len(two._children) == 2  # kept from call to call
    assert np.array_equal(a, b) and np.array_equal(a[:3], c)
    assert not np.allclose(a[0], a[59])


# --- the patients


def test_the_option_changes_the_ecg_alone(patients):
    plain = make(ecg="periodic").generate_correlated_data()
    for name, values in plain.values.items():
        assert torch.equal(values, patients.values[name]) == (name != "ecg")
        assert torch.equal(plain.present[name], patients.present[name])
    for name, array in plain.info.items():
        assert np.array_equal(array, patients.info[name])
    assert set(patients.info) - set(plain.info) == {"ecg_seed"}


def test_a_patients_ecg_beats_at_the_drawn_rate_with_gain_and_noise_of_the_law(patients, neurokit):
    info = patients.info
    with EcgSimulator() as simulator:
        beats = simulator.traces(info["rate_bin"] / 10, info["phase"] / law.PHASES, info["ecg_seed"])
    ecg = patients.values["ecg"][:, 0].numpy()
    wander = info["wander"] @ law.PatientLaw().slow
    noise = (ecg - info["gain"][:, None] * beats - wander) / law.ECG_SD
    assert noise.mean() == pytest.approx(0, abs=4 / np.sqrt(noise.size))
    assert noise.var() == pytest.approx(1, abs=4 * np.sqrt(2 / noise.size))
    for trace, rate_bin in zip(ecg, info["rate_bin"], strict=True):  # with all its noise
        trace = neurokit.ecg_clean(trace, sampling_rate=RATE)
        peaks = neurokit.ecg_peaks(trace, sampling_rate=RATE)[1]["ECG_R_Peaks"]
        assert 60 * RATE / np.median(np.diff(peaks)) == pytest.approx(rate_bin / 10, rel=0.03)


def test_chunks_and_written_patients_are_the_whole(patients, tmp_path):
    fewer = make(12).generate_correlated_data()
    torch.testing.assert_close(fewer.values["ecg"], patients.values["ecg"][:12], atol=1e-5, rtol=0)
    (batch,) = make().batches()
    written = read_synthetic(make().write(tmp_path / "patients"), slice(3, 7))
    assert torch.equal(batch.values["ecg"], patients.values["ecg"])
    assert torch.equal(written.values["ecg"], patients.values["ecg"][3:7])
    assert np.array_equal(written.info["ecg_seed"], patients.info["ecg_seed"][3:7])


def test_it_works_off_the_main_thread_and_in_a_script_with_no_main_guard(patients, tmp_path):
    made = []
    thread = threading.Thread(target=lambda: made.append(make(2).generate_correlated_data()))
    thread.start()
    thread.join()
    assert torch.allclose(made[0].values["ecg"], patients.values["ecg"][:2], atol=1e-5)
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\nfrom aion_lite.data.realistic_ecg import EcgSimulator\n"
        "with EcgSimulator() as s:\n    print(s.traces([60.0], [0.0], [1]).shape)\n"
    )
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, script]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=paths)
    assert out.stdout == "(1, 1000)\n"


# --- what goes wrong


def put_in_place_of_neurokit(monkeypatch, folder, body):
    (folder / "neurokit2.py").write_text(f"def ecg_simulate(**options):\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "neurokit2", raising=False)


def test_a_simulation_that_never_ends_is_stopped_and_told(monkeypatch, tmp_path):
    put_in_place_of_neurokit(monkeypatch, tmp_path, "while True: pass")
    with pytest.raises(TimeoutError, match=r"took more than 0\.5 s for an ecg of .* and was stopped: raise"):
        make(3, ecg_time_limit=0.5).generate_correlated_data()
    with EcgSimulator(time_limit=0.5, workers=1) as simulator:
        with pytest.raises(TimeoutError, match="60 beats a minute"):
            simulator.traces(np.full(3, 60.0), np.zeros(3), np.arange(3))
        assert simulator._children[0].process.wait() != 0  # killed


def test_a_simulation_that_fails_or_dies_is_told(monkeypatch, tmp_path):
    put_in_place_of_neurokit(monkeypatch, tmp_path, "print('talk'); raise ZeroDivisionError('no beat')")
    with pytest.raises(RuntimeError, match="neurokit2 failed: ZeroDivisionError: no beat"):
        make(3).generate_correlated_data()
    put_in_place_of_neurokit(monkeypatch, tmp_path, "import os; os._exit(7)")
    with pytest.raises(RuntimeError, match="ended by itself, with code 7"):
        make(3).generate_correlated_data()


def test_without_neurokit_all_but_generating_works(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "neurokit2", None)
    for generate in (make().generate_correlated_data, lambda: make().write(tmp_path / "patients")):
        with pytest.raises(ImportError, match=r"needs neurokit2: pip install 'aion-lite\[physio\]'"):
            generate()
    assert not list(tmp_path.iterdir())
    assert make().modalities == make(ecg="periodic").modalities


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="ecg is 'periodic' or 'realistic', got 'real'"):
        make(ecg="real")
    with pytest.raises(ValueError, match=r"ecg_time_limit is a finite number of 0.001 or more"):
        make(ecg_time_limit=0)
    with pytest.raises(ValueError, match="ecg='realistic': use law='patients'"):
        make(law="seed")


def test_a_rate_that_cannot_be_simulated_is_refused(neurokit):
    with EcgSimulator() as simulator, pytest.raises(ValueError, match="rates lie in 30 to 180"):
        simulator.traces([60.0, 20.0], [0.0, 0.0], [1, 2])


# --- the limit


def test_the_limit_refuses_a_realistic_ecg_and_answers_all_else_alike(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurokit2", None)  # not needed for it
    realistic, periodic = (BayesLimit(make(ecg=e), num_samples=60) for e in ("realistic", "periodic"))
    data = make(40, ecg="periodic").generate_correlated_data()
    for given, target in ((["ecg"], "heart_rate"), (["age", "ecg"], "glucose"), (["age"], "ecg")):
        for ask in (realistic.score, lambda *question: realistic.predict(data, *question)):
            with pytest.raises(ValueError, match="What a realistic ecg tells has no known limit"):
                ask(given, target)
    for given, target in ((["xray", "age"], "glucose"), (["heart_rate"], "severity"), ([], "age")):
        assert realistic.score(given, target) == periodic.score(given, target)
        ours, theirs = (limit.predict(data, given, target) for limit in (realistic, periodic))
        assert np.array_equal(ours.mean, theirs.mean) and np.array_equal(ours.log_prob, theirs.log_prob)
