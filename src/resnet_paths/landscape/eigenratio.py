"""The map of ``|λmin / λmax|`` over a plane: how far from convex the loss is, everywhere (Li et al. 2018, figure 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..data import ImageData, ImageSource, as_data
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ..provenance import provenance
from ._grid import Grid, axis, evaluate_grid
from ._working import WorkingCopy
from .directions import Direction, cosine, direction_from
from .hessian import extreme_eigenvalues
from .mean_loss import SampleLoss
from .operator import Kind, Tensors, check_parameters, curvature_operator
from .record import Surface

Given = Direction | Tensors


@checked
def eigenvalue_surface(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    directions: Given | Sequence[Given],
    x: Sequence[float] | np.ndarray | None = None,
    y: Sequence[float] | np.ndarray | None = None,
    kind: Kind = "hessian",
    parameters: Sequence[str] | None = None,
    loss: SampleLoss = "cross_entropy",
    batch_size: int = 256,
    tolerance: float = 1e-2,
    basis: int | None = None,
    max_restarts: int = 100,
    journal: Path | str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Surface:
    """The extreme eigenvalues of the Hessian of all parameters at each point of a line or a plane, and their ratio.

    At ``θ + x δ + y η`` the values are ``ratio = |λmin / λmax|``, ``smallest = λmin`` and ``largest = λmax``: a ratio
    near 0 means that the loss is nearly convex around that point in every direction, not in the two drawn alone. Batch
    norm's statistics are the model's own (frozen). The model is only read.

    Args:
        model: any model of images; of an unrolled network, its model.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        directions: one or two, as for :func:`loss_surface`; tensors by parameter name also do.
        x: increasing coordinates along the first direction; 25 from -1 to 1 by default.
        y: along the second; likewise.
        kind: ``"hessian"`` or ``"gauss_newton"``.
        parameters: as in :func:`curvature_operator`.
        loss: likewise.
        batch_size: likewise.
        tolerance: as in :func:`extreme_eigenvalues`.
        basis: likewise.
        max_restarts: likewise; cells that do not converge within them are failures with a reason.
        journal: a file that keeps finished cells, as for :func:`loss_surface`.
        executor: any ``concurrent.futures.Executor``.
        progress: show progress and the time left.

    Returns:
        A surface. Its `errors` are bounds, not standard errors: some eigenvalue lies within ``|H v - λ v|`` of λ.
        Where the loss is not finite all values are NaN.

    Raises:
        ValueError: coordinates that do not increase, directions that the model does not have.
        RuntimeError: every cell failed.

    Cost: for each cell about 22 to 100 products, of about 3.5 gradients each; memory for `basis` vectors.

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), section 6 and figure 7.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.landscape import random_direction
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
        >>> data = digits("test").subset(slice(0, 8))
        >>> line = eigenvalue_surface(
        ...     model, data, directions=random_direction(model), x=[0.0], parameters=["linear.bias"], progress=False
        ... )
        >>> line.values["ratio"].shape, bool(line.values["largest"][0] > 0)
        ((1,), True)
    """
    data = as_data(data)
    network = model_of(model)
    chosen = _directions(network, directions)
    if len(chosen) == 1 and y is not None:
        raise ValueError("expected two directions where y is given, got one; leave y out or add a direction")
    grid = Grid(axis("x", x), axis("y", y) if len(chosen) == 2 else None)
    names = None if parameters is None else tuple(check_parameters(network, parameters))
    problem = _Problem(network, chosen, data, kind, names, loss, batch_size, tolerance, basis, max_restarts)
    facts = _facts(network, chosen, data)

    def record(cells: dict[str, Any]) -> Surface:
        return Surface(x=grid.x.values, y=None if grid.y is None else grid.y.values, **facts, **cells)

    return evaluate_grid(
        _cell, grid, problem, record, journal=journal, executor=executor, progress=progress, preview=None
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all cells need; it travels once to each worker."""

    model: nn.Module
    directions: list[Direction]
    data: ImageData
    kind: Kind
    parameters: tuple[str, ...] | None
    loss: SampleLoss
    batch_size: int
    tolerance: float
    basis: int | None
    max_restarts: int


def _cell(point: dict[str, float], problem: _Problem, seed: int) -> dict[str, float]:
    """One cell, for the sweep engine; every cell starts Lanczos from the same vector."""
    working = WorkingCopy(
        problem.model, problem.directions, torch.empty(0, device="cpu"), fold=False, channels_last=False
    )
    working.move([point[name] for name in ("x", "y") if name in point])
    operator = curvature_operator(
        working.model,
        problem.data,
        kind=problem.kind,
        parameters=problem.parameters,
        loss=problem.loss,
        batch_size=problem.batch_size,
    )
    try:
        found = extreme_eigenvalues(
            operator, tolerance=problem.tolerance, basis=problem.basis, max_restarts=problem.max_restarts
        )
    except FloatingPointError:
        return dict.fromkeys(_NAMES, math.nan)
    scale = float(np.abs(found.values).max())
    low, high = (float(residual) * scale for residual in found.residuals[[0, -1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_error = float((low + found.ratio * high) / np.abs(np.float64(found.largest)))
    values = (found.ratio, found.smallest, found.largest, ratio_error, low, high)
    return dict(zip(_NAMES, values, strict=True))


_NAMES = ("ratio", "smallest", "largest", "ratio_se", "smallest_se", "largest_se")


def _directions(model: nn.Module, given: Given | Sequence[Given]) -> list[Direction]:
    several = [given] if isinstance(given, Direction | dict) else list(given)
    if len(several) not in (1, 2):
        raise ValueError(f"expected one or two directions, got {len(several)}")
    return [
        direction_from(model, dict(item.tensors), kind=item.kind) if isinstance(item, Direction) else
        direction_from(model, item) for item in several
    ]  # fmt: skip


def _facts(model: nn.Module, directions: list[Direction], data: ImageData) -> dict[str, Any]:
    return {
        "x_name": directions[0].kind,
        "y_name": directions[1].kind if len(directions) == 2 else None,
        "norms": tuple(direction.norm for direction in directions),
        "cosine": cosine(*directions) if len(directions) == 2 else None,
        "batchnorm": "frozen",
        "batch_size": None,
        "images": len(data),
        "source": provenance(model, data),
    }
