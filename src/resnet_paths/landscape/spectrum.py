"""The spectral density of a curvature matrix by stochastic Lanczos quadrature, with its error.

It complements `hessian`, which finds single eigenvalues at the ends: of millions of eigenvalues most lie near zero, and
there only their number can be estimated. curvlinops offers such a density as well (`lanczos_approximate_spectrum`), but
only as the mean of its draws; the errors need each draw's Ritz values and weights. Its Lanczos also omits
reorthogonalisation: in float32 it had 11 copies of the largest eigenvalue after 60 steps, and 38 after 200, where ours
has one (analysis/benchmarks/curvature_estimates.md). Once smoothed, copies share one weight and
do no harm; as nodes that a user reads, they do.

Vectors are orthogonalised against all previous ones, and twice: a single pass leaves part of the rounding error of the
subtraction, a second pass leaves only float64 rounding (Golub and Van Loan 2013, section 10.3). That costs
``4 P steps²`` operations, which is little compared with `steps` products with a network's matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ..arguments import checked
from ..imports import first_import
from ..provenance import Provenance
from ..records import Record
from ..tables import data_frame
from .operator import CurvatureOperator, Kind
from .trace import random_vectors

if TYPE_CHECKING:
    import pandas as pd

_MOST_POINTS = 10**7
"""80 MB for the grid alone; a larger number is a mistake (a list of points may have any length)."""


@dataclass(frozen=True, eq=False)
class SpectralDensity(Record):
    """How the eigenvalues of a curvature matrix are distributed, estimated.

    Attributes:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        grid: (G,) eigenvalues at which the density is given.
        density: (G,) share of the eigenvalues per unit of length, smoothed by a Gaussian of `width`.
        standard_error: (G,) of it, over the draws.
        width: standard deviation of the Gaussian.
        nodes: (draws, steps) Ritz values of each probe; NaN where Lanczos ended before.
        weights: (draws, steps) their shares of the eigenvalues, each row summing to 1; 0 where nodes are NaN.
        products: matrix-vector products used.
        size: P, the number of eigenvalues.
        samples: number of samples in the mean.
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {
        "density": "eigenvalue",
        "standard_error": "eigenvalue",
        "nodes": "probe step",
        "weights": "probe step",
    }
    COORDINATES: ClassVar = {"eigenvalue": "grid"}

    kind: Kind
    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray
    width: float
    nodes: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    products: int
    size: int
    samples: int
    source: Provenance = field(repr=False)

    @property
    def draws(self) -> int:
        """Number of random vectors."""
        return len(self.nodes)

    def share_below(self, value: float) -> tuple[float, float]:
        """The share of eigenvalues below a value, and its standard error over the draws.

        The quadrature counts a Ritz value as a whole: near the many eigenvalues around 0 its resolution is that of
        the Ritz values there.
        """
        return _mean_error((self.weights * (self.nodes < value)).sum(1))

    def moment(self, power: int = 1) -> tuple[float, float]:
        """The mean of ``λ^power`` over the eigenvalues, and its standard error; power 1 times P is the trace."""
        return _mean_error((self.weights * np.nan_to_num(self.nodes) ** power).sum(1))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each point of the grid."""
        columns = {"eigenvalue": self.grid, "density": self.density, "standard_error": self.standard_error}
        return data_frame(columns)


@checked
def spectral_density(
    operator: CurvatureOperator,
    *,
    steps: int = 60,
    draws: int = 8,
    width: float | None = None,
    grid: np.ndarray | int = 1024,
    seed: int = 0,
) -> SpectralDensity:
    """The density of eigenvalues, ``1/P sum_i N(t; λ_i, width²)``, by stochastic Lanczos quadrature.

    Each of `draws` random unit vectors v gives a tridiagonal matrix ``T = VᵀHV`` of Lanczos with eigenvalues θ_j
    and first components w_j of its eigenvectors; then

        vᵀ f(H) v  ~  sum_j w_j² f(θ_j),      f(H) = N(t; H, width²),

    whose expectation over v is the density. Lanczos keeps all vectors and orthogonalises twice.

    Args:
        operator: see :func:`curvature_operator`.
        steps: Lanczos steps; at most P are made.
        draws: random vectors (Gaussian, of length 1), at least 2.
        width: of the Gaussian; None takes 1 % of the distance between the extreme Ritz values.
        grid: the eigenvalues at which to give the density, or how many, evenly from 4 widths below the smallest Ritz
            value to 4 above the largest.
        seed: of the draws.

    Returns:
        The record, with standard errors over draws.

    Raises:
        ValueError: too few draws or steps, a width that is not positive.

    Cost: ``draws * steps`` products; memory for `steps` vectors.

    Source: Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature; Ghorbani,
    Krishnan and Xiao (2019) for networks.

    Example:
        >>> import torch
        >>> from resnet_paths.landscape.operator import curvature_operator
        >>> line = torch.nn.Linear(2, 1, bias=False).double().eval()
        >>> x = torch.diag(torch.tensor([1.0, 3.0]).double()) * 2**0.5
        >>> square = lambda output, target: output[:, 0] ** 2 / 2
        >>> found = spectral_density(curvature_operator(line, [(x, torch.zeros(2))], loss=square), draws=2)
        >>> found.nodes[0].round(9).tolist()
        [1.0, 9.0]
    """
    if draws < 2 or steps < 1:
        raise ValueError(f"expected at least 2 draws and 1 step, got {draws} and {steps}")
    if isinstance(grid, int) and not 1 <= grid <= _MOST_POINTS:
        raise ValueError(f"expected grid as a number of points from 1 to {_MOST_POINTS:,}, or the points, got {grid}")
    if width is not None and not width > 0:
        raise ValueError(f"expected a positive width, got {width}")
    before = operator.products
    taken = min(steps, len(operator))
    with first_import("scipy.linalg"):
        from scipy.linalg import eigh_tridiagonal

    nodes, weights = np.full((draws, taken), np.nan), np.zeros((draws, taken))
    with operator.graph_kept():
        for row, start in enumerate(random_vectors(operator, draws, "gaussian", seed, together=1)):
            diagonal, beside, _ = lanczos(operator, start[:, 0], taken)
            values, vectors = eigh_tridiagonal(diagonal, beside)
            nodes[row, : len(values)], weights[row, : len(values)] = values, vectors[0] ** 2

    low, high = float(np.nanmin(nodes)), float(np.nanmax(nodes))
    spread = float(width) if width is not None else max(0.01 * (high - low), 1e-12 * max(abs(low), abs(high), 1e-300))
    points = np.linspace(low - 4 * spread, high + 4 * spread, grid) if isinstance(grid, int) else np.asarray(grid)
    density, error = smoothed(nodes, weights, points, spread)
    return SpectralDensity(
        kind=operator.kind,
        grid=points,
        density=density,
        standard_error=error,
        width=spread,
        nodes=nodes,
        weights=weights,
        products=operator.products - before,
        size=len(operator),
        samples=operator.samples,
        source=operator.source(seed),
    )


def lanczos(
    operator: CurvatureOperator, start: torch.Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """The tridiagonal matrix of a symmetric operator on the Krylov space of a vector.

    Args:
        operator: anything that multiplies vectors by ``@``.
        start: (P,), not zero.
        steps: at most this many; fewer where the space is exhausted.

    Returns:
        The diagonal (k,), the off-diagonal (k - 1,), and the orthonormal vectors (P, k), float64.

    Raises:
        ValueError: the start is zero.

    Cost: `steps` products and, to orthogonalise, ``4 P steps²`` operations; memory ``P steps``.

    Source: Golub and Van Loan (2013), Matrix Computations, section 10.3; full orthogonalisation, twice.
    """
    length = float(torch.linalg.vector_norm(start.double()))
    if length == 0:
        raise ValueError("expected a starting vector other than zero, got zero")
    basis = torch.empty(len(start), steps, dtype=torch.float64, device=start.device)
    basis[:, 0] = start.double() / length
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        product = (operator @ basis[:, step]).double()
        diagonal.append(float(product @ basis[:, step]))
        if step + 1 == steps:
            break
        known = basis[:, : step + 1]
        for _ in range(2):
            product = product - known @ (known.T @ product)
        size = float(torch.linalg.vector_norm(product))
        if size <= 1e-12 * math.hypot(*diagonal, *beside):  # float64 rounding: nothing is left outside the space
            break
        beside.append(size)
        basis[:, step + 1] = product / size
    return np.array(diagonal), np.array(beside), basis[:, : len(diagonal)]


def smoothed(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean over draws of ``sum_j weights_j N(t; nodes_j, width²)`` and its standard error, (G,) each."""
    rows = [
        (_bell((grid[:, None] - np.nan_to_num(row)) / width) / width * share).sum(1)
        for row, share in zip(nodes, weights, strict=True)
    ]
    stacked = np.array(rows)
    return stacked.mean(0), stacked.std(0, ddof=1) / math.sqrt(len(stacked))


def _bell(z: np.ndarray) -> np.ndarray:
    """The density of the standard normal distribution."""
    density: np.ndarray = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return density


def _mean_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
