"""Networks whose blocks do not form a chain, in float64, with the number of paths of each length counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths import UnrolledNetwork, unroll


class Block(nn.Module):
    """x + a curved branch, with an activation after the sum where asked."""

    def __init__(self, width: int = 4, relu: bool = False) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, width))
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x + self.branch(x)
        return torch.relu(total) if self.relu else total


class Cross(nn.Module):
    """x + a branch that reads a memory beside x."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return x + self.out(torch.tanh(self.query(x)) * torch.sigmoid(self.value(memory)))


class Tapped(nn.Module):
    """The head reads the stream after the first and after the last block."""

    def __init__(self, relu: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block(relu=relu) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        tap = x = self.blocks[0](x)
        for block in self.blocks[1:]:
            x = block(x)
        return self.head(torch.cat([tap, x], 1))


class Outputs(Tapped):
    """The same, and the tap is returned too."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        tap = x = self.blocks[0](x)
        x = self.blocks[2](self.blocks[1](x))
        return {"features": tap, "logits": self.head(torch.cat([x, tap * torch.sigmoid(tap)], 1))}


class Nested(nn.Module):
    """Super resolution: a global skip around blocks, and one around everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tail, self.last = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        make = lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))  # noqa: E731
        self.inner = nn.ModuleList(make() for _ in range(2))
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = y = self.stem(x)
        for inner in self.inner:
            y = y + inner(y)
        y = x + self.tail(y)
        return self.head(self.last(y).mean((2, 3)))


class UNet(nn.Module):
    """Additive skips from the encoder's stages to the decoder's, blocks in both."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block(relu=True) for _ in range(2))
        self.decoder = nn.ModuleList(Block() for _ in range(2))
        self.stem, self.down, self.up = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.lateral, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.encoder[0](self.stem(x))
        x = self.decoder[0](self.encoder[1](torch.tanh(self.down(first))))
        x = self.decoder[1](torch.tanh(torch.cat([self.up(x)[:, :2], self.lateral(first)[:, 2:]], 1)))
        return self.head(x)


class Pyramid(nn.Module):
    """A feature pyramid: every stage is read by its own lateral projection."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(relu=True) for _ in range(3))
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(12, 3)
        self.laterals = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        levels = []
        for block, lateral in zip(self.blocks, self.laterals, strict=True):
            x = block(x)
            levels.append(torch.tanh(lateral(x)))
        return self.head(torch.cat(levels, 1))


class EncoderDecoder(nn.Module):
    """A decoder whose branches read the encoder's output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.start, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.encoder = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.cross, self.own = nn.ModuleList(Cross() for _ in range(2)), Block()

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory = self.stem(source)
        for block in self.encoder:
            memory = block(memory)
        memory = self.norm(memory)
        y = self.start(target)
        y = self.cross[1](self.own(self.cross[0](y, memory)), memory)
        return self.head(y)


class Siamese(nn.Module):
    """One tower on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(4, 4), Block(), Block(relu=True))
        self.head = nn.Linear(8, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        one, other = self.tower(a), self.tower(b)
        return self.head(torch.cat([one * other, torch.tanh(one)], 1))


class Mixture(nn.Module):
    """A tap out of a nested branch, which a later branch and the head read; an inner value of a branch is read too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tail, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(12, 3)
        self.inner, self.first, self.second = Block(relu=True), nn.Linear(4, 4), nn.Linear(4, 4)
        self.cross = Cross()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        tap = self.inner(x)
        x = torch.relu(x + self.tail(tap))
        hidden = torch.tanh(self.first(x))
        x = x + self.second(hidden)
        x = self.cross(x, tap)
        return self.head(torch.cat([x, hidden, tap], 1))


class Token(nn.Module):
    """A learned token that reads the image by branches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.token = nn.Parameter(torch.randn(1, 4))
        self.block, self.cross, self.last = Block(), Cross(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(x))
        token = self.token.expand(x.shape[0], -1)
        return self.head(self.last(self.cross(token, x)))


@dataclass(frozen=True)
class Case:
    """A network, the inputs it takes, its blocks, and its paths of each length."""

    make: Callable[[], nn.Module]
    blocks: int
    counts: tuple[int, ...]
    inputs: int = 1
    image: bool = False

    def network(self) -> UnrolledNetwork:
        torch.manual_seed(0)
        return unroll(randomise_norms(self.make()).double().eval())

    def batch(self, batch: int = 3) -> tuple[Any, torch.Tensor]:
        """Inputs and targets."""
        generator = torch.Generator().manual_seed(1)
        shape = (batch, 2, 5, 4) if self.image else (batch, 4)
        given = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(self.inputs))
        return (given[0] if self.inputs == 1 else given), torch.arange(batch) % 3

    def with_leaf(self, x: Any) -> tuple[Any, torch.Tensor]:
        """The inputs with a leaf as the first (along which most blocks stand), and that leaf."""
        first = (x if self.inputs == 1 else x[0]).clone().requires_grad_()
        return (first if self.inputs == 1 else (first, *x[1:])), first


CASES = {
    "tapped": Case(Tapped, 3, (2, 4, 3, 1)),
    "tapped after relu": Case(lambda: Tapped(relu=True), 3, (2, 4, 3, 1)),
    "several outputs": Case(Outputs, 3, (2, 4, 3, 1)),
    "nested": Case(Nested, 3, (1, 1, 2, 1), image=True),
    "u-net": Case(UNet, 4, (2, 6, 7, 4, 1)),
    "pyramid": Case(Pyramid, 3, (3, 6, 4, 1)),
    "encoder and decoder": Case(EncoderDecoder, 5, (0, 2, 6, 7, 4, 1), inputs=2),
    "siamese": Case(Siamese, 4, (1, 2, 1), inputs=2),
    "mixture": Case(Mixture, 4, (3, 6, 6, 3, 1)),
    "token": Case(Token, 3, (0, 1, 2, 1)),
}
