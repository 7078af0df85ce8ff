"""Examples of any form in memory: token batches, series, graphs, volumes, pairs, with targets of any form.

Images with one class each have their own type, ``ImageData``, since they come as pixels with a normalisation and class
names. Here the inputs are what the model reads, and all that is known of the targets is that each example has one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch

from ..arguments import ELSEWHERE, checked
from ..graph.inputs import is_batched
from ..graph.model_fingerprint import tensor_bytes
from ..graph.trees import leaves, map_leaves
from .in_memory import InMemory

MASKS = ("decoder_attention_mask", "attention_mask")
"""Inputs that say which positions are real: the decoder's, where there is one, since outputs are the decoder's."""


@checked
@dataclass(frozen=True, eq=False)
class Examples(InMemory):
    """Inputs in the form that the model reads, and their targets if there are any.

    Attributes:
        inputs: a tensor, a tuple of tensors (one per argument) or a dict of them (by argument), examples first; arrays
            become tensors. Tensors of another length, and values that are not tensors, are the same for all examples.
        targets: (examples, ...), of any form: a class or a number each, labels of tokens (-100: not counted), a mask of
            classes, a flag for each of several labels; None if metrics need none.
        name: their source.
        kind: what one example is called; empty: ``image``, ``sequence``, ``series`` or ``volume``, if the shape shows
            it, otherwise ``example``.

    Raises:
        ValueError: there is no example, or inputs and targets differ in number.

    Example:
        >>> tokens = {"input_ids": torch.zeros(4, 7, dtype=torch.long)}
        >>> data = Examples(tokens, tokens["input_ids"], "zeros")
        >>> data
        Examples('zeros', 4 sequences, targets (7,) of int64)
        >>> data.subset([0, 1]).x["input_ids"].shape
        torch.Size([2, 7])
    """

    inputs: Any
    targets: Annotated[torch.Tensor | None, ELSEWHERE] = None
    name: str = "examples in memory"
    kind: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", map_leaves(self.inputs, _as_tensor))
        object.__setattr__(self, "targets", _as_tensor(self.targets))
        tensors = [leaf for leaf in leaves(self.inputs) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if not tensors:
            raise ValueError(f"expected inputs with a tensor, examples first, got {type(self.inputs).__name__}")
        count = len(tensors[0]) if self.targets is None else len(self.targets) if self.targets.ndim else 0
        if not count or not any(len(tensor) == count for tensor in tensors):
            raise ValueError(
                f"expected at least one example, and as many targets as inputs, got inputs of "
                f"{', '.join(str(tuple(tensor.shape)) for tensor in tensors)} and targets "
                f"{None if self.targets is None else tuple(self.targets.shape)}"
            )
        object.__setattr__(self, "_count", count)

    def __len__(self) -> int:
        return self._count  # type: ignore[attr-defined,no-any-return]

    def __repr__(self) -> str:
        target = self.targets
        dtype = "" if target is None else str(target.dtype).removeprefix("torch.")
        targets = "no targets" if target is None else f"targets {tuple(target.shape[1:])} of {dtype}"
        return f"Examples({self.name!r}, {len(self)} {self.nouns}, {targets})"

    @property
    def x(self) -> Any:
        """All inputs."""
        return self.inputs

    @property
    def stored(self) -> Any:
        """All inputs."""
        return self.inputs

    @property
    def noun(self) -> str:
        """What one example is called."""
        return self.kind or self._shown

    @property
    def _shown(self) -> str:
        """What the shape of the inputs shows."""
        tensors = [leaf for leaf in leaves(self.inputs) if self._is_batched(leaf)]
        if any(not leaf.is_floating_point() and leaf.ndim == 2 for leaf in tensors):
            return "sequence"
        return {3: "series", 4: "image", 5: "volume"}.get(tensors[0].ndim, "example")

    @property
    def mask(self) -> torch.Tensor | None:
        """The attention mask among the inputs, (examples, positions), or None."""
        if not isinstance(self.inputs, dict):
            return None
        if "decoder_input_ids" in self.inputs and MASKS[0] not in self.inputs:
            return None
        mask = next((self.inputs[name] for name in MASKS if self.inputs.get(name) is not None), None)
        return mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 and self._is_batched(mask) else None

    def subset(self, indices: torch.Tensor | slice | list[int]) -> Examples:
        """The examples at these indices, or where a mask is true."""
        selection = torch.as_tensor(indices, device="cpu") if isinstance(indices, list) else indices
        inputs = map_leaves(self.inputs, lambda leaf: leaf[selection] if self._is_batched(leaf) else leaf)
        return replace(self, inputs=inputs, targets=None if self.targets is None else self.targets[selection])

    def joined(self, other: Examples, name: str) -> Examples:
        """These examples and then those of other data of the same form, with targets if both have some.

        Example:
            >>> data = Examples((torch.zeros(2, 3), torch.ones(5)), torch.zeros(2))
            >>> both = data.joined(data, "twice")
            >>> [tuple(part.shape) for part in both.x], len(both)
            ([(4, 3), (5,)], 4)
        """
        others = iter(list(leaves(other.inputs)))

        def with_other(leaf: Any) -> Any:
            more = next(others)
            return torch.cat([leaf, more]) if self._is_batched(leaf) else leaf

        inputs = map_leaves(self.inputs, with_other)
        without = self.targets is None or other.targets is None
        targets = None if without else torch.cat([self.targets, other.targets])  # type: ignore[list-item]
        return replace(self, inputs=inputs, targets=targets, name=name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs and targets; independent of the device."""
        digest = hashlib.sha256()
        for leaf in leaves([self.inputs, self.targets]):
            if isinstance(leaf, torch.Tensor):
                digest.update(f"{str(leaf.dtype).removeprefix('torch.')}{tuple(leaf.shape)}".encode())
                digest.update(tensor_bytes(leaf))
            else:
                digest.update(repr(leaf).encode())
        digest.update(repr(list(self.inputs) if isinstance(self.inputs, dict) else type(self.inputs).__name__).encode())
        return digest.hexdigest()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Examples:
        """The same examples on another device, floating-point inputs of another dtype; None leaves either unchanged."""

        def moved(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return leaf.to(device, dtype if leaf.is_floating_point() else None)

        targets = None if self.targets is None else self.targets.to(device)
        return replace(self, inputs=map_leaves(self.inputs, moved), targets=targets)

    def _is_batched(self, leaf: Any) -> bool:
        return is_batched(leaf, len(self))


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    return value.detach() if isinstance(value, torch.Tensor) else value
