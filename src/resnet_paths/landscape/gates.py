"""Surfaces over gates: the loss between the full network and lesioned ones.

Li et al. (2018) move weights; Veit et al. (2016) delete blocks. A gate connects the two: at 1 the block is present,
at 0 it is deleted, and in between the loss shows whether deletion is a cliff or a slope. Everything except the
meaning of a point is as in `loss_surface`. `lesioned_surface` is here because it also compares with lesioned
networks, although its axes are weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch

from ..arguments import checked
from ..data import ImageSource, InMemory
from ..data.metrics import Metric
from ..graph.eval_mode import check_eval
from ..network import BlockRef, UnrolledNetwork
from ..surgery import drop_blocks
from ._grid import CellGrid, Coordinates, axis
from .cell_metrics import cell_data
from .cells import CellOptions, evaluate_cells
from .directions import Direction, shared_direction
from .gate_copy import GatePath, GatePlane, GateSpace
from .surface import loss_surface
from .surface_record import Surface

Blocks = BlockRef | Sequence[BlockRef]

_FROM_0_TO_1 = np.linspace(0, 1, 11)


@checked
def gate_surface(
    net: UnrolledNetwork,
    data: ImageSource,
    *,
    x_blocks: Blocks,
    y_blocks: Blocks | None = None,
    x: Coordinates | None = None,
    y: Coordinates | None = None,
    gates: Sequence[float] | torch.Tensor | None = None,
    metrics: Sequence[str | Metric] | None = None,
    **options: Unpack[CellOptions],
) -> Surface:
    """Metrics over the gate of one block (or several at once), or over two.

    At (x, y) the gates of `x_blocks` are x and those of `y_blocks` are y: ``y_i = post(shortcut + g_i branch)``.
    (1, 1) is the model, (0, 1) the network without the first, (0, 0) without both; values outside 0 to 1 extrapolate.
    Batch norm's statistics are frozen, recalibrated at each cell's gates, or those of the batch, as in
    :func:`loss_surface`; norms in a branch with gate 0 have no effect.

    Args:
        net: the network, in eval mode; it is only read.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        x_blocks: a block by index or name, or several that share their gate.
        y_blocks: other blocks; None for a line.
        x: increasing gates; 11 from 0 to 1 by default.
        y: the same for `y_blocks`.
        gates: (n,) gates of all blocks, replaced for the blocks on the axes; ones by default.
        metrics: as in :func:`loss_surface`.
        **options: see :class:`CellOptions`.

    Raises:
        ValueError: a block on both axes, wrong coordinates, or norms without statistics.
        UnrollError: a model in training mode.

    Cost: the blocks before the first moving one, once; from it on, one pass of all examples per cell. With
    ``batchnorm="recalibrated"``, two full passes per cell.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> surface = gate_surface(net, digits("test").subset(slice(0, 20)), x_blocks=20, y_blocks=[21, 22],
        ...                        x=[0, 1], y=[0, 0.5, 1], progress=False)
        >>> surface.values["error"].shape, surface.x_name
        ((3, 2), 'gate of layer3.2')
    """
    data = cell_data(data, net.model, metrics)
    first, second = net.indices(x_blocks), [] if y_blocks is None else net.indices(y_blocks)
    if not first or (y_blocks is not None and not second):
        raise ValueError("expected at least one block on each axis, got none; leave out y_blocks for a line")
    if set(first) & set(second):
        both = ", ".join(net[index].name for index in sorted(set(first) & set(second)))
        raise ValueError(f"expected different blocks on the two axes, got {both} on both")
    if y is not None and y_blocks is None:
        raise ValueError("expected y_blocks with y, got none; leave y out or name the blocks")
    base = _base(gates, len(net))
    grid = CellGrid(axis("x", x, _FROM_0_TO_1), axis("y", y, _FROM_0_TO_1) if second else None)

    def places(rows: list[int]) -> list[float]:
        return [float(index in rows) for index in range(len(net))]

    names = [f"gate of {', '.join(net[index].name for index in blocks)}" for blocks in (first, second) if blocks]
    return _surface(net, data, GatePlane(base, places(first), places(second)), grid, names, metrics, options)


@checked
def gate_path(
    net: UnrolledNetwork,
    data: ImageSource,
    waypoints: torch.Tensor | Sequence[Sequence[float]],
    *,
    t: Coordinates | None = None,
    metrics: Sequence[str | Metric] | None = None,
    **options: Unpack[CellOptions],
) -> Surface:
    """Metrics along straight lines between gate vectors, such as from the full network to a lesioned one.

    ``g(t) = (1 - s) w_k + s w_{k+1}`` with k the integer part of t and s the fractional part; t = k is waypoint k.

    Args:
        net: the network, in eval mode; it is only read.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        waypoints: (m, n) gates; see :func:`deletion_path`.
        t: increasing, from 0 to m - 1; ten steps per line by default.
        metrics: as in :func:`loss_surface`.
        **options: see :class:`CellOptions`.

    Returns:
        A surface over a line.

    Raises:
        ValueError: fewer than two waypoints, another number of gates, or t outside 0 to m - 1.

    Cost: as for :func:`gate_surface`.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> path = gate_path(net, digits("test").subset(slice(0, 20)), deletion_path(net, [3, 20]), progress=False)
        >>> path.x[[0, -1]], path.values["loss"].shape
        (array([0., 2.]), (21,))
    """
    data = cell_data(data, net.model, metrics)
    points = torch.as_tensor(waypoints, dtype=torch.float64, device="cpu")
    if points.ndim != 2 or len(points) < 2 or points.shape[1] != len(net):
        raise ValueError(
            f"expected at least two waypoints of {len(net)} gates, one for each block, got {tuple(points.shape)}"
        )
    last = len(points) - 1
    line = axis("x", t, np.linspace(0, last, 10 * last + 1))
    if line.values[0] < 0 or line.values[-1] > last:
        raise ValueError(f"expected t from 0 to {last}, got {line.values[0]:g} to {line.values[-1]:g}")
    name = f"path of gates over {len(points)} waypoints"
    return _surface(net, data, GatePath(points.tolist()), CellGrid(line, None), [name], metrics, options)


@checked
def deletion_path(net: UnrolledNetwork, blocks: Blocks) -> torch.Tensor:
    """Waypoints from the full network through the deletion of each block in turn: (blocks + 1, n).

    Example:
        >>> import torchvision
        >>> from resnet_paths import unroll
        >>> deletion_path(unroll(torchvision.models.resnet18().eval()), [5, 2])[:, [2, 5]].tolist()
        [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    indices = net.indices(blocks)
    points = torch.ones(len(indices) + 1, len(net), dtype=torch.float64, device="cpu")
    for step, index in enumerate(indices):
        points[step + 1 :, index] = 0
    return points


@checked
def lesioned_surface(
    net: UnrolledNetwork,
    data: ImageSource,
    blocks: Blocks,
    *,
    directions: Direction | Sequence[Direction],
    x: Coordinates | None = None,
    y: Coordinates | None = None,
    metrics: Sequence[str | Metric] | None = None,
    **options: Unpack[CellOptions],
) -> Surface:
    """The loss surface of the network without some blocks, along the full network's directions.

    Args:
        net: the full network; it is only read.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        blocks: to drop (a copy without their branches is made).
        directions: of the full network; entries for dropped parameters are ignored.
        x: as in :func:`loss_surface`.
        y: as in :func:`loss_surface`.
        metrics: as in :func:`loss_surface`.
        **options: see :class:`CellOptions`.

    Cost: as for :func:`loss_surface`, with the smaller network.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.landscape import random_direction
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> line = lesioned_surface(net, digits("test").subset(slice(0, 20)), [3, 20],
        ...                         directions=random_direction(net.model), x=[0, 0.1], progress=False)
        >>> line.values["error"].shape
        (2,)
    """
    data = cell_data(data, net.model, metrics)
    smaller = drop_blocks(net, net.indices(blocks))
    given = [directions] if isinstance(directions, Direction) else directions
    shared = [shared_direction(one, smaller) for one in given]
    return loss_surface(smaller, data, directions=shared, x=x, y=y, metrics=metrics, **options)


def _base(gates: Sequence[float] | torch.Tensor | None, n: int) -> list[float]:
    if gates is None:
        return [1.0] * n
    base = [float(gate) for gate in gates]
    if len(base) != n:
        raise ValueError(f"expected {n} gates, one for each block, got {len(base)}")
    return base


def _surface(
    net: UnrolledNetwork,
    data: InMemory,
    line: GatePlane | GatePath,
    grid: CellGrid,
    names: list[str],
    metrics: Sequence[str | Metric] | None,
    options: CellOptions,
) -> Surface:
    check_eval(net.model)
    axes = {"x_name": names[0], "y_name": names[1] if len(names) > 1 else None, "norms": (), "cosine": None}
    return evaluate_cells(GateSpace(net, line), data, grid, metrics, axes, options)
