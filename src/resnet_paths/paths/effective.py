"""Which path lengths carry the gradient: the number of paths of a length times the norm of one of them.

The last step of section 5 of Veit et al., which combines a count with a norm from any source (sampled, enumerated or
estimated energy). Separate from those, so that the three can be compared on equal terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..arguments import checked
from ..provenance import Provenance
from ..records import Record, as_array
from .energy import PathEnergy
from .enumeration import EnumeratedPathGradients
from .lengths import central_interval, distribution_of
from .sampling import SampledPathGradients

PathNorms = SampledPathGradients | EnumeratedPathGradients | PathEnergy


@dataclass(frozen=True, eq=False)
class EffectivePaths(Record):
    """The distribution of gradient over path lengths.

    Attributes:
        kind: what `norm` is: the mean norm of sampled paths, that of all paths, or the root mean square.
        n: number of blocks.
        lengths: 0..n, (n + 1,); up to the longest path if the blocks are not a chain.
        count_share: share of all paths that have each length; C(n, k) / 2^n in a chain.
        norm: norm of one path of each length, averaged over the examples.
        standard_error: standard error of `norm` (0 where it is exact).
        share: ``C(n, k) norm_k`` over its sum: the share of each length in the gradient's total.
        mass: share of the total inside the effective range.
        low: shortest effective length: at most (1 - mass)/2 of the total is shorter.
        high: longest effective length.
        path_share: share of all paths whose length is in that range.
        mean_length: mean length, weighted by `share`.
        decay: factor by which `norm` changes with each additional branch (least squares on the logarithm).
        decay_fit: R^2 of this exponential law.
        source: model, data, seed and versions of the norms.
        counts: the number of paths of each length.
    """

    DIMENSIONS: ClassVar = {
        "count_share": "length",
        "norm": "length",
        "standard_error": "length",
        "share": "length",
    }
    COORDINATES: ClassVar = {"length": "lengths"}

    kind: str
    n: int
    lengths: np.ndarray
    count_share: np.ndarray
    norm: np.ndarray
    standard_error: np.ndarray
    share: np.ndarray
    mass: float
    low: int
    high: int
    path_share: float
    mean_length: float
    decay: float
    decay_fit: float
    source: Provenance = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)


@checked
def effective_paths(norms: PathNorms, *, mass: float = 0.95) -> EffectivePaths:
    """Which path lengths matter: the number of paths of each length times the norm of one.

        share_k = C(n, k) m_k / sum_j C(n, j) m_j,      m_k = mean norm of a path of length k

    (if the blocks are not a chain, with the number of paths of length k in place of C(n, k)).
    The effective range is the central range of that distribution.

    Args:
        norms: the result of :func:`sample_path_gradients` (with all lengths), :func:`enumerate_path_gradients` or
            :func:`path_energy`. For the last, m_k is the root mean square norm, which is at least the mean; `kind` says
            which it is.
        mass: share of the total that the effective range should contain.

    Returns:
        The distribution, its range and mean, and the share of all paths that lie in the range.

    Raises:
        ValueError: lengths are missing, the mass is not between 0 and 1, all norms are 0, or one is not finite.

    Cost: negligible next to the norms.

    Source: Veit, Wilber and Belongie (2016), section 5 and figure 6 c.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> from resnet_paths.paths import enumerate_path_gradients
        >>> effective = effective_paths(enumerate_path_gradients(net, torch.randn(1, 3, 32, 32), [0], at=4))
        >>> effective.share.shape, round(float(effective.share.sum()), 6)
        ((5,), 1.0)
    """
    kind, norm, error = _norms(norms)
    longest = len(norms.counts) - 1
    if len(norm) != longest + 1:
        raise ValueError(
            f"expected norms of all lengths 0 to {longest}, got {len(norm)} of them; leave out `lengths` when sampling"
        )
    distribution = distribution_of(norms.n, norms.counts)
    if not np.isfinite(norm).all() or not norm.any():
        raise ValueError(f"expected finite norms, some above 0, got {norm}; there is no gradient to distribute")
    with np.errstate(divide="ignore"):
        logs = distribution.log_probability + np.log(norm)
    weights = np.exp(logs - logs.max())
    share = weights / weights.sum()
    low, high = central_interval(share, mass)
    decay, fit = exponential_fit(norm)
    return EffectivePaths(
        kind=kind,
        n=norms.n,
        lengths=distribution.lengths,
        count_share=distribution.probability,
        norm=norm,
        standard_error=error,
        share=share,
        mass=mass,
        low=low,
        high=high,
        path_share=distribution.share(low, high),
        mean_length=float(share @ distribution.lengths),
        decay=decay,
        decay_fit=fit,
        source=norms.source,
        counts=norms.counts,
    )


def _norms(norms: PathNorms) -> tuple[str, np.ndarray, np.ndarray]:
    """The kind of norm, its mean over the examples, and the standard error of that mean, (L,) each."""
    if isinstance(norms, SampledPathGradients):
        mean, error = norms.over_examples()
        complete = norms.lengths.tolist() == list(range(len(norms.counts)))
        return (
            "mean norm of sampled paths",
            as_array(mean.double())[: None if complete else 0],
            as_array(error.double()),
        )
    if isinstance(norms, EnumeratedPathGradients):
        exact = as_array(norms.mean_by_length().double().mean(1))
        return "mean norm of all paths", exact, np.zeros_like(exact)
    rms = as_array(norms.rms.double())
    errors = as_array(norms.standard_error.double()) / np.maximum(as_array(norms.energy.double()), np.finfo(float).tiny)
    error = np.sqrt(((rms * errors / 2) ** 2).sum(1)) / rms.shape[1]
    return "root mean square norm of all paths", rms.mean(1), error


def exponential_fit(norm: np.ndarray) -> tuple[float, float]:
    """The factor per branch of the best exponential fit, and its R^2, over the lengths with a nonzero gradient."""
    lengths = np.flatnonzero(norm > 0)
    if len(lengths) < 3:
        return math.nan, math.nan
    logs = np.log(norm[lengths])
    slope, offset = np.polyfit(lengths, logs, 1)
    spread = ((logs - logs.mean()) ** 2).sum()
    fit = 1 - ((logs - offset - slope * lengths) ** 2).sum() / spread if spread else 1.0
    return float(np.exp(slope)), float(fit)
