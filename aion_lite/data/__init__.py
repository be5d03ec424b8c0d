"""Data sets: the container, the real sets that travel in the package, and the ones that are fetched."""

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.fetch import datasets, fetch
from aion_lite.data.sdss import load_sdss_galaxies
from aion_lite.data.support2 import load_support2

__all__ = ["MultimodalDataset", "datasets", "fetch", "load_sdss_galaxies", "load_support2"]
