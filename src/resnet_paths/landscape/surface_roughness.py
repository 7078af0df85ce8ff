"""How rough a surface is, in numbers with intervals, so that "smoother" can be tested.

A plot of one plane of one model cannot be tested. Three numbers per plane can, over planes and models. None of them is
Li et al.'s ratio of the full Hessian's eigenvalues (see `eigenratio`): on a plane that ratio is 1 for a round bowl.
`convex` and `negative` read second differences, which magnify the noise of cells by the square of the spacing; hence
the care in separating rounding and noise from curvature. `deviation` looks at the surface as a whole instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import Normalise
from ..data import ImageSource
from ..records import Record
from ..statistics import mean_intervals, student_intervals, student_tail
from ..tables import data_frame
from ._grid import Coordinates
from .cell_metrics import cell_data
from .cells import CellOptions
from .directions import Include, random_direction
from .surface import loss_surface
from .surface_record import Surface

if TYPE_CHECKING:
    import pandas as pd

Scale = Literal["linear", "log"]
NUMBERS = ("convex", "negative", "deviation")


@dataclass(frozen=True)
class Roughness:
    """How far a surface is from a convex and from a quadratic one.

    Attributes:
        convex: the share of inner cells at which the surface is convex (1 for a bowl), up to rounding and noise.
        negative: the mean over these cells of ``max(0, -λ_min) / max(|λ_min|, |λ_max|)`` (0 for a bowl, 1 for a
            summit): the strength of negative curvature relative to the strongest curvature.
        deviation: ``√(1 - R²)`` of the least-squares quadratic through all cells (0 for a quadratic).
        cells: inner cells counted.
        left_out: inner cells without a value, or next to one.
        undecided: the share of inner cells whose smallest curvature is indistinguishable from zero (1 for a plane);
            they count as convex.
    """

    convex: float
    negative: float
    deviation: float
    cells: int
    left_out: int
    undecided: float = 0.0


_ROUNDINGS = 16
"""A value of a cell may be off by this many units in the last place: it is a mean over images of a network's output.

Measured on 25 cells of the embedded ResNet-56 in float32, in batches of 16 to 200, folded and not: the median error was
0.6 units, the largest 5.2.
"""
_DEVIATIONS = 2
"""A curvature counts as negative only beyond this many standard deviations of the cells' noise.

Noise alone makes at most 1 in 44 flat cells count as negative.
"""


@checked
def roughness(
    surface: Surface, metric: str = "loss", scale: Scale = "linear", *, noise: float | np.ndarray = 0.0
) -> Roughness:
    """Convexity, negative curvature and deviation from a quadratic of a surface over a line or plane.

    The second derivatives at each inner cell are divided differences, exact for quadratics also where coordinates
    are not evenly spaced; λ are the eigenvalues of the 2 x 2 matrix of them. Li et al. (2018), section 6, look at
    ``|λ_min / λ_max|`` of the full Hessian, whose λ_min is never far above 0; on a plane that would be 1 for a round
    bowl, so only negative curvature counts here.

    A cell is not convex if λ_min is below zero by more than rounding (16 units in the last place of the surface's
    type, carried to second derivatives) and two standard deviations of the `noise` can make it.

    **The numbers depend on the grid.** A finer one resolves finer bumps: for ``x² + y² + cos(12 x) cos(12 y) / 20`` on
    [-1, 1]² `convex` falls from 1.00 with 5 grid points per axis to 0.31 with 81. The noise of the cells is divided
    by the square of the spacing. Only compare surfaces over the same coordinates.

    Args:
        surface: a surface with at least three grid points per axis.
        metric: one of its metrics.
        scale: ``log`` takes the logarithm of the values first, for surfaces that grow exponentially.
        noise: standard deviation of the part of a cell's value that is random and independent of its neighbours (on
            the `scale`), one number or one per cell. Not `surface.errors`: errors of cells on the same images are
            correlated.

    Raises:
        ValueError: noise below zero, too few coordinates, an unknown metric, or no cell with values on all sides.

    Example:
        >>> import numpy as np
        >>> x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 4)
        >>> bowl = 2 * x**2 + x * y[:, None] + y[:, None] ** 2
        >>> result = roughness(Surface.of(x, y, loss=bowl))
        >>> result.convex, result.negative, round(result.deviation, 6), result.cells
        (1.0, 0.0, 0.0, 6)
    """
    values = _values(surface, metric, scale)
    spread = np.broadcast_to(np.asarray(noise, float), values.shape)
    if not (spread >= 0).all():
        raise ValueError(f"expected noise of at least 0, got {np.min(spread)}")
    eigenvalues = curvatures(surface.x, surface.y, values)
    rounding = _ROUNDINGS * _precision(surface.source.dtype) * (1.0 if scale == "log" else np.abs(values))
    tolerance = _error_of_curvature(surface.x, surface.y, rounding + np.zeros_like(values), largest=True)
    tolerance = tolerance + _DEVIATIONS * _error_of_curvature(surface.x, surface.y, spread, largest=False)
    counted = np.isfinite(eigenvalues).all(-1)
    if not counted.any():
        raise ValueError("expected cells with finite values on all sides, got none; choose a smaller range")
    low, high, tolerance = eigenvalues[counted].min(-1), eigenvalues[counted].max(-1), tolerance[counted]
    strongest = np.maximum(np.abs(low), np.abs(high))
    share = np.divide(-low, strongest, out=np.zeros_like(low), where=low < -tolerance)
    return Roughness(
        convex=float((low >= -tolerance).mean()),
        negative=float(share.mean()),
        deviation=quadratic_deviation(surface.x, surface.y, values),
        cells=int(counted.sum()),
        left_out=int((~counted).sum()),
        undecided=float((np.abs(low) <= tolerance).mean()),
    )


def curvatures(x: np.ndarray, y: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Eigenvalues of the matrix of second derivatives at inner cells: (rows - 2, columns - 2, 2), or (columns - 2, 1).

    NaN where a cell or one of its neighbours is not finite.

    Raises:
        ValueError: fewer than three coordinates along an axis.

    Example:
        >>> curvatures(np.array([0.0, 1, 3]), None, np.array([0.0, 1, 9]))
        array([[2.]])
    """
    if len(x) < 3 or (y is not None and len(y) < 3):
        raise ValueError("expected at least three grid points per axis, got fewer: there are no inner cells")
    finite = np.where(np.isfinite(values), values, np.nan)
    if y is None:
        return _second(x, finite)[:, None]
    across = _second(x, finite)[1:-1]
    down = _second(y, finite.T).T[:, 1:-1]
    corners = finite[2:, 2:] - finite[2:, :-2] - finite[:-2, 2:] + finite[:-2, :-2]
    mixed = corners / ((x[2:] - x[:-2])[None, :] * (y[2:] - y[:-2])[:, None])
    middle, half = (across + down) / 2, np.hypot((across - down) / 2, mixed)
    return np.stack([middle - half, middle + half], -1)


def _precision(dtype: str) -> float:
    kind = getattr(torch, dtype.removeprefix("torch."), torch.float64)
    return float(torch.finfo(kind).eps)


def _error_of_curvature(x: np.ndarray, y: np.ndarray | None, errors: np.ndarray, *, largest: bool) -> np.ndarray:
    """How far errors of the cells may move an eigenvalue at inner cells: at most, or by standard deviations.

    An eigenvalue moves by no more than the Frobenius norm of the change of the matrix (Weyl). Errors that are not
    finite belong to cells that are left out.
    """

    def carried(weights: Sequence[np.ndarray | float], parts: Sequence[np.ndarray]) -> np.ndarray:
        terms = [np.abs(weight) * part for weight, part in zip(weights, parts, strict=True)]
        total: np.ndarray = np.sum(terms, 0) ** 2 if largest else np.sum(np.square(terms), 0)
        return total

    def along(coordinates: np.ndarray, values: np.ndarray) -> np.ndarray:
        before, after = np.diff(coordinates)[:-1], np.diff(coordinates)[1:]
        outer = 2 / (before * (before + after)), 2 / (after * (before + after))
        weights = outer[0], outer[0] + outer[1], outer[1]
        return carried(weights, (values[..., :-2], values[..., 1:-1], values[..., 2:]))

    if y is None:
        of_a_line: np.ndarray = np.sqrt(along(x, errors))
        return of_a_line
    across, down = along(x, errors)[1:-1], along(y, errors.T).T[:, 1:-1]
    weight = 1 / np.abs((x[2:] - x[:-2])[None, :] * (y[2:] - y[:-2])[:, None])
    corners = (errors[2:, 2:], errors[2:, :-2], errors[:-2, 2:], errors[:-2, :-2])
    of_a_plane: np.ndarray = np.sqrt(across + down + 2 * carried([weight] * 4, corners))
    return of_a_plane


def quadratic_deviation(x: np.ndarray, y: np.ndarray | None, values: np.ndarray) -> float:
    """Residual of the least-squares quadratic through the finite cells, relative to their spread: ``√(1 - R²)``.

    NaN where there are no more cells than coefficients.
    """
    if y is None:
        terms = [np.ones_like(x), x, x**2]
    else:
        a, b = np.broadcast_arrays(x[None, :], y[:, None])
        terms = [np.ones_like(a), a, b, a * a, a * b, b * b]
    finite = np.isfinite(values)
    design, target = np.stack([term[finite] for term in terms], 1), values[finite]
    if len(target) <= design.shape[1]:
        return math.nan
    scale = np.abs(target).max() or 1.0
    coefficients, *_ = np.linalg.lstsq(design, target / scale, rcond=None)
    residual = target / scale - design @ coefficients
    spread = float(np.square(target / scale - (target / scale).mean()).sum())
    return math.sqrt(float(np.square(residual).sum()) / spread) if spread else 0.0


def _second(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Second derivatives along the last dimension at inner coordinates, by divided differences."""
    slopes = np.diff(values, axis=-1) / np.diff(x)
    second: np.ndarray = 2 * np.diff(slopes, axis=-1) / (x[2:] - x[:-2])
    return second


def _values(surface: Surface, metric: str, scale: Scale) -> np.ndarray:
    if metric not in surface.values:
        raise ValueError(f"expected a metric among {sorted(surface.values)}, got {metric!r}")
    if scale not in ("linear", "log"):
        raise ValueError(f"expected scale 'linear' or 'log', got {scale!r}")
    values = np.where(surface.finished, surface.values[metric], np.nan)
    if scale == "linear":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values)


@dataclass(frozen=True, eq=False)
class RoughnessStudy(Record):
    """Roughness of one or more models (trained from several seeds) along several random planes each.

    Attributes:
        values: an array (models, planes) for each of convex, negative and deviation.
        seeds: of the planes.
        surfaces: the surfaces, one row per model.
        metric: what was measured.
        scale: on which scale.
    """

    DIMENSIONS: ClassVar = {"values": "model plane"}
    COORDINATES: ClassVar = {"plane": "seeds"}

    values: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    surfaces: tuple[tuple[Surface, ...], ...] = field(repr=False)
    metric: str
    scale: str

    def interval(self, number: str, confidence: float = 0.95) -> tuple[float, float, float]:
        """Mean and interval: over models where there are several, otherwise over planes.

        See :func:`resnet_paths.statistics.mean_intervals`; all numbers lie between 0 and 1, and so do the ends.
        """
        blocks = _blocks(self.values[number])
        low, high = mean_intervals(blocks, confidence, bound=1.0)
        return float(blocks.mean()), max(0.0, float(low)), float(high)

    def to_pandas(self) -> pd.DataFrame:
        """One row per model and plane."""
        planes = len(self.seeds)
        index = {"model": np.arange(len(self.surfaces)).repeat(planes), "plane": self.seeds * len(self.surfaces)}
        return data_frame(index | {name: array.ravel() for name, array in self.values.items()})


@checked
def roughness_study(
    models: nn.Module | Sequence[nn.Module],
    data: ImageSource,
    *,
    seeds: Iterable[int] = range(5),
    x: Coordinates | None = None,
    y: Coordinates | None = None,
    metric: str = "loss",
    scale: Scale = "linear",
    normalise: Normalise = "filter",
    include: Include = "weights",
    **options: Unpack[CellOptions],
) -> RoughnessStudy:
    """Roughness along several random planes, for models trained from several seeds.

    Plane s is spanned by the random directions of seeds 2s and 2s + 1; models of the same names and shapes share its
    draw, each on its own scale, so that two studies can be compared plane by plane.

    Args:
        models: one, or the same kind of network trained from several seeds.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        seeds: of the planes.
        x: at least three coordinates; 11 from -1 to 1 by default.
        y: the same for the second axis.
        metric: which metric's surface.
        scale: see :func:`roughness`.
        normalise: see :func:`random_direction`.
        include: see :func:`random_direction`.
        **options: of :func:`loss_surface`; see :class:`CellOptions`.

    Returns:
        The numbers, with the surfaces.

    Raises:
        ValueError: no model, or no seed.

    Cost: models x planes x cells forward passes of all examples.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).eval()
        >>> study = roughness_study(model, digits("test").subset(slice(0, 10)), seeds=[0, 1],
        ...                         x=[-1, 0, 1], y=[-1, 0, 1], progress=False)
        >>> study.values["convex"].shape
        (1, 2)
    """
    several = [models] if isinstance(models, nn.Module) else list(models)
    chosen = tuple(seeds)
    if not several or not chosen:
        raise ValueError(f"expected at least one model and one seed, got {len(several)} and {len(chosen)}")
    data = cell_data(data, several[0], (metric,))
    x, y = (np.linspace(-1, 1, 11) if axis is None else axis for axis in (x, y))
    surfaces = []
    for model in several:
        planes = (
            [random_direction(model, seed=2 * seed + k, normalise=normalise, include=include) for k in (0, 1)]
            for seed in chosen
        )
        surfaces.append(
            tuple(loss_surface(model, data, directions=d, metrics=(metric,), x=x, y=y, **options) for d in planes)
        )
    values = {name: np.full((len(several), len(chosen)), np.nan) for name in NUMBERS}
    for row, column in product(range(len(several)), range(len(chosen))):
        found = roughness(surfaces[row][column], metric, scale)
        for name in NUMBERS:
            values[name][row, column] = getattr(found, name)
    return RoughnessStudy(values, chosen, tuple(surfaces), metric, scale)


@dataclass(frozen=True)
class RoughnessDifference:
    """One number of a first study minus that of a second.

    Attributes:
        number: convex, negative or deviation.
        difference: the mean of the paired differences.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: of Student's paired t test, two-sided; NaN if all differences are equal, because their error is then
            unknown.
        pairs: number of pairs.
        over: what is paired: models or planes.
    """

    number: str
    difference: float
    low: float
    high: float
    p_value: float
    pairs: int
    over: str


@checked
def compare_roughness(first: RoughnessStudy, second: RoughnessStudy) -> dict[str, RoughnessDifference]:
    """Whether one kind of network is smoother than another: differences, paired by model and by plane.

    With several models a pair is a model of each study, averaged over planes (the planes of one model are not
    independent of each other); with one, a pair is a plane, and the result holds for these two networks only.

    Raises:
        ValueError: the studies have other planes, coordinates, numbers of models, metrics or scales.

    Example:
        >>> a = RoughnessStudy({"convex": np.array([[0.9, 0.8, 0.9]])}, (0, 1, 2), (), "loss", "linear")
        >>> b = RoughnessStudy({"convex": np.array([[0.5, 0.5, 0.4]])}, (0, 1, 2), (), "loss", "linear")
        >>> compare_roughness(a, b)["convex"].low > 0
        True
    """
    same = (first.seeds, first.metric, first.scale) == (second.seeds, second.metric, second.scale)
    shapes = [{array.shape for array in study.values.values()} for study in (first, second)]
    if not same or shapes[0] != shapes[1]:
        raise ValueError(
            f"expected two studies over the same planes, number of models, metric and scale, got seeds {first.seeds} "
            f"and {second.seeds}, shapes {shapes[0]} and {shapes[1]}"
        )
    _check_same_grid(first, second)
    differences = {}
    for number in first.values:
        gaps = first.values[number] - second.values[number]
        blocks = _blocks(gaps)
        mean, (low, high) = float(blocks.mean()), map(float, student_intervals(blocks))
        differences[number] = RoughnessDifference(
            number, mean, low, high, _p_value(blocks), len(blocks), "models" if len(gaps) > 1 else "planes"
        )
    return differences


def _blocks(values: np.ndarray) -> np.ndarray:
    """The independent units: models, averaged over planes; with a single model, its planes."""
    blocks: np.ndarray = values.mean(1) if len(values) > 1 else values[0]
    return blocks


def _check_same_grid(first: RoughnessStudy, second: RoughnessStudy) -> None:
    """Refuse studies over different grids: roughness depends on the grid."""
    grids = {
        (one.x.tobytes(), b"" if one.y is None else one.y.tobytes())
        for study in (first, second)
        for row in study.surfaces
        for one in row
    }
    if len(grids) > 1:
        raise ValueError(
            f"expected two studies over the same coordinates, got {len(grids)} different grids; roughness depends on "
            "the grid, so measure both with the same x and y"
        )


def _p_value(blocks: np.ndarray) -> float:
    if len(blocks) < 2 or np.ptp(blocks) == 0:
        return math.nan
    error = float(blocks.std(ddof=1)) / math.sqrt(len(blocks))
    return 2 * student_tail(abs(float(blocks.mean())) / error, len(blocks) - 1)
