"""A network's paths at one moment of training, in a few numbers.

Beside the analyses of `paths`, which answer one question each in detail: this picks what is worth a curve over
training and cheap enough to record hundreds of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..arguments import Range, checked
from ..network import BlockRef, UnrolledNetwork
from ..paths import effective_paths, gradient_by_length, path_energy
from ..records import Record
from ..tables import data_frame

if TYPE_CHECKING:
    import pandas as pd

Loss = Any

_COLUMNS = 4  # of path_energy: within about 9% of a length's energy per draw, enough for a mean length


@dataclass(frozen=True, eq=False)
class PathStatistics(Record):
    """Statistics of a network's paths at one training step, on one batch.

    Attributes:
        step: the training step.
        blocks: names of the blocks, (n,).
        gradient_norm: norm of the gradient through the paths of each length, averaged over the examples,
            (n + 1,).
        share: ``sum_b <G_k, G> / sum_b |G|^2``: the signed share of the batch's input gradient that each length
            contributes, (n + 1,); sums to one. With ``at`` a block, the gradient at its entry.
        mean_length: ``sum_k k share_k``: the mean number of branches that the gradient passed through.
        effective_length: mean length, each length weighted by its number of paths times the root mean square norm of
            one path (Veit, Wilber and Belongie 2016, section 5), which ignores cancellation between paths; None with
            ``draws=0``, NaN where there is no finite gradient.
        branch_ratio: ``|branch(y)| / |shortcut(y)|`` of each block, averaged over the examples, (n,).
        residual: ``|sum_k G_k - G| / |G|``, the error of the decomposition.
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
        """All numbers, by the names that loggers use.

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
        """One row per number: step, name, value."""
        named = self.scalars()
        return data_frame({"step": self.step, "name": list(named), "value": list(named.values())})


@checked(draws=Range(0))
def path_statistics(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    step: int = 0,
    at: BlockRef = "input",
    loss: Loss = "cross_entropy",
    draws: int = 2,
    seed: int = 0,
) -> PathStatistics:
    """Path statistics that are worth plotting over training.

    Args:
        net: the unrolled network, with its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts.
        step: the training step to record.
        at: where the gradient is taken: ``"input"``, or a block's entry, such as 0 where inputs are tokens.
        loss: see :func:`resnet_paths.paths.gradient_by_length`.
        draws: number of draws of the path energy for the effective length, at least 2; 0 leaves it out.
        seed: seed of the random signs; the same signs at each step make curves comparable.

    Returns:
        The statistics.

    Raises:
        ValueError: the model is in training mode, or `draws` is 1.

    Cost: two forward passes, one backward pass, and ``(1 + 4 draws) n(n+1)/2`` branch products.

    Source: Veit, Wilber and Belongie (2016), sections 3 and 5.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> data = load_data("digits", limit=4)
        >>> statistics = path_statistics(unroll(load_model("embedded")), data.x, data.labels, draws=0)
        >>> statistics.share.shape, round(float(statistics.share.sum()), 4)
        ((28,), 1.0)
    """
    by_length = gradient_by_length(net, x, target, at=at, loss=loss)
    total = by_length.total.double()
    products = (by_length.gradient.double() * total).flatten(1).sum(1)
    share = (products / total.square().sum()).cpu().numpy()
    effective_length = None
    if draws:
        energy = path_energy(net, x, target, at=at, draws=draws, columns=_COLUMNS, loss=loss, seed=seed)
        is_finite = bool(energy.energy.isfinite().all()) and bool(energy.energy.any())
        effective_length = effective_paths(energy).mean_length if is_finite else float("nan")
    return PathStatistics(
        step=step,
        blocks=tuple(block.name for block in net),
        gradient_norm=by_length.norms.double().mean(1).cpu().numpy(),
        share=share,
        mean_length=float(share @ np.arange(len(share))),
        effective_length=effective_length,
        branch_ratio=_branch_ratio(net, x),
        residual=float("nan") if by_length.residual is None else by_length.residual,
    )


def _branch_ratio(net: UnrolledNetwork, x: Any) -> np.ndarray:
    """The mean over examples of ``|branch| / |shortcut|`` per block, in one forward pass."""
    ratios = []
    with torch.no_grad():
        state = net.stem(x)
        while state.index < len(net):
            shortcut, branch = net.shortcut(state), net.branch(state)
            norms = [value.detach().double().flatten(1).norm(dim=1) for value in (branch, shortcut)]
            ratios.append(float((norms[0] / norms[1]).mean()))
            state = net.join(state, shortcut + branch)
    return np.array(ratios)
