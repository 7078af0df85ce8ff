"""Small residual networks of every kind of data, with examples that they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from resnet_paths.data import Examples

KINDS = ("tokens", "numbers", "masks", "flags", "series", "embeddings")


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def dense() -> Residual:
    return Residual(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))


class Causal(nn.Module):
    """A language model whose tokens read the mean of those before them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6)
        self.blocks = nn.Sequential(dense(), dense(), dense())
        self.head = nn.Linear(6, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        x = x.cumsum(1) / attention_mask.cumsum(1).clamp_min(1).unsqueeze(-1)
        return self.head(self.blocks(x))


def conv(kind: type[nn.Module]) -> Residual:
    return Residual(kind(4, 4, 3, padding=1), nn.Tanh(), kind(4, 4, 3, padding=1))


@dataclass(frozen=True)
class Case:
    """A network and examples that fit it, with the metric of its task and one that is at most 1."""

    model: nn.Module
    data: Examples
    metric: str
    bounded: str | None


def case(kind: str, count: int = 7) -> Case:
    """The network and data of a kind, in float64 and eval mode."""
    torch.manual_seed(0)
    if kind == "tokens":
        lengths = torch.arange(count) % 4 + 2  # batches of three are of different lengths
        mask = (torch.arange(5) < lengths[:, None]).long()
        ids = torch.randint(1, 8, (count, 5)) * mask
        inputs, targets = {"input_ids": ids, "attention_mask": mask}, ids
        model, metric, bounded = Causal(), "perplexity", "next_token_error"
    elif kind == "masks":
        inputs, targets = torch.randn(count, 2, 4, 4), torch.randint(0, 3, (count, 4, 4))
        model = nn.Sequential(nn.Conv2d(2, 4, 1), conv(nn.Conv2d), conv(nn.Conv2d), nn.Conv2d(4, 3, 1))
        metric, bounded = "iou_error", "pixel_error"
    elif kind == "series":
        inputs, targets = torch.randn(count, 2, 9), torch.randint(0, 3, (count,))
        head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
        model = nn.Sequential(nn.Conv1d(2, 4, 1), conv(nn.Conv1d), conv(nn.Conv1d), *head)
        metric, bounded = "loss", "error"
    else:
        inputs = torch.randn(count, 4)
        targets = {"numbers": torch.randn(count), "flags": torch.randint(0, 2, (count, 3)).float()}.get(kind)
        out = {"numbers": 1, "flags": 3, "embeddings": 5}[kind]
        model = nn.Sequential(nn.Linear(4, 6), dense(), dense(), nn.Linear(6, out))
        metric = {"numbers": "squared_error", "flags": "multilabel_error", "embeddings": "embedding_distance"}[kind]
        bounded = {"numbers": None, "flags": "multilabel_error", "embeddings": "cosine_distance"}[kind]
    data = Examples(inputs, targets, kind).to(dtype=torch.float64)
    return Case(model.double().eval(), data, metric, bounded)
