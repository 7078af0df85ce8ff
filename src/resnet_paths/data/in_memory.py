"""What analyses need of data in memory, whatever an example is: an image, a sequence of tokens, a series, a volume.

Analyses evaluate the same examples many times, draw parts of them at random, and record which these were. All intervals
are over examples: the tokens of one text and the pixels of one image depend on each other.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch

from ..draws import permutation, seeded
from ..graph.model_fingerprint import tensor_bytes
from ..graph.trees import leaves
from ..nouns import plural


class InMemory(ABC):
    """Examples in memory, in a fixed order, perhaps with targets: images (``ImageData``) or anything (``Examples``).

    Attributes:
        name: their source.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @property
    @abstractmethod
    def x(self) -> Any:
        """All examples as the model reads them: a tensor, or a tuple or dict of tensors."""

    @property
    @abstractmethod
    def stored(self) -> Any:
        """The inputs as they are kept, before any normalisation."""

    @property
    @abstractmethod
    def targets(self) -> torch.Tensor | None:
        """The targets, (examples, ...), or None."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of everything that can decide a result."""

    @property
    @abstractmethod
    def noun(self) -> str:
        """What one example is called: ``image``, ``sequence``, ``series``, ``volume`` or ``example``."""

    @abstractmethod
    def subset(self, indices: torch.Tensor | slice | list[int]) -> Self:
        """The examples at these indices, or where a mask is true."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same examples on another device, floating-point inputs in another dtype; None leaves either unchanged."""

    @abstractmethod
    def joined(self, other: Self, name: str) -> Self:
        """These examples and then those of other data of the same form.

        Args:
            other: the other examples.
            name: the source of both.
        """

    @property
    def labelled(self) -> bool:
        """Whether the examples have targets."""
        return self.targets is not None

    @property
    def mask(self) -> torch.Tensor | None:
        """Which positions of each example count, (examples, positions), or None if all do."""
        return None

    @property
    def nouns(self) -> str:
        """The plural of :attr:`noun`."""
        return plural(self.noun)

    def sample(self, count: int, seed: int = 0) -> Self:
        """This many examples, drawn at random without replacement; all of them in order if there are no more.

        Example:
            >>> from resnet_paths.data import digits
            >>> len(digits("train").sample(100))
            100
        """
        if count >= len(self):
            return self
        return self.subset(self.random_order(seed)[:count])

    def shuffled(self, seed: int = 0) -> Self:
        """All examples in random order, for batch statistics: files are usually sorted by class.

        Example:
            >>> from resnet_paths.data import digits
            >>> digits("test").shuffled().labels.bincount().equal(digits("test").labels.bincount())
            True
        """
        return self.subset(self.random_order(seed))

    def random_order(self, seed: int = 0) -> torch.Tensor:
        """The indices of all examples, in the order of :meth:`shuffled`."""
        return permutation(len(self), seeded(seed)).to(next(_tensors(self.stored)).device)

    def halves(self, seed: int = 0) -> tuple[Self, Self]:
        """Two random halves: one for selection, one for reporting.

        Raises:
            ValueError: there are fewer than two examples.
        """
        if len(self) < 2:
            raise ValueError(f"expected at least two {self.nouns} to halve, got {len(self)}; pass more {self.nouns}")
        order = self.random_order(seed)
        middle = len(self) // 2
        return self.subset(order[:middle]), self.subset(order[middle:])

    def digests(self) -> Iterator[bytes]:
        """A 16-byte hash of each example's input, by which duplicates are found."""
        tensors = [tensor.cpu() for tensor in _tensors(self.stored) if tensor.ndim and len(tensor) == len(self)]
        for index in range(len(self)):
            digest = hashlib.blake2b(digest_size=16)
            for tensor in tensors:
                digest.update(tensor_bytes(tensor[index]))
            yield digest.digest()


def _tensors(nest: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in leaves(nest) if isinstance(leaf, torch.Tensor))
