"""The smallest things to train: a line through random samples, a transformer of two modalities."""

import torch
from torch import nn

from aion_lite.codecs import TokenSpec
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import MultimodalTransformer
from aion_lite.training import train


class Line(nn.Module):
    """Least squares, as small as a module with a loss can be. Samples (B, 4): three inputs and the answer."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.linear.bias)

    def loss(self, x):
        error = self.linear(self.dropout(x[:, :3]))[:, 0] - x[:, 3]
        return error.square().mean(), {"largest": error.detach().abs().max()}


class Broken(Line):
    """Its loss is whatever ``fails`` makes of it from step 3 on."""

    def __init__(self, fails):
        super().__init__()
        self.fails, self.calls = fails, 0

    def loss(self, x):
        self.calls += 1
        loss, metrics = super().loss(x)
        return (self.fails(loss) if self.calls > 3 else loss), metrics


def samples(num_samples: int = 20, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, 4, generator=g)
    x[:, 3] += x[:, :3] @ torch.tensor([1.0, -2.0, 0.5])
    return x


SPECS = {
    "x": TokenSpec(1, 8, "ordinal", torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)),
    "pair": TokenSpec(2, 3, "nominal"),
}


def tokens(num_samples: int = 24, seed: int = 0) -> TokenDataset:
    g = torch.Generator().manual_seed(seed)
    drawn = {
        n: torch.randint(s.vocab_size, (num_samples, s.num_tokens), generator=g) for n, s in SPECS.items()
    }
    return TokenDataset(drawn, {"pair": torch.rand(num_samples, generator=g) < 0.7})


def transformer(**kwargs) -> MultimodalTransformer:
    torch.manual_seed(0)
    return MultimodalTransformer(SPECS, d_model=8, nhead=2, num_layers=1, dropout=0.1, **kwargs)


def run(module, data, **kwargs):
    return train(module, data, **{"batch_size": 8, "progress": False, "device": "cpu", **kwargs})


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])
