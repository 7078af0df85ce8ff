"""Loss surfaces: metrics of a model over a line or a plane in parameter space (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import NormStatistics
from ..data import ImageData, ImageSource, as_data
from ..graph.private_copy import private_use
from ..graph.wrappers import unwrap
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ..provenance import provenance
from ..sweep import fingerprint, worker_device
from ._grid import Grid, axis, evaluate_grid, mean_and_error
from .cells import CellEvaluator, Loss, Metric, check_statistics, how_measured, named_metrics
from .directions import Direction, cosine
from .record import Surface

Directions = Direction | Sequence[Direction]


@checked
def loss_surface(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    directions: Directions,
    x: Sequence[float] | np.ndarray | None = None,
    y: Sequence[float] | np.ndarray | None = None,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] = ("loss", "error"),
    batchnorm: NormStatistics = "frozen",
    recalibrate: ImageSource | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    fast: bool = True,
    journal: Path | str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    preview: Callable[[Surface], None] | None = None,
) -> Surface:
    """Metrics of a model at ``θ + x δ + y η``, over a line (one direction) or a plane (two).

    Li et al. (2018), section 4, with directions of :func:`random_direction`. Row r, column c of the result is at
    (x_c, y_r). Each cell's weights are computed from θ anew, in private copies: the model is only read, in eval mode
    whatever its train flags say. NaN and infinite cells stay what they are. What batch norm's statistics are away
    from θ is a choice with three different surfaces:

    - ``frozen``: the running statistics of the model, as they are. The function that the trained network computes,
      at other weights; what Li et al. plot. Their weights move, their statistics do not.
    - ``recalibrated``: measured anew at each cell over `recalibrate`, then used as constants: what the network would
      be after its statistics had settled there (of all images, in batches of about 128:
      :func:`~resnet_paths.recalibrate_batchnorm`).
    - ``batch``: those of the batch that each image happens to be in, as in training, in one random order of the images;
      depends on `batch_size`.

    Args:
        model: any model of images (compiled or data-parallel ones are taken out of their wrappers), or an unrolled
            network.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        directions: one or two; see :func:`random_direction`, :func:`direction_between`, :func:`direction_from`.
        x: increasing coordinates along the first direction; 25 from -1 to 1 by default.
        y: along the second; likewise. The two may differ in number and in range.
        loss: a function of logits and labels that gives one value an image; cross-entropy by default.
        metrics: names (``loss``, ``error``, ``top5_error``, ``disagreement`` with the model at the origin) or functions
            of logits, labels and logits at the origin, all from one pass.
        batchnorm: frozen, recalibrated or batch.
        recalibrate: images that statistics are measured on; the data by default.
        batch_size: images per batch; None: as many as suit the cache, 128 with ``batch``, where it decides the values.
        dtype: compute in this type; bfloat16 is quicker where the processor has it, and changes the numbers.
        fast: fold norms and store channels last (the same numbers within 1e-10 in float64, 1e-4 in float32).
        journal: a file that keeps finished cells: the same call goes on from them, and a finer grid reuses them.
        executor: any ``concurrent.futures.Executor``, such as :func:`resnet_paths.sweep.local_workers`.
        progress: show progress and the time left.
        preview: called with the surface so far whenever the grid has become twice as fine.

    Returns:
        The surface, with the standard error of each cell over images.

    Raises:
        ValueError: coordinates that do not increase, directions of another model, norms without statistics.
        RuntimeError: every cell failed (single failures are kept in the record, with a warning).

    Cost: one forward pass of all images a cell (two with ``recalibrated``).

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
    data = as_data(data)
    recalibrate = None if recalibrate is None else as_data(recalibrate, labelled=False)
    network = unwrap(model_of(model))
    chosen = [directions] if isinstance(directions, Direction) else list(directions)
    _check(network, chosen, y)
    check_statistics(network, batchnorm)
    if batchnorm == "batch" and batch_size is not None and batch_size < 2:
        raise ValueError(f"expected batches of at least 2 images with batchnorm='batch', got {batch_size}")
    grid = Grid(axis("x", x), axis("y", y) if len(chosen) == 2 else None)
    problem = _Problem(
        network, chosen, data, named_metrics(metrics, loss), batchnorm, recalibrate, batch_size, dtype, fast,
        executor is not None,
    )  # fmt: skip
    facts = _facts(network, chosen, data, problem)

    def record(cells: dict[str, Any]) -> Surface:
        return Surface(x=grid.x.values, y=None if grid.y is None else grid.y.values, **facts, **cells)

    return evaluate_grid(
        surface_cell, grid, problem, record, journal=journal, executor=executor, progress=progress, preview=preview
    )


def surface_cell(point: dict[str, float], problem: _Problem, seed: int) -> dict[str, float]:
    """One cell, for the sweep engine."""
    return mean_and_error(problem.evaluator([point[name] for name in ("x", "y") if name in point]))


@dataclass(eq=False)
class _Problem:
    """What all cells need; it travels once to each worker, where the private copies are made."""

    model: nn.Module
    directions: list[Direction]
    data: ImageData
    metrics: dict[str, Metric]
    batchnorm: NormStatistics
    recalibrate: ImageData | None
    batch_size: int | None
    dtype: torch.dtype | None
    fast: bool
    on_workers: bool

    def __post_init__(self) -> None:
        self._evaluator: CellEvaluator | None = None
        self._fingerprint: str | None = None

    @property
    def evaluator(self) -> CellEvaluator:
        """Made at the first cell."""
        if self._evaluator is None:
            on_gpu = next(self.model.parameters()).device.type != "cpu"
            self._evaluator = CellEvaluator(
                self.model,
                self.directions,
                self.data,
                self.metrics,
                batchnorm=self.batchnorm,
                recalibrate=self.recalibrate,
                batch_size=self.batch_size,
                dtype=self.dtype,
                fast=self.fast,
                device=worker_device() if on_gpu and self.on_workers else None,
            )
        return self._evaluator

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluator": None}

    def __sweep_fingerprint__(self) -> str:
        """What decides a cell; how many images go at a time does so for batch statistics alone."""
        if self._fingerprint is None:
            others = None if self.recalibrate is None else self.recalibrate.fingerprint
            together = self.batch_size if self.batchnorm == "batch" else None
            weights = [dict(direction.tensors) for direction in self.directions]
            with private_use(self.model) as own:
                self._fingerprint = fingerprint(
                    (own.eval(), weights, self.data.fingerprint, str(self.data.dtype), self.metrics,
                     how_measured(self.batchnorm), others, together, self.dtype, self.fast)
                )  # fmt: skip
        return self._fingerprint


def _check(model: nn.Module, directions: list[Direction], y: object) -> None:
    if len(directions) not in (1, 2):
        raise ValueError(f"expected one or two directions, got {len(directions)}")
    if len(directions) == 1 and y is not None:
        raise ValueError("expected two directions where y is given, got one; leave y out or add a direction")
    parameters = dict(model.named_parameters())
    for direction in directions:
        for name, tensor in direction.tensors.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise ValueError(
                    f"expected directions over the parameters of {type(model).__name__}, got {name!r} of shape "
                    f"{tuple(tensor.shape)}, which it does not have; use shared_direction(direction, model)"
                )


def _facts(model: nn.Module, directions: list[Direction], data: ImageData, problem: _Problem) -> dict[str, Any]:
    return {
        "x_name": _described(directions[0]),
        "y_name": _described(directions[1]) if len(directions) == 2 else None,
        "norms": tuple(direction.norm for direction in directions),
        "cosine": cosine(*directions) if len(directions) == 2 else None,
        "batchnorm": problem.batchnorm,
        "batch_size": problem.batch_size,
        "images": len(data),
        "source": provenance(model, data, problem.dtype),
    }


def _described(direction: Direction) -> str:
    return direction.kind if direction.seed is None else f"{direction.kind}, seed {direction.seed}"
