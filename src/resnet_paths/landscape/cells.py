"""One cell of a surface: metrics of a network at a point, over all images.

A point is a set of weights (`loss_surface`) or of gates (`gate_surface`). All else is the same for both and stands here
once: which statistics the batch norms use, in what order and in which batches images go, how many threads compute,
what a metric is given, and what of all this decides a value, so that a journal may give it back. The two ways to bring
a network to a point are a `Space` each: `WeightSpace` and `GateSpace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import NormStatistics
from ..data import ImageData, ImageSource, as_data
from ..data.batches import even_slices
from ..data.metrics import Metric
from ..graph.inputs import placed
from ..graph.preserve import preserved
from ..network.fitting import output_on
from ..network.norms import batch_norms
from ..provenance import provenance
from ..surgery import recalibrate_batchnorm
from ..sweep import adaptive_batches, fingerprint, is_out_of_memory, on_each_core, worker_device
from ..sweep.fingerprints import deciding
from ._grid import CellGrid, SurfaceOptions, evaluate_grid, mean_and_error
from .cell_images import Images, micro_batch
from .cell_metrics import Loss, named_metrics, needs_origin, one_an_image
from .surface_record import Surface

STATISTICS_BATCH = 128
"""Images a batch where a batch decides its norms' statistics: what CIFAR's residual networks are trained with."""


@checked
@dataclass(frozen=True, eq=False)
class CellSettings:
    """How each cell of a surface is computed.

    Attributes:
        batchnorm: statistics of batch norms at a cell: frozen, recalibrated or batch; see :func:`loss_surface`.
        recalibrate: images that statistics are measured on; the surface's own by default.
        batch_size: images per batch; None: as many as suit the cache, 128 with ``batch``, where it decides the values.
        dtype: compute in this type; bfloat16 changes the numbers, and is faster only where the processor computes in it
            (otherwise ten times slower).
        fast: fold norms and store channels last (the same numbers within 1e-10 in float64, 1e-4 in float32).

    Example:
        >>> CellSettings(batchnorm="batch", batch_size=1)
        Traceback (most recent call last):
        ValueError: expected batches of at least 2 images with batchnorm='batch', got 1
    """

    batchnorm: NormStatistics = "frozen"
    recalibrate: ImageSource | None = None
    batch_size: int | None = None
    dtype: torch.dtype | None = None
    fast: bool = True

    def __post_init__(self) -> None:
        """Refuse batches that have no statistics."""
        if self.batchnorm == "batch" and self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"expected batches of at least 2 images with batchnorm='batch', got {self.batch_size}")

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        """The batch size only determines a value with batch statistics."""
        images = None if self.recalibrate is None else as_data(self.recalibrate, labelled=False)
        others = {"recalibrate": None if images is None else (images.fingerprint, str(images.dtype))}
        return deciding(self, aside=() if self.batchnorm == "batch" else {"batch_size"}, **others)


class CellOptions(SurfaceOptions, total=False):
    """Keywords that every surface of a loss takes beside its axes and metrics.

    Attributes:
        loss: a function of logits and labels that returns one value per image; cross-entropy by default.
        settings: statistics of batch norms, batches and types; see :class:`CellSettings`.
    """

    loss: Loss | None
    settings: CellSettings


class Movable(Protocol):
    """A private copy of a network that goes from point to point.

    Attributes:
        model: what runs, to see how large its values are.
    """

    model: nn.Module

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once."""

    def move(self, point: Sequence[float], recalibrate: Callable[[nn.Module], object] | None) -> None:
        """Go to a point; `recalibrate` measures the statistics that a model's norms have there."""

    def run(self, images: Images, chosen: slice) -> torch.Tensor:
        """The logits of some of the images at the point."""


class Space(Protocol):
    """The points of a surface: what they mean for a network. It travels to each worker."""

    @property
    def model(self) -> nn.Module:
        """The user's own, which is only read."""

    @property
    def origin(self) -> list[float]:
        """The point of the model itself, which metrics may compare with."""

    def at(self, cell: Mapping[str, float]) -> list[float]:
        """The point of a cell at x, or x and y."""

    def movable(self, settings: CellSettings, device: torch.device, example: torch.Tensor) -> Movable:
        """A copy to move."""


class CellEvaluator:
    """Metrics of a network at points of a space over all images, one value per image.

    Only a private copy changes; the model is only read.

    Attributes:
        network: the copy that moves.
        batch_size: images per batch, unless several threads share them.
    """

    def __init__(
        self,
        space: Space,
        data: ImageData,
        metrics: Mapping[str, Metric],
        settings: CellSettings | None = None,
        device: torch.device | None = None,
    ) -> None:
        settings = settings or CellSettings()
        check_statistics(space.model, settings.batchnorm)
        parameter = next(space.model.parameters())
        place = device or parameter.device
        self._space, self._metrics, self._settings = space, dict(metrics), settings
        self._labels = data.labels.cpu()
        # Files come sorted by class, and a batch of one class has that class's statistics: hence a random order.
        order = data.random_order().cpu() if settings.batchnorm == "batch" else None
        self._back = None if order is None else order.argsort()
        self._images = Images(
            data if order is None else data.subset(order), place, settings.dtype or parameter.dtype, settings.fast
        )
        if settings.batchnorm == "recalibrated":
            others = data if settings.recalibrate is None else as_data(settings.recalibrate, labelled=False)
            self._calibration = Images(others.shuffled(), place, parameter.dtype, settings.fast)
        self.network = space.movable(settings, place, self._images[slice(0, 2)].to(parameter.dtype))
        self.batch_size = settings.batch_size or (
            STATISTICS_BATCH
            if settings.batchnorm == "batch"
            else micro_batch(self.network.model, self._images[slice(0, 1)])
        )

    def __call__(self, point: Sequence[float]) -> dict[str, np.ndarray]:
        """For each metric (images,), float64."""
        full = self._origin_logits if needs_origin(self._metrics) else None
        logits = self.logits(point)
        return {
            name: one_an_image(name, metric(logits, self._labels, logits if full is None else full))
            for name, metric in self._metrics.items()
        }

    @cached_property
    def _origin_logits(self) -> torch.Tensor:
        return self.logits(self._space.origin)

    def logits(self, point: Sequence[float]) -> torch.Tensor:
        """(images, classes) at a point, on the CPU."""
        self.network.move(point, self._measure if self._settings.batchnorm == "recalibrated" else None)
        with torch.inference_mode():
            parts = self._parts()
        logits = torch.cat(parts).cpu()  # one wait for a GPU, not one for each batch
        logits = logits if self._back is None else logits[self._back]
        return logits if logits.dtype == torch.float64 else logits.float()

    def _parts(self) -> list[torch.Tensor]:
        """The logits of all images in order: whole batches on several cores, or smaller ones where memory ends."""
        cores, images = torch.get_num_threads(), len(self._images)
        count = math.ceil(images / self.batch_size)
        divides = count >= cores > 1 and self.network.divides
        if self._settings.batchnorm == "batch":  # what fits together decides the values: no other batches
            slices = even_slices(images, self.batch_size)
            return on_each_core(self._run, slices) if divides else list(map(self._run, slices))
        if divides:
            size = math.ceil(images / (math.ceil(count / cores) * cores))  # as many batches on each core
            try:
                return on_each_core(self._run, even_slices(images, size))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
        return list(adaptive_batches(self._run, images, self.batch_size))

    def _run(self, chosen: slice) -> torch.Tensor:
        return self.network.run(self._images, chosen)

    def _measure(self, model: nn.Module) -> None:
        """Give a model's batch norms the statistics of the images that they are to be measured on."""
        slices = even_slices(len(self._calibration), STATISTICS_BATCH)
        recalibrate_batchnorm(model, (self._calibration[chosen] for chosen in slices))


@dataclass(frozen=True, eq=False)
class Cells:
    """What all cells of a surface need; it travels once to each worker, where the private copies are made.

    Attributes:
        space: where the cells are.
        data: labelled images.
        metrics: functions by name.
        settings: how each cell is computed.
        on_workers: whether an executor runs them, whose workers have devices of their own.
    """

    space: Space
    data: ImageData
    metrics: Mapping[str, Metric]
    settings: CellSettings
    on_workers: bool = False

    @cached_property
    def evaluator(self) -> CellEvaluator:
        """Made at the first cell."""
        on_gpu = next(self.space.model.parameters()).device.type != "cpu"
        device = worker_device() if on_gpu and self.on_workers else None
        return CellEvaluator(self.space, self.data, self.metrics, self.settings, device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "evaluator"}

    def __sweep_fingerprint__(self) -> str:
        """What decides a cell, computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        data = self.data.fingerprint, str(self.data.dtype)
        return fingerprint(deciding(self, aside={"on_workers"}, data=data))


def evaluate_cells(
    space: Space,
    data: ImageData,
    grid: CellGrid,
    metrics: Sequence[str | Metric],
    axes: Mapping[str, Any],
    options: CellOptions,
) -> Surface:
    """The surface of a space over a grid; `axes` says what it notes of them.

    Raises:
        ValueError: metrics that are none, batch norms that cannot follow the settings, or images that the model does
            not accept.
    """
    settings = options.get("settings", CellSettings())
    check_statistics(space.model, settings.batchnorm)
    if settings.recalibrate is not None:  # read once
        settings = replace(settings, recalibrate=as_data(settings.recalibrate, labelled=False))
    functions = named_metrics(metrics, options.get("loss"))
    _check_images(space.model, data)
    cells = Cells(space, data, functions, settings, on_workers=options.get("executor") is not None)
    facts = {
        **axes,
        "batchnorm": settings.batchnorm,
        "batch_size": settings.batch_size,
        "images": len(data),
        "source": provenance(space.model, data, settings.dtype),
    }
    return evaluate_grid(_cell, grid, cells, facts, options)


def _cell(point: dict[str, float], cells: Cells, seed: int) -> dict[str, float]:
    return mean_and_error(cells.evaluator(cells.space.at(point)))


def _check_images(model: nn.Module, data: ImageData) -> None:
    """Check that a model accepts the images, before a worker fails on them at every cell.

    Raises:
        ValueError: it does not.
    """
    few = placed(data.subset(slice(0, 2)).x, model)
    with preserved(model):
        output_on(
            model, few, data.name, "pass images that fit it; landscapes take only images", taker=type(model).__name__
        )


def check_statistics(model: nn.Module, batchnorm: NormStatistics) -> None:
    """Raises ValueError for a choice of statistics that the model's batch norms cannot follow."""
    missing = [name for name, norm in batch_norms(model).items() if norm.running_mean is None]
    if batchnorm != "batch" and missing:
        raise ValueError(
            f"expected running statistics in every batch norm for batchnorm={batchnorm!r}, got none in {missing[0]}; "
            "use batchnorm='batch'"
        )
