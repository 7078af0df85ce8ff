"""How rough a surface is, in numbers with intervals, so that "smoother" can be tested."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student
from torch import nn

from .._display import shown
from ..data import ImageSource, as_data
from .directions import Include, Normalise, random_direction
from .record import Surface
from .surface import loss_surface

Scale = Literal["linear", "log"]
NUMBERS = ("convex", "negative", "deviation")


@dataclass(frozen=True)
class Roughness:
    """How far a surface is from a convex and from a quadratic one.

    Attributes:
        convex: the share of inner cells at which the surface is convex (1 for a bowl).
        negative: the mean over these cells of ``max(0, -λ_min) / max(|λ_min|, |λ_max|)`` (0 for a bowl, 1 for a
            summit): how strong negative curvature is beside the strongest.
        deviation: ``√(1 - R²)`` of the least-squares quadratic through all cells (0 for a quadratic).
        cells: inner cells counted.
        left_out: inner cells without a value, or beside one.
    """

    convex: float
    negative: float
    deviation: float
    cells: int
    left_out: int


def roughness(surface: Surface, metric: str = "loss", scale: Scale = "linear") -> Roughness:
    """Convexity, negative curvature and deviation from a quadratic of a surface over a line or plane.

    The second derivatives at each inner cell are divided differences, exact for quadratics also where coordinates
    are not evenly spaced; λ are the eigenvalues of the 2 x 2 matrix of them. Li et al. (2018), section 6.2, look at
    ``|λ_min / λ_max|`` of the full Hessian, whose λ_min is never far above 0; on a plane that would be 1 for a round
    bowl, so only negative curvature counts here.

    Args:
        surface: with at least three coordinates an axis.
        metric: one of its metrics.
        scale: ``log`` takes the logarithm of the values first, for surfaces that grow exponentially.

    Raises:
        ValueError: too few coordinates, an unknown metric, or no cell with values on all sides.

    Example:
        >>> import numpy as np
        >>> x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 4)
        >>> bowl = 2 * x**2 + x * y[:, None] + y[:, None] ** 2
        >>> result = roughness(Surface.of(x, y, loss=bowl))
        >>> result.convex, result.negative, round(result.deviation, 6), result.cells
        (1.0, 0.0, 0.0, 6)
    """
    values = _values(surface, metric, scale)
    eigenvalues = curvatures(surface.x, surface.y, values)
    counted = np.isfinite(eigenvalues).all(-1)
    if not counted.any():
        raise ValueError("expected cells with finite values on all sides, got none; choose a smaller range")
    low, high = eigenvalues[counted].min(-1), eigenvalues[counted].max(-1)
    strongest = np.maximum(np.abs(low), np.abs(high))
    share = np.divide(np.maximum(0, -low), strongest, out=np.zeros_like(low), where=strongest > 0)
    return Roughness(
        convex=float((low >= 0).mean()),
        negative=float(share.mean()),
        deviation=quadratic_deviation(surface.x, surface.y, values),
        cells=int(counted.sum()),
        left_out=int((~counted).sum()),
    )


def curvatures(x: np.ndarray, y: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Eigenvalues of the matrix of second derivatives at inner cells: (rows - 2, columns - 2, 2), or (columns - 2, 1).

    NaN where a cell or one of its neighbours is not finite.

    Example:
        >>> curvatures(np.array([0.0, 1, 3]), None, np.array([0.0, 1, 9]))
        array([[2.]])
    """
    if len(x) < 3 or (y is not None and len(y) < 3):
        raise ValueError("expected at least three coordinates an axis, got fewer: there are no inner cells")
    finite = np.where(np.isfinite(values), values, np.nan)
    if y is None:
        return _second(x, finite)[:, None]
    across = _second(x, finite)[1:-1]
    down = _second(y, finite.T).T[:, 1:-1]
    corners = finite[2:, 2:] - finite[2:, :-2] - finite[:-2, 2:] + finite[:-2, :-2]
    mixed = corners / ((x[2:] - x[:-2])[None, :] * (y[2:] - y[:-2])[:, None])
    middle, half = (across + down) / 2, np.hypot((across - down) / 2, mixed)
    return np.stack([middle - half, middle + half], -1)


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


@shown
@dataclass(frozen=True, eq=False)
class RoughnessStudy:
    """Roughness of one or more models (trained from several seeds) along several random planes each.

    Attributes:
        values: for each of convex, negative and deviation an array (models, planes).
        seeds: of the planes.
        surfaces: the surfaces, one row a model.
        metric: what was measured.
        scale: on which scale.
    """

    values: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    surfaces: tuple[tuple[Surface, ...], ...] = field(repr=False)
    metric: str
    scale: str

    def interval(self, number: str, level: float = 0.95) -> tuple[float, float, float]:
        """Mean and interval (Student's t): over models where there are several, otherwise over planes."""
        return _interval(self.values[number], level)

    def to_frame(self) -> pd.DataFrame:
        """One row a model and plane."""
        models = len(self.surfaces)
        index = pd.MultiIndex.from_product([range(models), self.seeds], names=["model", "plane"])
        return pd.DataFrame({name: array.ravel() for name, array in self.values.items()}, index).reset_index()


def roughness_study(
    models: nn.Module | Sequence[nn.Module],
    data: ImageSource,
    *,
    seeds: Iterable[int] = range(5),
    x: Sequence[float] | np.ndarray | None = None,
    y: Sequence[float] | np.ndarray | None = None,
    metric: str = "loss",
    scale: Scale = "linear",
    normalise: Normalise = "filter",
    include: Include = "weights",
    **options: Any,
) -> RoughnessStudy:
    """Roughness along several random planes, for models trained from several seeds.

    Plane s is spanned by the random directions of seeds 2s and 2s + 1; models of the same names and shapes share its
    draw, each on its own scale, so that two studies can be compared plane by plane.

    Args:
        models: one, or the same kind of network trained from several seeds.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        seeds: of the planes.
        x: coordinates, at least three; 11 from -1 to 1 by default.
        y: likewise.
        metric: which metric's surface.
        scale: see :func:`roughness`.
        normalise: see :func:`random_direction`.
        include: likewise.
        **options: of :func:`loss_surface`.

    Returns:
        The numbers, with the surfaces.

    Cost: models x planes x cells forward passes of all images.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).eval()
        >>> study = roughness_study(model, digits("test").subset(slice(0, 10)), seeds=[0, 1],
        ...                         x=[-1, 0, 1], y=[-1, 0, 1], progress=False)
        >>> study.values["convex"].shape
        (1, 2)
    """
    data = as_data(data)
    several = [models] if isinstance(models, nn.Module) else list(models)
    chosen = tuple(seeds)
    if not several or not chosen:
        raise ValueError(f"expected at least one model and one seed, got {len(several)} and {len(chosen)}")
    grid: dict[str, Any] = {"x": np.linspace(-1, 1, 11) if x is None else x}
    grid["y"] = np.linspace(-1, 1, 11) if y is None else y
    surfaces = []
    for model in several:
        planes = (
            [random_direction(model, seed=2 * seed + k, normalise=normalise, include=include) for k in (0, 1)]
            for seed in chosen
        )
        surfaces.append(
            tuple(loss_surface(model, data, directions=d, metrics=(metric,), **grid, **options) for d in planes)
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
        p_value: of Student's paired t test, two-sided.
        pairs: how many pairs there are.
        over: what the pairs are: models, or planes.
    """

    number: str
    difference: float
    low: float
    high: float
    p_value: float
    pairs: int
    over: str


def compare_roughness(first: RoughnessStudy, second: RoughnessStudy) -> dict[str, RoughnessDifference]:
    """Whether one kind of network is smoother than another: differences, paired by model and by plane.

    With several models a pair is a model of each study, averaged over planes (the planes of one model are not
    independent of each other); with one, a pair is a plane, and the result holds for these two networks only.

    Raises:
        ValueError: the studies have other planes, numbers of models, metrics or scales.

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
    found = {}
    for number in first.values:
        gaps = first.values[number] - second.values[number]
        mean, low, high = _interval(gaps, 0.95)
        units = _units(gaps)
        found[number] = RoughnessDifference(
            number, mean, low, high, _p_value(units), len(units), "models" if len(gaps) > 1 else "planes"
        )
    return found


def _units(values: np.ndarray) -> np.ndarray:
    """What is independent: models, averaged over planes; with one model its planes."""
    units: np.ndarray = values.mean(1) if len(values) > 1 else values[0]
    return units


def _interval(values: np.ndarray, level: float) -> tuple[float, float, float]:
    units = _units(values)
    mean = float(units.mean())
    if len(units) < 2:
        return mean, -math.inf, math.inf
    half = float(student.ppf((1 + level) / 2, len(units) - 1)) * float(units.std(ddof=1)) / math.sqrt(len(units))
    return mean, mean - half, mean + half


def _p_value(units: np.ndarray) -> float:
    if len(units) < 2:
        return math.nan
    error = float(units.std(ddof=1)) / math.sqrt(len(units))
    if error == 0:
        return 1.0 if not units.mean() else 0.0
    return float(2 * student.sf(abs(float(units.mean())) / error, len(units) - 1))
