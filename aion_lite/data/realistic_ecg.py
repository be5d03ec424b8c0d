"""EcgSimulator: traces by neurokit2's ECGSYN, in processes that are killed when one takes too long.

ECGSYN (McSharry and others 2003, IEEE Trans. Biomed. Eng. 50, 289) moves a point around a circle and past
five attractors, P to T; each turn is a beat, and its length varies with breathing and blood pressure.

May import numpy and the standard library only: this file is also the program of the processes, which start
without the package and without torch. Knows nothing of patients, severity and data sets.

Why it simulates at 200 Hz: neurokit2 0.2.13 lays beat after beat over a table of their lengths, made with
scipy.ndimage.zoom. Where a rounding error puts zoom's last point beyond the table, the last length is 0, and
a beat that begins there never ends: at 100 Hz many traces of 60 or 75 beats a minute never return. At 200 Hz
and 9 to 16 s (a table of 16 s) the last point falls within, every length is positive and the loop ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

LENGTH, RATE = 1000, 100  # samples of a trace, samples a second
FINE_RATE, SECONDS = 200, 14  # of the simulation, whose first beat, and one more at most, is cut off
START_LIMIT = 120.0  # seconds for a process to import neurokit2
TRACES_A_WORKER = 50  # to start a process takes about as long as these


def check_neurokit() -> None:
    """Raise ImportError where neurokit2 is missing; imports nothing."""
    if importlib.util.find_spec("neurokit2") is None:
        raise ImportError("A realistic ecg needs neurokit2: pip install 'aion-lite[physio]'.")


class EcgSimulator:
    """A context with a few processes that simulate one trace at a time each.

    Args:
        time_limit: seconds that one trace may take; a process that takes longer is killed.
        workers: number of processes at most; None: one a core, up to 16. One starts for every 50 traces.

    Results depend on the arguments of ``traces`` alone, not on time limit, workers or the machine's speed.
    Works from any thread, in notebooks and in scripts without a main guard: no process imports the caller.

    Raises ImportError where neurokit2 is missing.
    """

    def __init__(self, time_limit: float = 60.0, workers: int | None = None):
        check_neurokit()
        self.time_limit = time_limit
        self.workers = workers or min(os.cpu_count() or 1, 16)
        self._children: list[_Child] = []

    def __enter__(self) -> EcgSimulator:
        return self

    def __exit__(self, *error) -> None:
        for child in self._children:
            child.close()

    def traces(self, rates: np.ndarray, phases: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """(B, 1000) float32 traces of 10 s at 100 Hz, in mV, each of mean 0, with no noise.

        rates: (B,) beats a minute, 30 to 180. phases: (B,) share of a beat, 0 to 1, that has passed since an
        R wave at the first sample. seeds: (B,) integers, 0 to 2**32 - 1, of the variation from beat to beat.

        Raises ValueError on a rate or phase out of range, TimeoutError where a trace takes longer than the
        time limit, RuntimeError where neurokit2 fails.
        """
        rates, phases = np.asarray(rates), np.asarray(phases)
        if not (rates.size and np.all((rates >= 30) & (rates <= 180) & (phases >= 0) & (phases <= 1))):
            raise ValueError(
                f"rates lie in 30 to 180 a minute and phases in 0 to 1, got {rates} and {phases}."
            )
        while len(self._children) < min(self.workers, -(-len(rates) // TRACES_A_WORKER)):
            self._children.append(_Child())
        idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            idle.put(child)

        def one(request: tuple[float, float, int]) -> np.ndarray:
            child = idle.get()
            try:
                return child.ask(request, self.time_limit)
            finally:
                idle.put(child)

        requests = zip(map(float, rates), map(float, phases), map(int, seeds), strict=True)
        with ThreadPoolExecutor(len(self._children)) as threads:  # each waits for a process
            return np.stack(list(threads.map(one, requests)))


class _Child:
    """A process that answers one request at a time: a JSON line in, a JSON line and the samples out."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: the files beside this one are no modules of it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.ready = False

    def ask(self, request: tuple[float, float, int], time_limit: float) -> np.ndarray:
        """(1000,) float32."""
        if not self.ready:
            self._read(START_LIMIT, "neurokit2 took more than {} s to import and was stopped.")
            self.ready = True
        with contextlib.suppress(OSError):  # it died: reading tells
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        rate, _, seed = request
        samples = self._read(
            time_limit,
            f"neurokit2 took more than {{}} s for an ecg of {rate:g} beats a minute (its seed {seed}) and "
            "was stopped: raise ecg_time_limit if the machine is that slow, or use ecg='periodic'.",
        )
        return np.frombuffer(samples, np.float32)

    def _read(self, limit: float, late: str) -> bytes:
        """The next answer; kills the process after ``limit`` seconds."""
        out, begun = self.process.stdout, time.monotonic()
        timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = out.readline()
            head = json.loads(line) if line.endswith(b"\n") else None
            samples = out.read(head["bytes"]) if head else b""
        finally:
            timer.cancel()
        if head and "error" in head:
            raise RuntimeError(f"neurokit2 failed: {head['error']}")
        if head and len(samples) == head["bytes"]:
            return samples
        if time.monotonic() - begun >= limit:
            raise TimeoutError(late.format(f"{limit:g}"))
        raise RuntimeError(f"The process of neurokit2 ended by itself, with code {self.process.wait()}.")

    def close(self) -> None:
        self.process.kill()
        with contextlib.suppress(OSError), self.process:  # closes its pipes and waits for its end
            pass


# --- in the process


def _simulate(ecg_simulate, rate: float, phase: float, seed: int) -> np.ndarray:
    """(1000,) float32 by neurokit2's function."""
    x = ecg_simulate(
        duration=SECONDS,
        sampling_rate=FINE_RATE,
        heart_rate=rate,
        noise=0,
        method="ecgsyn",
        random_state=seed,
    )
    start, step = round((1 + phase) * 60 / rate * FINE_RATE), FINE_RATE // RATE
    x = np.asarray(x)[start : start + LENGTH * step : step]  # it begins on an R wave
    return (x - x.mean()).astype(np.float32)


def _serve() -> None:
    """Answer requests until the pipe is closed."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what neurokit2 prints is no answer

    def send(head: dict, samples: bytes = b"") -> None:
        answers.write(json.dumps(head).encode() + b"\n" + samples)
        answers.flush()

    try:
        from neurokit2 import ecg_simulate

        send({"bytes": 0})
        for line in requests:
            samples = _simulate(ecg_simulate, *json.loads(line)).tobytes()
            send({"bytes": len(samples)}, samples)
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}", "bytes": 0})


if __name__ == "__main__":
    _serve()
