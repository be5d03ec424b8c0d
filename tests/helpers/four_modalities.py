"""Four modalities, random data sets of them, and when two sets of tokens are the same."""

import numpy as np
import torch

from aion_lite.data import MultimodalDataset
from aion_lite.data.tokens import TokenDataset
from aion_lite.modalities import Category, Scalar

# "type", "values" and "train" are names of attributes of torch modules too.
MODALITIES = [
    Scalar("values", unit="K"),
    Scalar("mass of star", transform="log"),
    Category("type", values=("E", "S", "Irr")),
    Scalar("train", transform="arcsinh", scale=2.0),
]


def dataset(n=300, seed=0, modalities=MODALITIES):
    rng = np.random.default_rng(seed)
    values = {m.name: rng.lognormal(size=n) for m in modalities}
    values["type"] = rng.integers(0, 3, n)
    return MultimodalDataset(modalities, values, {m.name: rng.random(n) > 0.2 for m in modalities})


def one_more():
    return dataset(modalities=[*MODALITIES, Scalar("redshift")])


def assert_same_tokens(a: TokenDataset, b: TokenDataset):
    assert list(a.tokens) == list(b.tokens)
    for name in a.tokens:
        assert torch.equal(a.tokens[name], b.tokens[name]) and torch.equal(a.present[name], b.present[name])
