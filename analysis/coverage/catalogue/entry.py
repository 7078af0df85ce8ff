"""One model of the coverage table: where it comes from, how it is built, what it is called with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = Callable[[int, torch.Generator], Any]


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        library: the name under which the table lists it.
        name: the model's name there.
        package: the package that must be installed.
        build: makes the model, with random weights and without downloads.
        inputs: (batch size, generator) -> the model's input: a tensor, a tuple or a dict of keyword arguments.
    """

    library: str
    name: str
    package: str
    build: Callable[[], nn.Module]
    inputs: Inputs

    @property
    def key(self) -> str:
        """The unique name of this model."""
        return f"{self.library}/{self.name}"


def images(*size: int, channels: int = 3) -> Inputs:
    """A batch of images: square for one number, of any dimension for several."""
    shape = size if len(size) > 1 else size * 2

    def make(batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)

    return make


def list_of_images(size: int, count: int = 2) -> Inputs:
    """A list of images, which detectors take; their number does not depend on the batch, since a list has a fixed
    length.
    """

    def make(batch: int, generator: torch.Generator) -> tuple[list[torch.Tensor]]:
        return ([torch.rand(3, size, size, generator=generator, dtype=torch.float64) for _ in range(count)],)

    return make


def sequences(length: int, features: int) -> Inputs:
    """A batch of sequences, (batch, length, features)."""

    def make(batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, length, features, generator=generator, dtype=torch.float64)

    return make


def tokens(batch: int, length: int, generator: torch.Generator, vocabulary: int = 60) -> torch.Tensor:
    """Random token numbers, none of them a padding or another special token (which are small or large)."""
    return torch.randint(10, vocabulary, (batch, length), generator=generator)


def made_by(module: str, function: str, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    """A builder that imports a module only when the model is built, and calls a function or class of it."""

    def build() -> nn.Module:
        maker = importlib.import_module(module)
        for part in function.split("."):
            maker = getattr(maker, part)
        made: nn.Module = maker(*arguments, **options)  # type: ignore[operator]
        return made

    return build
