"""Data sets: the samples themselves, and where real ones come from."""

from aion_lite.data.copula import GaussianCopula
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.emoji import load_emoji_names
from aion_lite.data.fashion_mnist import load_fashion_mnist
from aion_lite.data.fetch import datasets, fetch
from aion_lite.data.galaxies import load_galaxies, simulate_galaxies
from aion_lite.data.hubble import load_hubble_crops
from aion_lite.data.sdss import load_sdss_galaxies
from aion_lite.data.supernovae import load_supernovae
from aion_lite.data.support2 import load_support2
from aion_lite.data.synthetic import SyntheticDataGenerator, read_synthetic
from aion_lite.data.synthetic_limit import BayesLimit
from aion_lite.data.watch import load_watch

__all__ = [
    "BayesLimit",
    "GaussianCopula",
    "MultimodalDataset",
    "SyntheticDataGenerator",
    "datasets",
    "fetch",
    "load_emoji_names",
    "load_fashion_mnist",
    "load_galaxies",
    "load_hubble_crops",
    "load_sdss_galaxies",
    "load_supernovae",
    "load_support2",
    "load_watch",
    "read_synthetic",
    "simulate_galaxies",
]
