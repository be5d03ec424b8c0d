"""Short runs that keep a checkpoint, and ways to stop them."""

import torch

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.training import train

SPECS = {
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "pair": TokenSpec(2, 3, "nominal"),
}
STEPS = 11


def tokens(num_samples: int = 20, seed: int = 0) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    return TokenDataset(
        {n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in SPECS.items()}
    )


def transformer(specs=SPECS, **kwargs) -> MultimodalTransformer:
    torch.manual_seed(0)
    return MultimodalTransformer(
        specs, **{"d_model": 8, "nhead": 2, "num_layers": 1, "dropout": 0.2, **kwargs}
    )


def run(module, folder=None, **kwargs):
    defaults = {
        "steps": STEPS, "batch_size": 6, "checkpoint": folder, "checkpoint_every": 4, "log_every": 1,
        "validation": tokens(seed=1), "validate_every": 3, "progress": False, "device": "cpu",
    }  # fmt: skip
    return train(module, kwargs.pop("data", tokens()), **{**defaults, **kwargs})


def state(module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


class Killed(Exception):
    """Power cut: nothing gets a chance to save."""


def stop_at(step: int, error: type[BaseException]):
    def on_step(now, module):
        if now == step:
            raise error

    return on_step
