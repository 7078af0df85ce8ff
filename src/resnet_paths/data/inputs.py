"""A model's inputs in memory, without labels: what repairs of a model are fitted to.

Beside ``ImageData``, because repairs need no labels and no images: a text model's dictionary of tensors is repaired by
the same equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..draws import permutation, seeded
from ..graph.trees import leaves, map_leaves
from .adapter import ImageSource, as_batches
from .batches import even_slices
from .images import ImageData


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs with the batch first: images (normalised when they are taken), or a nest of tensors.

    Attributes:
        held: an :class:`ImageData`, a tensor, or a tuple or dict of tensors.
        count: how many.
    """

    held: Any
    count: int

    def take(self, indices: torch.Tensor | slice) -> Any:
        """Some of them, as the model reads them."""
        if isinstance(self.held, ImageData):
            return self.held.normalised(self.held.images[indices])
        return map_leaves(self.held, lambda leaf: leaf[indices] if self._is_batched(leaf) else leaf)

    def part(self, indices: torch.Tensor) -> Inputs:
        """Some of them, as inputs once more."""
        if isinstance(self.held, ImageData):
            return Inputs(self.held.subset(indices), len(indices))
        return Inputs(self.take(indices), len(indices))

    def batches(self, batch_size: int) -> Iterator[Any]:
        """All of them in order, in batches as equal as can be."""
        return (self.take(part) for part in even_slices(self.count, batch_size))

    def apart(self, share: float, groups: torch.Tensor | None = None, seed: int = 0) -> tuple[Inputs, Inputs]:
        """Two parts drawn at random: the rest, and this share; groups stay together.

        Args:
            share: of the groups in the second part, at least one of them.
            groups: a number for each input: crops of one photo have the same; None: each input is its own.
            seed: of the draw.

        Raises:
            ValueError: fewer than two groups, or not a number for each input.
        """
        groups = torch.arange(self.count, device="cpu") if groups is None else groups.cpu()
        if len(groups) != self.count:
            raise ValueError(f"expected a group for each of {self.count} inputs, got {len(groups)}")
        names = groups.unique()
        if len(names) < 2:
            raise ValueError(
                f"expected inputs of at least 2 groups, to choose on some what was fitted to others, got {len(names)}"
            )
        second = names[permutation(len(names), seeded(seed))[: max(1, round(share * len(names)))]]
        chosen = torch.isin(groups, second)
        if bool(chosen.all()):
            raise ValueError(f"expected a share that leaves some of {len(names)} groups, got {share}")
        return self.part((~chosen).nonzero().flatten()), self.part(chosen.nonzero().flatten())

    def _is_batched(self, leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == self.count


@checked
def as_inputs(source: ImageSource | torch.Tensor, model: nn.Module | None = None) -> Inputs:
    """Inputs from whatever holds them: all that :func:`as_data` reads, a tensor, or batches without labels.

    Args:
        source: see :func:`as_batches`; what comes in batches is collected once.
        model: it decides which items of a mapping are its inputs.

    Raises:
        TypeError: nothing that holds inputs.
        ValueError: no inputs.

    Example:
        >>> as_inputs([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)]).count
        3
    """
    if isinstance(source, ImageData | torch.Tensor):
        return Inputs(source, len(source))
    collected = [x for x, _ in as_batches(source, model, inputs=True)]
    if not collected:
        raise ValueError("expected at least one batch of inputs, got none; is the iterator used up? give a list")
    counts = [next(len(leaf) for leaf in leaves(x) if isinstance(leaf, torch.Tensor)) for x in collected]
    flat = [list(leaves(x)) for x in collected]
    joined = iter(
        [torch.cat(parts) if isinstance(parts[0], torch.Tensor) else parts[0] for parts in zip(*flat, strict=True)]
    )
    return Inputs(map_leaves(collected[0], lambda leaf: next(joined)), sum(counts))


def placed_input(x: Any, model: nn.Module) -> Any:
    """An input where the model is, floating tensors in the type of its parameters.

    Raises:
        TypeError: pixels of uint8, which nothing says how to normalise.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or parameter is None:
            return leaf
        if leaf.dtype == torch.uint8 and leaf.ndim == 4:
            raise TypeError(
                "expected images as the model reads them, got uint8, whose normalisation is not known; give "
                "load_data's images, or as_data(..., mean=, std=)"
            )
        return leaf.to(parameter.device, parameter.dtype if leaf.is_floating_point() else leaf.dtype)

    return map_leaves(x, place)
