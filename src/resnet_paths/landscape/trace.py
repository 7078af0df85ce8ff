"""The trace of a curvature matrix, estimated from products with random vectors, with the error of the estimate.

curvlinops, whose operators these are, has both estimators. They return one number, and an estimate without its error
cannot be compared with another. Hutchinson's error could be obtained by calling it once per draw. Hutch++'s could not:
its draws share a basis, and several estimates from a fraction of the products each are worse. With 48 products on a
matrix with a few large eigenvalues the error is 1.1 % here, 2.4 % as the mean of four estimates and 7.2 % as the mean
of sixteen (analysis/benchmarks/curvature_estimates.md). It also draws from torch's global generator, which changes the
caller's random numbers and draws differently on a GPU, has no estimates by parameter, and multiplies all vectors at
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from ..arguments import checked
from ..draws import integers, normal, seeded
from ..provenance import Provenance
from ..records import Record
from ..statistics import student_quantile
from ..tables import data_frame
from .operator import CurvatureOperator, Kind

if TYPE_CHECKING:
    import pandas as pd

Probe = Literal["rademacher", "gaussian"]

_TOGETHER = 8
"""Vectors multiplied at a time: from four on a product costs 2.5 gradients instead of 3.5, and memory stays small."""


@dataclass(frozen=True, eq=False)
class TraceEstimate(Record):
    """An estimate of a trace with its error.

    Attributes:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        method: ``"hutchinson"`` or ``"hutch++"``.
        value: the estimate.
        standard_error: of it, over the random vectors; NaN for a single one, 0 where the result is exact.
        low: lower end of the confidence interval (Student's t).
        high: upper end.
        confidence: level of the interval.
        draws: random vectors whose spread gives the error.
        products: matrix-vector products used.
        size: P, the number of parameters.
        samples: number of samples in the mean.
        by_parameter: for each parameter, its diagonal block's estimates, one per draw (Hutchinson only).
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {"by_parameter": "draw"}

    kind: Kind
    method: str
    value: float
    standard_error: float
    low: float
    high: float
    confidence: float
    draws: int
    products: int
    size: int
    samples: int
    by_parameter: Mapping[str, np.ndarray] = field(repr=False)
    source: Provenance = field(repr=False)

    def of_blocks(self, blocks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        """The traces of diagonal blocks, from the same products: each draw gives ``z_bᵀ (H z)_b`` for a block b.

        Each is unbiased; its error includes what the rest of the matrix adds to ``(H z)_b``.

        Args:
            blocks: for each block the names of its parameters, as :func:`block_parameters` gives them.

        Raises:
            ValueError: the estimate is not Hutchinson's, or a parameter is not in the operator.
        """
        if not self.by_parameter:
            raise ValueError(f"expected Hutchinson's estimate, got {self.method}, which has no parts; use hutchinson()")
        rows = []
        for block, names in blocks.items():
            unknown = [name for name in names if name not in self.by_parameter]
            if unknown or not names:
                raise ValueError(f"expected parameters of the operator in block {block!r}, got {unknown or 'none'}")
            draws = np.sum([self.by_parameter[name] for name in names], axis=0)
            rows.append((block, *_summary(draws, self.confidence)))
        return data_frame(rows, columns=["block", "trace", "standard_error", "low", "high"])

    def to_pandas(self) -> pd.DataFrame:
        """One row."""
        names = ("kind", "method", "value", "standard_error", "low", "high", "draws", "products", "size", "samples")
        return data_frame([{name: getattr(self, name) for name in names}])


@checked
def hutchinson(
    operator: CurvatureOperator,
    draws: int = 32,
    *,
    probe: Probe = "rademacher",
    confidence: float = 0.95,
    seed: int = 0,
) -> TraceEstimate:
    """The trace as the mean of ``zᵀ H z`` over random vectors z with independent entries of variance 1.

    Unbiased; for signs its variance is ``2 (|H|_F² - sum_i H_ii²) / draws``.

    Args:
        operator: see :func:`curvature_operator`.
        draws: random vectors, at least 2.
        probe: ``"rademacher"`` (signs) or ``"gaussian"``.
        confidence: level of the interval.
        seed: of the vectors.

    Raises:
        ValueError: too few draws, an unknown probe, a confidence outside (0, 1).

    Cost: `draws` products.

    Source: Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.

    Example:
        >>> import torch
        >>> from resnet_paths.landscape.operator import curvature_operator
        >>> line = torch.nn.Linear(2, 1, bias=False).double().eval()
        >>> x = torch.diag(torch.tensor([1.0, 3.0]).double())
        >>> square = lambda output, target: output[:, 0] ** 2 / 2
        >>> hutchinson(curvature_operator(line, [(x, torch.zeros(2))], loss=square), 4).value
        5.0
    """
    _check(draws, 2, confidence)
    before = operator.products
    by_draw = torch.cat([_by_parameter(operator, z) for z in random_vectors(operator, draws, probe, seed)])
    by_parameter = dict(zip(operator.names, by_draw.T.cpu().numpy(), strict=True))
    return _estimate(
        operator, before, seed, "hutchinson", by_draw.sum(1).cpu().numpy(), confidence, by_parameter=by_parameter
    )


def _by_parameter(operator: CurvatureOperator, z: torch.Tensor) -> torch.Tensor:
    """For each vector (P, K) and parameter, ``zᵀ H z`` of the parameter's own entries: (K, parameters)."""
    product = (z * (operator @ z)).double()
    return torch.stack([product[place].sum(0) for place in operator.slices().values()], 1)


@checked
def hutch_plus_plus(
    operator: CurvatureOperator, products: int = 48, *, confidence: float = 0.95, seed: int = 0
) -> TraceEstimate:
    """The trace with the largest part of the matrix taken exactly and Hutchinson's estimate for the rest.

    With Q an orthonormal basis of ``H S`` for a third of the products' random signs S,

        tr H = tr(Qᵀ H Q) + tr((1 - QQᵀ) H (1 - QQᵀ)),

    the first term exactly from another third, the second by Hutchinson from the last third. The error falls as
    1 / products instead of 1 / sqrt(products) for matrices whose eigenvalues have one sign. Exact where the
    products suffice for all of the matrix.

    Args:
        operator: see :func:`curvature_operator`.
        products: matrix-vector products altogether, at least 6.
        confidence: level of the interval, which is conditional on S.
        seed: of the random vectors.

    Raises:
        ValueError: too few products, a confidence outside (0, 1).

    Cost: at most `products` products; memory for a third as many vectors.

    Source: Meyer, Musco, Musco and Woodruff (2021), Hutch++: Optimal stochastic trace estimation, algorithm 1.
    """
    _check(products, 6, confidence)
    before, third = operator.products, products // 3
    signs = torch.cat(list(random_vectors(operator, min(third, len(operator)), "rademacher", seed)), 1)
    basis = torch.linalg.qr(
        (operator @ signs).double()
    ).Q  # in float64: whatever float32 left in the basis's span would be counted twice
    exact = float((basis * (operator @ basis).double()).sum())
    draws = (
        []
        if basis.shape[1] == len(operator)
        else list(random_vectors(operator, products - 2 * third, "rademacher", seed + 1))
    )
    rest = []
    for z in draws:
        outside = z.double() - basis @ (basis.T @ z.double())
        rest.append((outside * (operator @ outside).double()).sum(0).cpu())
    values = torch.cat(rest).numpy() if rest else np.zeros(0)
    return _estimate(operator, before, seed, "hutch++", values, confidence, exact)


def _check(count: int, least: int, confidence: float) -> None:
    if count < least:
        raise ValueError(f"expected at least {least} random vectors or products, got {count}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")


def random_vectors(
    operator: CurvatureOperator, count: int, probe: Probe, seed: int, together: int = _TOGETHER
) -> Iterator[torch.Tensor]:
    """Vectors with entries of mean 0 and variance 1, the same on every device: (P, at most `together`) at a time.

    Yields:
        The columns.

    Raises:
        ValueError: an unknown probe.
    """
    if probe not in ("rademacher", "gaussian"):
        raise ValueError(f"expected probe 'rademacher' or 'gaussian', got {probe!r}")
    generator, shape = seeded(seed), (len(operator),)
    for start in range(0, count, together):
        rows = [
            normal(shape, generator) if probe == "gaussian" else integers(0, 2, shape, generator).double() * 2 - 1
            for _ in range(start, min(start + together, count))
        ]
        yield torch.stack(rows, 1).to(operator.device, operator.dtype)


def _summary(draws: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    """Mean, standard error and Student's interval."""
    mean, error = float(draws.mean()), float(draws.std(ddof=1)) / math.sqrt(len(draws))
    half = float(student_quantile((1 + confidence) / 2, len(draws) - 1)) * error
    return mean, error, mean - half, mean + half


def _estimate(
    operator: CurvatureOperator,
    before: int,
    seed: int,
    method: str,
    draws: np.ndarray,
    confidence: float,
    exact: float = 0.0,
    by_parameter: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> TraceEstimate:
    """The part that is known exactly and the mean of the draws, with Student's interval; no draws: exact."""
    mean, error, low, high = _summary(draws, confidence) if len(draws) else (0.0,) * 4
    return TraceEstimate(
        kind=operator.kind,
        method=method,
        value=exact + mean,
        standard_error=error,
        low=exact + low,
        high=exact + high,
        confidence=confidence,
        draws=len(draws),
        products=operator.products - before,
        size=len(operator),
        samples=operator.samples,
        by_parameter=dict(by_parameter),
        source=operator.source(seed),
    )
