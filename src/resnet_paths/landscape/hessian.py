"""Extreme eigenvalues and eigenvectors of a curvature matrix, full or per block.

Both ends come from one Krylov space (ARPACK's ``BE``): the ratio of the two is what Li et al. (2018) plot, and two
searches would cost twice the products. Each pair comes with its residual, computed by a separate product, because
ARPACK's tolerance is a stopping rule, not a bound on the error. ARPACK needs a product for each vector of its basis
before it returns anything. A matrix with at most four times as many rows as the basis has vectors is therefore formed
and decomposed exactly, at about the cost of three restarts.

A basis of four vectors for each eigenvalue, and at least 20 as in SciPy, comes close to the smallest number of
products: on the embedded ResNet-56, 16 images, one eigenvalue from each end takes 27, 20, 23 and 43 products with 6,
10, 20 and 40 vectors; five take 56, 54, 51 and 71 with 21, 30, 40 and 60.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..data import ImageData, ImageSource, as_batches
from ..imports import first_import
from ..network import UnrolledNetwork
from ..provenance import Provenance
from ..records import Record
from ..tables import data_frame
from .directions import Direction
from .mean_loss import SampleLoss
from .operator import CurvatureOperator, Kind, curvature_operator
from .parameters import block_parameters, check_blocks

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ExtremeEigenvalues(Record):
    """The largest and the smallest eigenvalues of a curvature matrix, with eigenvectors.

    Attributes:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        values: (k,) eigenvalues, the smallest first: `below` from the lower end, the others from the upper end.
        vectors: (k, P) eigenvectors of length 1, float64; the entry of the largest size is positive.
        residuals: (k,) ``|H v - λ v| / max |λ|``, a bound on the error of λ, as a share of the largest.
        below: number of eigenvalues from the lower end.
        size: P, the number of parameters.
        samples: number of samples in the mean.
        method: ``"lanczos"`` (ARPACK, implicitly restarted), or ``"dense"`` for small matrices.
        products: number of matrix-vector products, including those for the residuals.
        restarts: number of Lanczos restarts; 0 for dense.
        basis: number of Lanczos vectors.
        tolerance: the requested relative accuracy.
        directions: the eigenvectors, in the order of `values`, for :func:`loss_surface`.
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {"values": "eigenvalue", "residuals": "eigenvalue", "vectors": "eigenvalue parameter"}

    kind: Kind
    values: np.ndarray
    vectors: np.ndarray = field(repr=False)
    residuals: np.ndarray
    below: int
    size: int
    samples: int
    method: str
    products: int
    restarts: int
    basis: int
    tolerance: float
    directions: tuple[Direction, ...] = field(repr=False)
    source: Provenance = field(repr=False)

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue (the most negative)."""
        return float(self.values[0])

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.values[-1])

    @property
    def ratio(self) -> float:
        """``|λmin / λmax|``, near 0 where the loss is nearly convex (Li et al. 2018, section 6); NaN for 0 / 0."""
        return eigenvalue_ratio(self.smallest, self.largest)

    def top(self, count: int = 2) -> list[Direction]:
        """The directions of the largest eigenvalues, the largest first.

        Raises:
            ValueError: fewer were computed from that end.
        """
        if not 1 <= count <= len(self.values) - self.below:
            raise ValueError(f"expected from 1 to {len(self.values) - self.below} directions, got {count}")
        return list(reversed(self.directions[len(self.directions) - count :]))

    def to_pandas(self) -> pd.DataFrame:
        """One row per eigenvalue, the smallest first."""
        ends = ["smallest"] * self.below + ["largest"] * (len(self.values) - self.below)
        return data_frame({"eigenvalue": self.values, "end": ends, "residual": self.residuals})


@checked
def extreme_eigenvalues(
    operator: CurvatureOperator,
    count: int = 1,
    *,
    tolerance: float = 1e-3,
    basis: int | None = None,
    max_restarts: int = 100,
    seed: int = 0,
) -> ExtremeEigenvalues:
    """The `count` largest and the `count` smallest eigenvalues, from one Krylov space, with eigenvectors.

    Matrices with at most 4 `basis` rows are formed and decomposed; larger ones go through SciPy's ``eigsh`` (ARPACK,
    ``which="BE"``) in float64 around products in the model's own type.

    Args:
        operator: see :func:`curvature_operator`.
        count: number of eigenvalues from each end.
        tolerance: relative accuracy of the eigenvalues for ARPACK.
        basis: number of Lanczos vectors; None takes ``max(20, 8 count)``. Memory: `basis` vectors.
        max_restarts: maximum number of restarts.
        seed: of the starting vector.

    Returns:
        The record, with the residual of each pair.

    Raises:
        ValueError: counts that do not fit the matrix.
        RuntimeError: not converged within `max_restarts`.

    Cost: `products` of the record: about ``basis + restarts (basis - 2 count)``.

    Source: Lehoucq, Sorensen and Yang (1998), ARPACK Users' Guide.

    Example:
        >>> import torch
        >>> diagonal = torch.nn.Linear(3, 1, bias=False).double().eval()
        >>> x = torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()) * 3**0.5
        >>> square = lambda output, target: output[:, 0] ** 2 / 2
        >>> found = extreme_eigenvalues(curvature_operator(diagonal, [(x, torch.zeros(3))], loss=square))
        >>> found.values.round(12).tolist()
        [1.0, 9.0]
    """
    size = len(operator)
    kept = max(20, 8 * count) if basis is None else basis
    if count < 1 or 2 * count > size or kept <= 2 * count:
        raise ValueError(
            f"expected at least 1 eigenvalue from each end, at most half of {size}, and a basis above twice that, got "
            f"count={count} and basis={kept}"
        )
    before, restarts = operator.products, 0
    with operator.graph_kept():
        if size <= 4 * kept:
            values, vectors = _decomposed(operator, count)
            method = "dense"
        else:
            values, vectors = _arpack(operator, 2 * count, kept, tolerance, max_restarts, seed)
            method = "lanczos"
            restarts = max(0, round((operator.products - before - kept) / (kept - 2 * count)))
        vectors = _signed(vectors)
        residuals = _residuals(operator, values, vectors)
    return ExtremeEigenvalues(
        kind=operator.kind,
        values=values,
        vectors=vectors.T,
        residuals=residuals,
        below=count,
        size=size,
        samples=operator.samples,
        method=method,
        products=operator.products - before,
        restarts=restarts,
        basis=kept,
        tolerance=tolerance,
        directions=_directions(operator, values, vectors),
        source=operator.source(seed),
    )


@checked
def eigenvalue_ratio(smallest: float, largest: float) -> float:
    """``|λmin / λmax|``; infinity where only λmax is 0, NaN where both are.

    Example:
        >>> eigenvalue_ratio(-1.0, 4.0)
        0.25
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.abs(np.float64(smallest) / np.float64(largest)))


def _decomposed(operator: CurvatureOperator, count: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = operator.dense().cpu().double().numpy()
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    ends = [*range(count), *range(len(values) - count, len(values))]
    return values[ends], vectors[:, ends]


def _arpack(
    operator: CurvatureOperator, count: int, basis: int, tolerance: float, restarts: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    with first_import("scipy.sparse.linalg"):
        from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

    start = np.random.default_rng(seed).standard_normal(len(operator))
    try:
        values, vectors = eigsh(
            operator.to_scipy(), count, which="BE", v0=start, ncv=basis, tol=tolerance, maxiter=restarts
        )
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"expected {count} eigenvalues to converge to {tolerance:g} within {restarts} restarts of {basis} Lanczos "
            f"vectors, got {len(error.eigenvalues)}; raise max_restarts or basis, or the tolerance"
        ) from error
    except ArpackError:  # no Krylov space grows from a starting vector whose product is zero
        if np.any(operator.to_scipy() @ start):
            raise
        return np.zeros(count), np.eye(len(operator), count)  # only the zero matrix maps a random vector to zero
    order = np.argsort(values)
    return values[order], vectors[:, order]


def _signed(vectors: np.ndarray) -> np.ndarray:
    largest = np.abs(vectors).argmax(0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    turned: np.ndarray = vectors * np.where(signs == 0, 1.0, signs)
    return turned


def _directions(operator: CurvatureOperator, values: np.ndarray, vectors: np.ndarray) -> tuple[Direction, ...]:
    kind = f"{operator.kind.replace('_', '-')} eigenvector"
    return tuple(
        Direction(operator.direction(vector), kind, facts={"eigenvalue": float(value)})
        for value, vector in zip(values, vectors.T, strict=True)
    )


def _residuals(operator: CurvatureOperator, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    product = (operator @ torch.from_numpy(vectors)).cpu().double().numpy()
    scale = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    residuals: np.ndarray = np.linalg.norm(product - values * vectors, axis=0) / scale
    return residuals


@dataclass(frozen=True, eq=False)
class BlockEigenvalues(Record):
    """The extreme eigenvalues of each diagonal block of a curvature matrix.

    Attributes:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        names: the blocks (residual blocks, say).
        smallest: (blocks,) smallest eigenvalue of each.
        largest: (blocks,) largest.
        residuals: (blocks,) the larger residual of the two, see :class:`ExtremeEigenvalues`.
        sizes: (blocks,) number of parameters in each.
        products: (blocks,) matrix-vector products used.
        samples: number of samples in the mean.
        tolerance: the requested relative accuracy.
    """

    DIMENSIONS: ClassVar = {
        "smallest": "block",
        "largest": "block",
        "residuals": "block",
        "sizes": "block",
        "products": "block",
    }
    COORDINATES: ClassVar = {"block": "names"}

    kind: Kind
    names: tuple[str, ...]
    smallest: np.ndarray
    largest: np.ndarray
    residuals: np.ndarray
    sizes: np.ndarray
    products: np.ndarray
    samples: int
    tolerance: float

    def to_pandas(self) -> pd.DataFrame:
        """One row per block."""
        ratios = [eigenvalue_ratio(low, high) for low, high in zip(self.smallest, self.largest, strict=True)]
        return data_frame(
            {
                "block": self.names,
                "parameters": self.sizes,
                "smallest": self.smallest,
                "largest": self.largest,
                "ratio": ratios,
                "residual": self.residuals,
                "products": self.products,
            }
        )


@checked
def block_eigenvalues(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    blocks: Mapping[str, Sequence[str]] | None = None,
    kind: Kind = "hessian",
    loss: SampleLoss | None = None,
    batch_size: int = 256,
    tolerance: float = 1e-2,
    max_restarts: int = 100,
    seed: int = 0,
) -> BlockEigenvalues:
    """The largest and smallest eigenvalue of the diagonal block of each residual block.

    Args:
        model: an unrolled network; a plain model where `blocks` are given.
        data: as in :func:`curvature_operator`.
        blocks: names of parameters for each block; None takes the parameters of each block
            (:func:`block_parameters`).
        kind: ``"hessian"`` or ``"gauss_newton"``.
        loss: as in :func:`curvature_operator`.
        batch_size: as in :func:`curvature_operator`.
        tolerance: as in :func:`extreme_eigenvalues`.
        max_restarts: as in :func:`extreme_eigenvalues`.
        seed: as in :func:`extreme_eigenvalues`.

    Returns:
        The record, with a table.

    Raises:
        ValueError: blocks that are empty or unknown, or a plain model without blocks.

    Cost: about 20 to 100 products per block; cheaper for late blocks, as nothing before the block is differentiated.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0).eval())
        >>> found = block_eigenvalues(net, digits("test").subset(slice(0, 8)), blocks={"head": ["linear.bias"]})
        >>> found.names, bool(found.smallest[0] <= found.largest[0])
        (('head',), True)
    """
    chosen = block_parameters(model) if blocks is None else check_blocks(model, blocks)
    network = model.model if isinstance(model, UnrolledNetwork) else model
    kept = data if isinstance(data, ImageData) else list(as_batches(data, network, batch_size=batch_size))
    rows = []
    for names in chosen.values():
        operator = curvature_operator(model, kept, kind=kind, parameters=names, loss=loss, batch_size=batch_size)
        rows.append(extreme_eigenvalues(operator, tolerance=tolerance, max_restarts=max_restarts, seed=seed))
    return BlockEigenvalues(
        kind=kind,
        names=tuple(chosen),
        smallest=np.array([row.smallest for row in rows]),
        largest=np.array([row.largest for row in rows]),
        residuals=np.array([row.residuals.max() for row in rows]),
        sizes=np.array([row.size for row in rows]),
        products=np.array([row.products for row in rows]),
        samples=rows[0].samples,
        tolerance=tolerance,
    )
