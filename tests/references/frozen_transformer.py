"""A transformer written out, and its split by path length from a polynomial, with all decisions held constant."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inward, self.outward = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inward(self.norm(x)).chunk(3, -1)
        return self.outward(F.scaled_dot_product_attention(query, key, value))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inward, self.outward = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outward(F.gelu(self.inward(self.norm(x))))


class Transformer(nn.Module):
    """Layers of attention and MLP before the norm and the head."""

    def __init__(self, layers: int = 2, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind(width) for _ in range(layers) for kind in (Attention, Mlp))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


class Decisions:
    """What the operations decide with: written down in one run in order, read in the same order in others."""

    def __init__(self) -> None:
        self.written: list[torch.Tensor] = []
        self.reading: int | None = None

    def read_again(self) -> None:
        self.reading = 0

    def __call__(self, made: torch.Tensor) -> torch.Tensor:
        if self.reading is None:
            self.written.append(made)
            return made
        self.reading += 1
        return self.written[self.reading - 1]


def run(model: Transformer, x: torch.Tensor, decide: Decisions, t: float = 1.0) -> torch.Tensor:
    """The forward pass, step by step, with every branch multiplied by t."""

    def norm(layer: nn.LayerNorm, y: torch.Tensor) -> torch.Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return (
            centred / decide((centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()) * layer.weight + layer.bias
        )

    for block in model.blocks:
        y = block.inward(norm(block.norm, x))
        if isinstance(block, Attention):
            query, key, value = y.chunk(3, -1)
            weights = decide((query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1))
            y = weights @ value
        else:
            y = y * decide(0.5 * (1 + torch.erf(y / math.sqrt(2))))
        x = x + t * block.outward(y)
    return model.head(norm(model.norm, x))


def split_by_length(model: Transformer, x: torch.Tensor) -> torch.Tensor:
    """The coefficients of the polynomial in t, (n + 1, batch, ...), from n + 1 runs."""
    decide = Decisions()
    run(model, x, decide)
    n = len(model.blocks)
    points = torch.linspace(-1, 1, n + 1, dtype=torch.float64)
    values = []
    for t in points.tolist():
        decide.read_again()
        values.append(run(model, x, decide, t))
    matrix = torch.linalg.inv(torch.vander(points, increasing=True))
    return torch.einsum("kp,p...->k...", matrix, torch.stack(values))
