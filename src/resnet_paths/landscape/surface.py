"""Loss surfaces: metrics of a model over a line or a plane in parameter space (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import nn

from ..arguments import checked
from ..data import ImageSource
from ..data.metrics import Metric
from ..graph.wrappers import unwrap
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ._grid import Coordinates, along, grid_along
from .cell_metrics import cell_data
from .cells import CellOptions, evaluate_cells
from .directions import Direction
from .surface_record import Surface
from .working_copy import WeightSpace

Directions = Direction | Sequence[Direction]


@checked
def loss_surface(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    directions: Directions,
    x: Coordinates | None = None,
    y: Coordinates | None = None,
    metrics: Sequence[str | Metric] | None = None,
    **options: Unpack[CellOptions],
) -> Surface:
    """Metrics of a model at ``θ + x δ + y η``, over a line (one direction) or a plane (two).

    Li et al. (2018), section 4, with directions of :func:`random_direction`. Row r, column c of the result is at
    (x_c, y_r). Each cell's weights are computed directly from θ, in private copies. The model is only read, in eval
    mode whatever its training flags. NaN and infinite cells are kept. ``settings=CellSettings(batchnorm=...)``
    chooses the batch-norm statistics away from θ, which gives three different surfaces:

    - ``frozen``: the model's running statistics, unchanged: the trained network's function at other weights. This is
      what Li et al. plot: weights move, statistics do not.
    - ``recalibrated``: estimated again at each cell over `recalibrate`, then used as constants: the network after its
      statistics have settled there (over all examples, in batches of about 128:
      :func:`~resnet_paths.recalibrate_batchnorm`).
    - ``batch``: the statistics of each example's batch, as in training, in one random order of the examples; depends on
      `batch_size`.

    Args:
        model: any model (compiled and data-parallel models are unwrapped), or an unrolled network.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        directions: one or two; see :func:`random_direction`, :func:`direction_between`, :func:`direction_from`.
        x: increasing coordinates along the first direction; 25 from -1 to 1 by default.
        y: increasing coordinates along the second direction; same default. Number and range may
            differ from those of `x`.
        metrics: names or functions as in :func:`single_deletions`, compared with the model at the origin, all from one
            pass; by default the loss, and for images or other examples of one class each the error too. The loss is
            that of `options`, or else the one that fits the targets.
        **options: loss, settings, journal, executor, progress and preview; see :class:`CellOptions`.

    Returns:
        The surface, with the standard error of each cell over examples.

    Raises:
        ValueError: coordinates that do not increase, directions of another model, norms without statistics.
        RuntimeError: every cell failed (single failures are recorded, with a warning).

    Cost: one forward pass of all examples per cell (two with ``recalibrated``).

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.landscape import random_direction
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).eval()
        >>> plane = [random_direction(model, seed=seed) for seed in (1, 2)]
        >>> surface = loss_surface(model, digits("test").subset(slice(0, 20)), directions=plane,
        ...                        x=[-1, 0, 1], y=[0, 0.5], progress=False)
        >>> surface.values["loss"].shape, list(surface.to_xarray().dims)
        ((2, 3), ['y', 'x'])
    """
    network = unwrap(model_of(model))
    data = cell_data(data, network, metrics)
    chosen = [directions] if isinstance(directions, Direction) else list(directions)
    grid = grid_along(chosen, x, y)
    _check(network, chosen)
    return evaluate_cells(WeightSpace(network, chosen), data, grid, metrics, along(chosen), options)


def _check(model: nn.Module, directions: list[Direction]) -> None:
    parameters = dict(model.named_parameters())
    for direction in directions:
        for name, tensor in direction.tensors.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise ValueError(
                    f"expected directions over the parameters of {type(model).__name__}, got {name!r} of shape "
                    f"{tuple(tensor.shape)}, which it does not have; use shared_direction(direction, model)"
                )
