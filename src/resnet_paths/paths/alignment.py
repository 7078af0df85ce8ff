"""Residual alignment: whether the blocks of a stage push a representation along one line (Li and Papyan 2023).

A path through several branches has the product of their Jacobians; that path carries little if each branch maps into
directions that the others do not read. The alignment of singular vectors across depth measures how much it can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..arguments import Range, checked
from ..graph.eval_mode import check_eval
from ..graph.inputs import placed
from ..graph.preserve import preserved
from ..network import BlockRef, State, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import mean_intervals
from ..tables import data_frame
from .jacobians import Function, LeadingSingular, leading_singular

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ResidualAlignment(Record):
    """Singular values and the alignment of singular vectors of the blocks' Jacobians, at each example.

    Attributes:
        names: the blocks, or the layers of a plain network.
        rank: number of singular vectors compared.
        dimension: dimension of the representations; random subspaces overlap by rank / dimension.
        values: the largest singular values, (blocks, examples, rank).
        errors: bounds on their errors, (blocks, examples, rank).
        shares: the share of the squared Frobenius norm in these singular values, (blocks, examples).
        left_right: overlap of the left vectors of one block with the right ones of another, (blocks, blocks, examples).
        left_left: overlap of their left vectors.
        right_right: overlap of their right vectors.
        steps: distance between the representations before a block and before the next, (blocks - 1, examples).
        straightness: the distance from the first representation to the last, divided by the length of the path,
            (examples,); 1 on a line, about 1 / √(blocks - 1) for steps in random directions.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "values": "block example value",
        "errors": "block example value",
        "shares": "block example",
        "left_right": "block other example",
        "left_left": "block other example",
        "right_right": "block other example",
        "steps": "step example",
        "straightness": "example",
    }
    COORDINATES: ClassVar = {"block": "names", "other": "names"}

    names: tuple[str, ...]
    rank: int
    dimension: int
    values: np.ndarray
    errors: np.ndarray
    shares: np.ndarray
    left_right: np.ndarray
    left_left: np.ndarray
    right_right: np.ndarray
    steps: np.ndarray
    straightness: np.ndarray
    source: Provenance = field(repr=False)

    @property
    def own(self) -> np.ndarray:
        """Overlap of a block's left with its own right vectors, mean over blocks, (examples,)."""
        return np.asarray(np.einsum("bbe->be", self.left_right).mean(0))

    @property
    def across(self) -> np.ndarray:
        """Overlap of a block's left with another block's right vectors, mean over pairs of blocks, (examples,)."""
        others = ~np.eye(len(self.names), dtype=bool)
        return np.asarray(self.left_right[others].mean(0))

    @property
    def unevenness(self) -> np.ndarray:
        """Coefficient of variation of the steps, (examples,): 0 if the representations are equispaced."""
        return np.asarray(self.steps.std(0) / self.steps.mean(0))

    def intervals(self, confidence: float = 0.95) -> dict[str, tuple[float, float, float]]:
        """Mean, low and high over examples of straightness, unevenness, shares, own and across."""
        rows = {
            "straightness": self.straightness,
            "unevenness": self.unevenness,
            "share": self.shares.mean(0),
            "own": self.own,
            "across": self.across,
        }
        low, high = mean_intervals(np.stack(list(rows.values())), confidence)
        return {
            name: (float(row.mean()), float(low[index]), float(high[index]))
            for index, (name, row) in enumerate(rows.items())
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row per block: means over examples."""
        return data_frame(
            {
                "name": self.names,
                "largest": self.values[..., 0].mean(1),
                "share": self.shares.mean(1),
                "own": np.einsum("bbe->be", self.left_right).mean(1),
                "across": (self.left_right.sum(1) - np.einsum("bbe->be", self.left_right)).mean(1)
                / max(len(self.names) - 1, 1),
            }
        )


@checked(rank=Range(1, 10**6))
@torch.inference_mode(False)
def residual_alignment(
    net: UnrolledNetwork | Sequence[nn.Module],
    x: Any,
    rank: int,
    *,
    blocks: Sequence[BlockRef] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> ResidualAlignment:
    """How the Jacobians of residual branches align with each other, and how straight the representations' path is.

    The `rank` leading singular vectors of each branch's Jacobian ``J_i = U_i S_i V_i^T`` at each example are computed
    by Lanczos bidiagonalisation. The overlap of two sets of vectors is ``|U_i^T V_j|_F^2 / rank``: 1 for the same
    subspace, rank / dimension on average for random ones. Li and Papyan (2023): (RA1) representations are equispaced on
    a line, (RA2) leading left and right vectors align, also across depth, (RA3) J_i has about rank C, the number of
    classes, (RA4) its singular values are inversely proportional to depth.

    Args:
        net: the network, in eval mode; or, as a null model without shortcuts, the layers of a plain network one after
            another, whose input is then `x` and whose Jacobians are those of the full layers.
        x: inputs, (examples, ...); a tuple or a dict of tensors if the model takes several.
        rank: number of singular vectors; the number of classes in the paper.
        blocks: blocks whose representations have one shape (default: the longest run of them with identity
            shortcuts).
        steps: of the bidiagonalisation, see ``resnet_paths.paths.jacobians.leading_singular``.
        seed: of its first vector.

    Raises:
        ValueError: there are not two such blocks, they differ in shape, or a product with a Jacobian is not finite.

    Cost: about ``4 rank + 20`` products with the Jacobian of each branch and as many with its transpose.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> found = residual_alignment(net, digits("test").x[:2], 2, blocks=[19, 20, 21], steps=8)
        >>> found.left_right.shape, bool((found.straightness <= 1).all())
        ((3, 3, 2), True)
    """
    if isinstance(net, UnrolledNetwork):
        check_eval(net.model)
        model: nn.Module = net.model
        with preserved(model):
            names, parts = _branches(net, placed(x, model), blocks)
            return _compared(names, parts, rank, steps, seed, provenance(model, x, seed=seed))
    for layer in net:
        check_eval(layer)
    layers = nn.ModuleList(net).eval()
    names = tuple(f"layer {index}" for index in range(len(layers)))
    with preserved(layers):
        parts = _layers(layers, placed(x, layers))
        return _compared(names, parts, rank, steps, seed, provenance(layers, x, seed=seed))


Parts = list[tuple[Function, torch.Tensor]]
"""Functions, and the representations at which each is linearised."""


def _branches(net: UnrolledNetwork, x: Any, blocks: Sequence[BlockRef] | None) -> tuple[tuple[str, ...], Parts]:
    with torch.no_grad():
        states: list[State] = [net.stem(x)]
        sizes: list[tuple[int, ...]] = []
        while len(sizes) < len(net):
            branch = net.branch(states[-1])
            sizes.append(tuple(branch.shape))
            if len(sizes) < len(net):
                states.append(net.join(states[-1], net.shortcut(states[-1]) + branch))
    indices = _longest(net, states, sizes) if blocks is None else net.indices(list(blocks))
    if len(indices) < 2:
        raise ValueError(f"expected at least two blocks of one shape to compare, got {[net[i].name for i in indices]}")
    for index in indices:
        entry, leave = tuple(states[index].value.shape), sizes[index]
        if not entry == leave == sizes[indices[0]]:
            raise ValueError(
                f"expected blocks of one shape, got {net[index].name}, {entry[1:]} to {leave[1:]}, beside "
                f"{net[indices[0]].name}, which leads to {sizes[indices[0]][1:]}"
            )
    parts: Parts = [(_branch_at(net, states[index]), states[index].value) for index in indices]
    return tuple(net[index].name for index in indices), parts


def _longest(net: UnrolledNetwork, states: list[State], sizes: list[tuple[int, ...]]) -> list[int]:
    """The longest run of consecutive blocks with identity shortcuts and one shape."""
    runs: list[list[int]] = [[]]
    for index, block in enumerate(net):
        shape = tuple(states[index].value.shape)
        if block.shortcut != "identity" or shape != sizes[index]:
            runs.append([])
            continue
        if runs[-1] and sizes[runs[-1][-1]] != shape:
            runs.append([])
        runs[-1].append(index)
    return max(runs, key=len)


def _branch_at(net: UnrolledNetwork, state: State) -> Function:
    return lambda value: net.branch(replace(state, value=value))


def _layers(layers: nn.ModuleList, x: torch.Tensor) -> Parts:
    parts: Parts = []
    with torch.no_grad():
        for index, layer in enumerate(layers):
            parts.append((layer, x))
            shape, x = x.shape, layer(x)
            if x.shape != shape:
                raise ValueError(
                    f"expected layers that keep the shape, got one from {tuple(shape[1:])} to {tuple(x.shape[1:])}, "
                    f"layer {index}"
                )
    if len(parts) < 2:
        raise ValueError(f"expected at least two layers to compare, got {len(parts)}")
    return parts


def _compared(
    names: tuple[str, ...], parts: Parts, rank: int, steps: int | None, seed: int, source: Provenance
) -> ResidualAlignment:
    svds = [leading_singular(function, value, rank, steps=steps, seed=seed) for function, value in parts]
    way = torch.stack([value.detach().flatten(1).double() for _, value in parts])
    lengths = way.diff(dim=0).norm(dim=2)
    values = _gathered(svds, lambda svd: svd.values)
    squares = (values**2).sum(2)
    left, right = ([getattr(svd, side).double() for svd in svds] for side in ("left", "right"))
    return ResidualAlignment(
        names=names,
        rank=values.shape[2],
        dimension=way.shape[2],
        values=values,
        errors=_gathered(svds, lambda svd: svd.errors),
        shares=squares / np.maximum(squares + _gathered(svds, lambda svd: svd.remainder), np.finfo(float).tiny),
        left_right=_overlaps(left, right),
        left_left=_overlaps(left, left),
        right_right=_overlaps(right, right),
        steps=lengths.cpu().numpy(),
        straightness=((way[-1] - way[0]).norm(dim=1) / lengths.sum(0)).cpu().numpy(),
        source=source,
    )


def _gathered(svds: list[LeadingSingular], take: Callable[[LeadingSingular], torch.Tensor]) -> np.ndarray:
    return torch.stack([take(svd).double() for svd in svds]).cpu().numpy()


def _overlaps(one: list[torch.Tensor], other: list[torch.Tensor]) -> np.ndarray:
    """``|A_i B_j^T|_F^2 / rank`` for all pairs, (blocks, blocks, examples)."""
    rows = [torch.stack([(a @ b.mT).square().sum((1, 2)) / a.shape[1] for b in other]) for a in one]
    return torch.stack(rows).cpu().numpy()
