"""SyntheticDataGenerator: patients from a known law, in memory or written to disk block by block.

The law is written down in synthetic_law.py, its Bayes limit in synthetic_limit.py. May import the
declarations, the data set, the ECG simulator and the checks of arguments; knows nothing of codecs and models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from aion_lite.arguments import real_number, whole_number
from aion_lite.data import synthetic_law as L
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.realistic_ecg import EcgSimulator, check_neurokit
from aion_lite.modalities import Image, Scalar, TimeSeries

BLOCK = 1000  # patients that are drawn together
MISSABLE = ("xray", "glucose", "cholesterol", "heart_rate", "ecg")


class SyntheticDataGenerator:
    """Patients with age, severity, xray, glucose, cholesterol, heart rate and ecg from one known law.

    Args:
        num_samples: number of patients.
        seed: of everything; a longer data set of the same seed begins with the shorter one, up to rounding.
        image_size: height and width of the xray, pixels.
        noise: factor on the white noise of xray and ecg, above 0.
        rho: 0 to 1, the strength of every link between modalities; 0 makes all independent.
        missing: None, "random" (each of ``MISSABLE`` is absent with probability ``rate``) or "severity" (with
            probability 1 - exp(-c severity), c such that ``rate`` are absent among all: the ill lack more).
        rate: share that is absent.
        law: "patients" (synthetic_law.py) or "seed": severity ~ U(0, 1), age ~ N(50, 15**2), glucose 90 +
            0.5 age + 50 severity + N(0, 10**2), cholesterol 150 + 0.8 age + 30 severity + N(0, 20**2), heart
            rate 70 + 10 severity + N(0, 5**2); above severity 0.5 a dark disc in the middle of an xray of
            noise and a fifth harmonic in an ecg that is a sine. There the mean pixel tells nearly all that
            the xray can, so no model shows its worth; the limit of R2 of glucose from the xray is 0.5.
        ecg: "periodic", the ecg of the law, or "realistic", where neurokit2's ECGSYN takes the place of the
            law's beat (realistic_ecg.py): beats whose length varies about the drawn rate, in mV. Rate, phase,
            gain, wander and noise are drawn as ever, and nothing but the ecg changes. What such an ecg tells
            has no known limit. To generate it, not to read it, takes ``pip install 'aion-lite[physio]'``.
        ecg_time_limit: seconds until the simulation of one realistic ecg, which takes 0.04 s of a core, is
            stopped; then generating raises TimeoutError.

    Raises TypeError where a number is none, ValueError where an argument is out of range, or where rho,
    noise, missing="severity" or ecg="realistic" is asked of the law "seed", which has none.
    """

    def __init__(
        self,
        num_samples: int = 10_000,
        seed: int = 0,
        image_size: int = 64,
        noise: float = 1.0,
        rho: float = 1.0,
        missing: str | None = None,
        rate: float = 0.2,
        law: str = "patients",
        ecg: str = "periodic",
        ecg_time_limit: float = 60.0,
    ):
        num_samples = whole_number("num_samples", num_samples, 1)
        seed = whole_number("seed", seed, 0)
        image_size = whole_number("image_size", image_size, 16)
        noise = real_number("noise", noise, 1e-6)
        rho, rate = real_number("rho", rho, 0, 1), real_number("rate", rate, 0, 1)
        ecg_time_limit = real_number("ecg_time_limit", ecg_time_limit, 1e-3)
        if missing not in (None, "random", "severity") or not 0 < rate < 1:
            raise ValueError(
                "missing is None, 'random' or 'severity' and rate lies between 0 and 1, "
                f"got {missing!r} and {rate!r}."
            )
        if law not in ("patients", "seed"):
            raise ValueError(f"law is 'patients' or 'seed', got {law!r}.")
        if ecg not in ("periodic", "realistic"):
            raise ValueError(f"ecg is 'periodic' or 'realistic', got {ecg!r}.")
        if law == "seed" and (rho != 1 or noise != 1 or missing == "severity" or ecg != "periodic"):
            raise ValueError(
                "The law 'seed' has no rho, noise, missing='severity' or ecg='realistic': use law='patients'."
            )
        self.settings = {
            "num_samples": num_samples, "seed": seed, "image_size": image_size, "noise": noise, "rho": rho,
            "ecg_time_limit": ecg_time_limit, "missing": missing, "rate": rate, "law": law, "ecg": ecg,
        }  # fmt: skip
        self.num_samples, self.seed, self.image_size, self.law = num_samples, seed, image_size, law
        self.ecg, self.ecg_time_limit = ecg, ecg_time_limit
        self.missing, self.rate = missing, rate
        self.patient_law = L.PatientLaw(rho, noise, image_size) if law == "patients" else None

    @property
    def modalities(self) -> list[Any]:
        """The declarations, in the order age, severity, xray, glucose, cholesterol, heart_rate, ecg."""
        return [
            Scalar("age", unit="years"),
            Scalar("severity"),
            Image("xray", size=self.image_size),
            Scalar("glucose", unit="mg/dL"),
            Scalar("cholesterol", unit="mg/dL"),
            Scalar("heart_rate", unit="1/min"),
            TimeSeries("ecg", length=L.LENGTH, rate=L.RATE),
        ]

    @property
    def loss_of_severity(self) -> float:
        """c of missing="severity": P(measured | severity) = exp(-c severity) has mean 1 - rate; else 0."""
        return self.rate / (1 - self.rate) / L.SEVERITY_MEAN if self.missing == "severity" else 0.0

    def generate_correlated_data(self) -> MultimodalDataset:
        """All patients in memory: 20 kB each at 64 pixels. ``info`` holds the nuisances."""
        blocks = list(self._blocks())
        values, present, info = (
            {name: np.concatenate([b[i][name] for b in blocks]) for name in blocks[0][i]} for i in range(3)
        )
        return MultimodalDataset(self.modalities, values, present, info=info)

    def batches(self) -> Iterator[MultimodalDataset]:
        """The same patients, 1,000 at a time; nothing is kept."""
        for i, (values, present, info) in enumerate(self._blocks()):
            ids = i * BLOCK + np.arange(len(values["age"]))
            yield MultimodalDataset(self.modalities, values, present, ids, info)

    def write(self, folder: str | Path) -> Path:
        """The same patients as .npy files of ``folder``, one a modality, in constant memory.

        The folder must not exist; it appears when it is whole. ``read_synthetic`` reads any rows of it.
        """
        folder = Path(folder)
        part = folder.with_name(folder.name + ".part")
        if folder.exists() or part.exists():
            raise FileExistsError(f"{folder} or {part.name} is there already: name another folder.")
        if self.ecg == "realistic":
            check_neurokit()  # before there is a folder
        part.mkdir(parents=True)
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for block in self._blocks():
                for kind, arrays in zip(("values", "present", "info"), block, strict=True):
                    for name, array in arrays.items():
                        file = part / f"{kind}.{name}.npy"
                        if file not in files:
                            files[file] = stack.enter_context(open(file, "wb"))
                            header = np.lib.format.header_data_from_array_1_0(array)
                            header |= {
                                "shape": (self.num_samples, *array.shape[1:]),
                                "fortran_order": False,
                            }
                            np.lib.format.write_array_header_1_0(files[file], header)
                        np.ascontiguousarray(array).tofile(files[file])
        (part / "settings.json").write_text(json.dumps(self.settings))
        return part.rename(folder)

    def _blocks(self) -> Iterator[tuple[dict, dict, dict]]:
        """(values, present, info) of each block; of the last one as much as is asked for."""
        with ExitStack() as stack:
            simulator = None
            if self.ecg == "realistic":
                simulator = stack.enter_context(EcgSimulator(self.ecg_time_limit))
            for i, start in enumerate(range(0, self.num_samples, BLOCK)):
                # Streams of their own, so that the last block begins as a whole one does.
                latent, pixel, sample, mask, beat = (
                    np.random.default_rng([self.seed, i, k]) for k in range(5)
                )
                num = min(BLOCK, self.num_samples - start)
                if self.law == "seed":
                    values, info = self._draw_seed(num, latent, pixel, sample)
                else:
                    values, info = self._draw_patients(num, latent, pixel)
                    if simulator is not None:
                        info["ecg_seed"] = beat.integers(0, 2**31, BLOCK)[:num]
                    values["ecg"] = self._ecg(info, sample, simulator)[:, None]
                chance = np.full((BLOCK, 1), 0.0)
                if self.missing == "random":
                    chance += self.rate
                elif self.missing == "severity":
                    chance[:num, 0] = -np.expm1(-self.loss_of_severity * values["severity"])
                absent = mask.random((BLOCK, len(MISSABLE))) < chance
                yield values, {n: ~absent[:num, j] for j, n in enumerate(MISSABLE)}, info

    def _draw_patients(self, num: int, latent: Generator, pixel: Generator):
        """(values, info) of all but the ecg."""
        law = self.patient_law
        # (2, BLOCK): the patient, and a stranger whom xray or ecg may show instead
        severity = latent.exponential(L.SEVERITY_MEAN, (2, BLOCK))
        age = latent.normal(L.AGE_MEAN, L.AGE_SD, BLOCK)
        scalars = law.scalar_mean + law.slope * severity[..., None]  # (2, BLOCK, 4)
        scalars += np.r_[1, law.rho * L.OF_AGE[1:]] * (age[:, None] - L.AGE_MEAN)
        scalars += np.sqrt(law.own_variance) * latent.standard_normal((2, BLOCK, 4))
        strange = (latent.random((2, BLOCK)) >= law.rho).astype(int)  # of the xray, of the ecg
        row = np.arange(BLOCK)
        shown = severity[strange[0], row]
        rate = scalars[strange[1], row, 3] + latent.normal(0, L.RATE_SD, BLOCK)
        rate_bin = np.clip(np.rint(10 * rate).astype(int), L.RATE_BINS[0], L.RATE_BINS[-1])
        info = {
            "shown_severity": shown,
            "lesion_place": law.places[latent.integers(0, len(law.places), BLOCK)],
            "lesion_width": latent.integers(0, len(L.LESION_WIDTHS), BLOCK),
            "body": latent.standard_normal((BLOCK, len(law.modes)), np.float32),
            "rate_bin": rate_bin,
            "phase": latent.integers(0, L.PHASES, BLOCK),
            "gain": latent.normal(1, L.GAIN_SD, BLOCK),
            "wander": latent.standard_normal((BLOCK, len(law.slow)), np.float32),
        }
        info = {name: array[:num] for name, array in info.items()}
        values = dict(zip(L.SCALARS, scalars[0, :num].T.astype(np.float32), strict=True))
        values["severity"] = severity[0, :num].astype(np.float32)
        values["xray"] = self._xray(info, pixel)[:, None]
        return values, info

    def _xray(self, info: dict[str, np.ndarray], pixel: Generator) -> np.ndarray:
        """(B, H, W) float32."""
        law, size = self.patient_law, self.image_size
        modes = law.modes.astype(np.float32).reshape(len(law.modes), -1)
        x = (info["body"] @ modes).reshape(-1, size, size) + law.chest.astype(np.float32)
        rows, columns = (law.profiles[info["lesion_width"], info["lesion_place"][:, i]] for i in (0, 1))
        rows = L.LESION_ATTENUATION * info["shown_severity"][:, None] * rows
        x += rows.astype(np.float32)[:, :, None] * columns.astype(np.float32)[:, None, :]
        return x + np.float32(law.pixel_sd) * pixel.standard_normal(x.shape, np.float32)

    def _ecg(
        self, info: dict[str, np.ndarray], sample: Generator, simulator: EcgSimulator | None
    ) -> np.ndarray:
        """(B, T) float32."""
        law = self.patient_law
        if simulator is None:
            beats = law.beats(info["rate_bin"], info["phase"])
        else:
            beats = simulator.traces(info["rate_bin"] / 10, info["phase"] / L.PHASES, info["ecg_seed"])
        x = info["gain"].astype(np.float32)[:, None] * beats
        x += info["wander"] @ law.slow.astype(np.float32)
        return x + np.float32(law.ecg_sd) * sample.standard_normal(x.shape, np.float32)

    def _draw_seed(self, num: int, latent: Generator, pixel: Generator, sample: Generator):
        """The law of the seed document, as the class describes it."""
        age, severity = latent.normal(50, 15, BLOCK)[:num], latent.random(BLOCK)[:num]
        own = latent.standard_normal((BLOCK, 3))[:num]
        values = {
            "age": age,
            "severity": severity,
            "glucose": 90 + 0.5 * age + 50 * severity + 10 * own[:, 0],
            "cholesterol": 150 + 0.8 * age + 30 * severity + 20 * own[:, 1],
            "heart_rate": 70 + 10 * severity + 5 * own[:, 2],
        }
        s = severity[:, None, None].astype(np.float32)
        size = self.image_size
        x = 0.5 + 0.1 * pixel.standard_normal((num, size, size), np.float32)
        away = np.hypot(*np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2))
        x = np.where((s > 0.5) & (away < 50 / 224 * size * s), 0.5 * x, x)
        cycles = values["heart_rate"][:, None] / 60 * np.linspace(0, 10, L.LENGTH)
        s = s[:, 0]
        ecg = np.sin(2 * np.pi * cycles) + np.where(s > 0.5, 0.3 * s, 0) * np.sin(10 * np.pi * cycles)
        ecg += 0.1 * (1 + s) * sample.standard_normal(ecg.shape, np.float32)
        values = {name: v.astype(np.float32) for name, v in values.items()}
        return {**values, "xray": x[:, None], "ecg": ecg[:, None].astype(np.float32)}, {}


def read_synthetic(folder: str | Path, rows: Any = None) -> MultimodalDataset:
    """Patients that ``SyntheticDataGenerator.write`` wrote; ``ids`` are their numbers.

    ``rows``: which to load (an index array or slice; default all). The others are not read from disk.
    Raises FileNotFoundError where the folder is no such data set.
    """
    folder = Path(folder)
    if not (folder / "settings.json").is_file():
        raise FileNotFoundError(f"{folder} holds no synthetic patients: make them with write(folder).")
    settings = json.loads((folder / "settings.json").read_text())
    ids = np.arange(settings["num_samples"])
    rows = ids if rows is None else ids[rows]
    parts: dict[str, dict] = {"values": {}, "present": {}, "info": {}}
    for file in folder.glob("*.*.npy"):
        kind, name, _ = file.name.split(".")
        parts[kind][name] = np.load(file, mmap_mode="r")[rows]
    return MultimodalDataset(SyntheticDataGenerator(**settings).modalities, ids=rows, **parts)
