"""What a network's paths look like at one moment of training, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..arguments import Range, checked
from ..network import UnrolledNetwork
from ..paths import effective_paths, gradient_by_length, path_energy
from ..records import Record
from ..tables import data_frame

if TYPE_CHECKING:
    import pandas as pd

Loss = Any

_COLUMNS = 4  # of path_energy: a few are enough for a mean length


@dataclass(frozen=True, eq=False)
class PathStatistics(Record):
    """The paths of a network at one moment, on one batch.

    Attributes:
        step: the moment.
        blocks: names of the blocks, (n,).
        gradient_norm: norm of the gradient that came through paths of each length, averaged over the examples,
            (n + 1,).
        share: ``sum_b <G_k, G> / sum_b |G|^2``: the signed part of the batch's gradient at the input that each
            length gives, (n + 1,); sums to one.
        mean_length: ``sum_k k share_k``: how many branches the gradient came through.
        effective_length: mean length weighted by number of paths times root mean square norm of one
            (Veit, Wilber and Belongie 2016, section 5), cancellation between paths left out; None where no
            draws were asked for, NaN where there is no finite gradient.
        branch_ratio: ``|branch(y)| / |shortcut(y)|`` of each block, averaged over the examples, (n,).
        residual: ``|sum_k G_k - G| / |G|``, the check of the split.
    """

    DIMENSIONS: ClassVar = {"gradient_norm": "length", "share": "length", "branch_ratio": "block"}
    COORDINATES: ClassVar = {"block": "blocks"}

    step: int
    blocks: tuple[str, ...]
    gradient_norm: np.ndarray
    share: np.ndarray
    mean_length: float
    effective_length: float | None
    branch_ratio: np.ndarray
    residual: float

    def scalars(self) -> dict[str, float]:
        """All numbers by the names under which loggers keep them.

        ``paths/mean_length``, ``paths/effective_length``, ``paths/branch_ratio`` (mean over the blocks),
        ``paths/share/LENGTH``, ``paths/gradient_norm/LENGTH``, ``paths/branch_ratio/BLOCK``.
        """
        named = {"paths/mean_length": self.mean_length, "paths/branch_ratio": float(self.branch_ratio.mean())}
        if self.effective_length is not None:
            named["paths/effective_length"] = self.effective_length
        width = len(str(len(self.blocks)))
        for length, (share, norm) in enumerate(zip(self.share, self.gradient_norm, strict=True)):
            named[f"paths/share/{length:0{width}d}"] = float(share)
            named[f"paths/gradient_norm/{length:0{width}d}"] = float(norm)
        for name, ratio in zip(self.blocks, self.branch_ratio, strict=True):
            named[f"paths/branch_ratio/{name}"] = float(ratio)
        return named

    def to_pandas(self) -> pd.DataFrame:
        """One row for each number: step, name, value."""
        named = self.scalars()
        return data_frame({"step": self.step, "name": list(named), "value": list(named.values())})


@checked(draws=Range(0))
def path_statistics(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    step: int = 0,
    loss: Loss = "cross_entropy",
    draws: int = 2,
    seed: int = 0,
) -> PathStatistics:
    """The numbers about paths that are worth a curve over training.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or what the loss takes.
        step: the moment, as a number.
        loss: as in :func:`resnet_paths.paths.gradient_by_length`.
        draws: estimates of the paths' energy for the effective length, at least 2; 0 leaves it out.
        seed: of the signs; the same signs at each step make curves comparable.

    Returns:
        The record.

    Raises:
        ValueError: the model is in training mode; one draw.

    Cost: two forward passes, one backward pass, and ``(1 + 4 draws) n(n+1)/2`` branch products.

    Source: Veit, Wilber and Belongie (2016), sections 3 and 5.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> data = load_data("digits", limit=4)
        >>> found = path_statistics(unroll(load_model("embedded")), data.x, data.labels, draws=0)
        >>> found.share.shape, round(float(found.share.sum()), 4)
        ((28,), 1.0)
    """
    split = gradient_by_length(net, x, target, loss=loss)
    total = split.total.double()
    products = (split.gradient.double() * total).flatten(1).sum(1)
    share = (products / total.square().sum()).cpu().numpy()
    effective = None
    if draws:
        energy = path_energy(net, x, target, draws=draws, columns=_COLUMNS, loss=loss, seed=seed)
        usable = bool(energy.energy.isfinite().all()) and bool(energy.energy.any())
        effective = effective_paths(energy).mean_length if usable else float("nan")
    return PathStatistics(
        step=step,
        blocks=tuple(block.name for block in net),
        gradient_norm=split.norms.double().mean(1).cpu().numpy(),
        share=share,
        mean_length=float(share @ np.arange(len(share))),
        effective_length=effective,
        branch_ratio=_branch_ratio(net, x),
        residual=float("nan") if split.residual is None else split.residual,
    )


def _branch_ratio(net: UnrolledNetwork, x: Any) -> np.ndarray:
    """The mean over examples of ``|branch| / |shortcut|``, block by block, in one forward pass."""
    ratios = []
    with torch.no_grad():
        state = net.stem(x)
        while state.index < len(net):
            shortcut, branch = net.shortcut(state), net.branch(state)
            sizes = [value.detach().double().flatten(1).norm(dim=1) for value in (branch, shortcut)]
            ratios.append(float((sizes[0] / sizes[1]).mean()))
            state = net.join(state, shortcut + branch)
    return np.array(ratios)
