"""Small models of four modalities, one with each embedding, and random tokens for them."""

import pytest
import torch

from aion_lite.codecs import TokenSpec
from aion_lite.model import MultimodalTransformer
from aion_lite.quantizers import FiniteScalarQuantizer, ScalarReservoirQuantizer

FSQ = FiniteScalarQuantizer((4, 3, 3))


def ordinal(num_codes: int, seed: int = 0) -> TokenSpec:
    quantizer = ScalarReservoirQuantizer(num_codes, 1000)
    quantizer.update(torch.randn(1000, generator=torch.Generator().manual_seed(seed)))
    return TokenSpec(1, num_codes, "ordinal", quantizer.code_features(), quantizer.values)


SPECS = {
    "mass": ordinal(16), "sex": TokenSpec(1, 3, "nominal"), "size": ordinal(24, seed=1),
    "image": TokenSpec(6, 36, "grid", FSQ.code_features(), levels=(4, 3, 3), grid=(2, 3)),
}  # fmt: skip
NAMES = list(SPECS)


def make(embedding: str = "value", specs=SPECS, seed: int = 0, **kwargs) -> MultimodalTransformer:
    torch.manual_seed(seed)
    shape = {"d_model": 16, "nhead": 2, "num_layers": 2}
    settings = {**shape, "embedding": embedding, "regression": 0.0, **kwargs}
    model = MultimodalTransformer(specs, **settings)
    for p in model.parameters():  # away from the start, where the outputs hardly depend on the inputs
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    return model.eval()


def tokens(num_samples: int = 8, seed: int = 0, specs=SPECS) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in specs.items()
    }


MODELS = {embedding: make(embedding) for embedding in ("value", "table")}
by_embedding = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def assert_same(a, b, atol=1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)
