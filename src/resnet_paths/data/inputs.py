"""A model's inputs in memory, without labels, for refitting a network.

Beside ``ImageData``, because refits need neither labels nor images: a text model's dictionary of tensors is refitted by
the same equations. All that is kept of the labels is which positions they exclude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..draws import permutation, seeded
from ..graph.inputs import is_batched, placed
from ..graph.trees import leaves, map_leaves
from .adapter import ImageSource, as_batches
from .batches import even_slices
from .examples import Examples
from .fitting import counted_positions
from .images import ImageData


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs with the batch dimension first: images (normalised on access) or a nest of tensors.

    Attributes:
        held: an :class:`ImageData`, a tensor, or a tuple or dict of tensors.
        count: number of inputs.
        counted: for inputs with a prediction for each position, such as tokens, which positions count, (inputs,
            positions, ...); see :func:`~resnet_paths.data.fitting.counted_positions`. None: inputs count as wholes.
    """

    held: Any
    count: int
    counted: torch.Tensor | None = None

    def take(self, indices: torch.Tensor | slice) -> Any:
        """The selected inputs, in the form that the model reads."""
        if isinstance(self.held, ImageData):
            return self.held.normalised(self.held.images[indices])
        return map_leaves(self.held, lambda leaf: leaf[indices] if self._is_batched(leaf) else leaf)

    def part(self, indices: torch.Tensor) -> Inputs:
        """The selected inputs, as another :class:`Inputs`."""
        if isinstance(self.held, ImageData):
            return Inputs(self.held.subset(indices), len(indices))
        return Inputs(self.take(indices), len(indices), None if self.counted is None else self.counted[indices])

    def batches(self, batch_size: int) -> Iterator[Any]:
        """All inputs in order, in batches of nearly equal size."""
        return (self.take(part) for part in even_slices(self.count, batch_size))

    def counted_in(self, number: int, batch_size: int) -> torch.Tensor | None:
        """Which positions of a batch count, by its number."""
        return None if self.counted is None else self.counted[even_slices(self.count, batch_size)[number]]

    def apart(self, share: float, groups: torch.Tensor | None = None, seed: int = 0) -> tuple[Inputs, Inputs]:
        """Hold out a random share: returns the rest and the share; groups stay together.

        Args:
            share: share of the groups to hold out; at least one group.
            groups: group number of each input, such as one per photo for crops; None: each input is its own group.
            seed: seed of the draw.

        Raises:
            ValueError: there are fewer than two groups, or `groups` has another length than the inputs.
        """
        groups = torch.arange(self.count, device="cpu") if groups is None else groups.cpu()
        if len(groups) != self.count:
            raise ValueError(f"expected a group for each of {self.count} inputs, got {len(groups)}")
        group_names = groups.unique()
        if len(group_names) < 2:
            raise ValueError(
                f"expected inputs of at least 2 groups, to fit on some and select on others, got {len(group_names)}"
            )
        held_out_groups = group_names[
            permutation(len(group_names), seeded(seed))[: max(1, round(share * len(group_names)))]
        ]
        is_held_out = torch.isin(groups, held_out_groups)
        if bool(is_held_out.all()):
            raise ValueError(f"expected a share that leaves at least one of {len(group_names)} groups, got {share}")
        return self.part((~is_held_out).nonzero().flatten()), self.part(is_held_out.nonzero().flatten())

    def _is_batched(self, leaf: Any) -> bool:
        return is_batched(leaf, self.count)


@checked
def as_inputs(source: ImageSource | torch.Tensor, model: nn.Module | None = None) -> Inputs:
    """Inputs from any container: everything that :func:`as_data` reads, a tensor, or batches without labels.

    Args:
        source: see :func:`as_batches`; batches are collected once.
        model: its signature decides which items of a mapping are inputs.

    Raises:
        TypeError: `source` contains no inputs.
        ValueError: there are no inputs.

    Example:
        >>> as_inputs([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)]).count
        3
    """
    if isinstance(source, Examples):
        return Inputs(source.inputs, len(source), counted_positions(source))
    if isinstance(source, ImageData):
        return Inputs(source, len(source))
    if isinstance(source, torch.Tensor):
        return Inputs(source, len(source), counted_positions(Examples(source)))
    batches = list(as_batches(source, model, inputs=True))
    collected = [x for x, _ in batches]
    if not collected:
        raise ValueError("expected at least one batch of inputs, got none; is the iterator exhausted? pass a list")
    counts = [next(len(leaf) for leaf in leaves(x) if isinstance(leaf, torch.Tensor)) for x in collected]
    flat = [list(leaves(x)) for x in collected]
    joined = iter(
        [torch.cat(parts) if isinstance(parts[0], torch.Tensor) else parts[0] for parts in zip(*flat, strict=True)]
    )
    held, count = map_leaves(collected[0], lambda leaf: next(joined)), sum(counts)
    targets = [y for _, y in batches if isinstance(y, torch.Tensor) and y.ndim]
    alike = len({y.shape[1:] for y in targets}) == 1 and sum(map(len, targets)) == count
    return Inputs(held, count, counted_positions(Examples(held, torch.cat(targets) if alike else None)))


def placed_input(x: Any, model: nn.Module) -> Any:
    """An input on the model's device, floating-point tensors in the dtype of its parameters.

    Raises:
        TypeError: the input is uint8 pixels, whose normalisation is unknown.
    """
    has_dtype = any(parameter.is_floating_point() for parameter in model.parameters())
    tensors = (leaf for leaf in leaves(x) if isinstance(leaf, torch.Tensor))
    if has_dtype and any(tensor.dtype == torch.uint8 and tensor.ndim == 4 for tensor in tensors):
        raise TypeError(
            "expected images as the model reads them, got uint8, whose normalisation is not known; pass "
            "images from load_data or as_data(..., mean=, std=)"
        )
    return placed(x, model)
