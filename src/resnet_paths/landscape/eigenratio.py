"""The map of ``|λmin / λmax|`` over a plane: how far from convex the loss is, everywhere (Li et al. 2018, figure 7).

A surface that looks convex along two random directions may hide negative curvature in the millions of others; this
map shows it. Each cell is a separate eigenproblem, at the cost of hundreds of cells of `loss_surface`. The two share
the grid and the journal but not the evaluator: here the weights are differentiated, so nothing can be folded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..data import ImageSource, InMemory, as_examples
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ..provenance import provenance
from ._grid import Coordinates, SurfaceOptions, along, evaluate_grid, grid_along
from .cell_metrics import usual_loss_name
from .directions import Direction, direction_from
from .hessian import extreme_eigenvalues
from .mean_loss import SampleLoss
from .operator import Kind, Tensors, check_parameters, curvature_operator
from .surface_record import Surface
from .working_copy import WorkingCopy

Given = Direction | Tensors


@checked
@dataclass(frozen=True)
class EigenvalueSettings:
    """How the extreme eigenvalues of a cell are computed.

    Attributes:
        batch_size: as in :func:`curvature_operator`.
        tolerance: as in :func:`extreme_eigenvalues`.
        basis: as in :func:`extreme_eigenvalues`.
        max_restarts: as in :func:`extreme_eigenvalues`; cells that do not converge are recorded as failures.
    """

    batch_size: int = 256
    tolerance: float = 1e-2
    basis: int | None = None
    max_restarts: int = 100


@checked
def eigenvalue_surface(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    directions: Given | Sequence[Given],
    x: Coordinates | None = None,
    y: Coordinates | None = None,
    kind: Kind = "hessian",
    parameters: Sequence[str] | None = None,
    loss: SampleLoss | None = None,
    settings: EigenvalueSettings = EigenvalueSettings(),
    **options: Unpack[SurfaceOptions],
) -> Surface:
    """The extreme eigenvalues of the Hessian of all parameters at each point of a line or a plane, and their ratio.

    At ``θ + x δ + y η`` the values are ``ratio = |λmin / λmax|``, ``smallest = λmin`` and ``largest = λmax``: a ratio
    near 0 means that the loss is nearly convex around that point in every direction, not only in the two of the
    plane. Batch norm's statistics are the model's own (frozen). The model is only read.

    Args:
        model: any model; of an unrolled network, its model.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        directions: one or two, as for :func:`loss_surface`; or tensors by parameter name.
        x: increasing coordinates along the first direction; 25 from -1 to 1 by default.
        y: increasing coordinates along the second direction; same default.
        kind: ``"hessian"`` or ``"gauss_newton"``.
        parameters: as in :func:`curvature_operator`.
        loss: as in :func:`curvature_operator`; by default that which fits the targets.
        settings: how eigenvalues are computed; see :class:`EigenvalueSettings`.
        **options: journal, executor, progress and preview; see :class:`SurfaceOptions`.

    Returns:
        A surface. Its `errors` are bounds, not standard errors: some eigenvalue lies within ``|H v - λ v|`` of λ.
        Where the loss is not finite all values are NaN.

    Raises:
        ValueError: coordinates that do not increase, directions that the model does not have.
        RuntimeError: every cell failed.

    Cost: about 22 to 100 products per cell, of about 3.5 gradients each; memory for `basis` vectors.

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
    network = model_of(model)
    data = as_examples(data, network)
    chosen = _directions(network, directions)
    grid = grid_along(chosen, x, y)
    names = None if parameters is None else tuple(check_parameters(network, parameters))
    matrix = _Matrix(network, chosen, data, kind, names, usual_loss_name(data) if loss is None else loss, settings)
    facts = {
        **along(chosen),
        "batchnorm": "frozen",
        "batch_size": None,
        "images": len(data),
        "source": provenance(network, data),
    }
    return evaluate_grid(_cell, grid, matrix, facts, options)


@dataclass(frozen=True, eq=False)
class _Matrix:
    """What all cells need; sent once to each worker."""

    model: nn.Module
    directions: list[Direction]
    data: InMemory
    kind: Kind
    parameters: tuple[str, ...] | None
    loss: SampleLoss
    settings: EigenvalueSettings


def _cell(point: dict[str, float], matrix: _Matrix, seed: int) -> dict[str, float]:
    """One cell, for the sweep engine; every cell starts Lanczos from the same vector."""
    how = matrix.settings
    working = WorkingCopy(
        matrix.model, matrix.directions, torch.empty(0, device="cpu"), fold=False, channels_last=False
    )
    working.move([point[name] for name in ("x", "y") if name in point])
    operator = curvature_operator(
        working.model,
        matrix.data,
        kind=matrix.kind,
        parameters=matrix.parameters,
        loss=matrix.loss,
        batch_size=how.batch_size,
    )
    try:
        extremes = extreme_eigenvalues(
            operator, tolerance=how.tolerance, basis=how.basis, max_restarts=how.max_restarts
        )
    except FloatingPointError:
        return dict.fromkeys(_NAMES, math.nan)
    scale = float(np.abs(extremes.values).max())
    low, high = (float(residual) * scale for residual in extremes.residuals[[0, -1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_error = float((low + extremes.ratio * high) / np.abs(np.float64(extremes.largest)))
    values = (extremes.ratio, extremes.smallest, extremes.largest, ratio_error, low, high)
    return dict(zip(_NAMES, values, strict=True))


_NAMES = ("ratio", "smallest", "largest", "ratio_se", "smallest_se", "largest_se")


def _directions(model: nn.Module, given: Given | Sequence[Given]) -> list[Direction]:
    several = [given] if isinstance(given, Direction | dict) else list(given)
    return [
        replace(direction_from(model, dict(item.tensors), kind=item.kind), seed=item.seed)
        if isinstance(item, Direction)
        else direction_from(model, item)
        for item in several
    ]
