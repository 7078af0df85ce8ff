"""One cell of a surface: metrics of a network at a point, over all examples.

A point is a set of weights (`loss_surface`) or of gates (`gate_surface`). Everything else is the same for both and is
defined here once: which statistics the batch norms use, the order and the batches of the examples, how many threads
compute, what a metric receives, and which of these determine a value, so that a journal may return it. The two ways to
move a network to a point are a `Space` each: `WeightSpace` and `GateSpace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import NormStatistics
from ..data import ExampleMetric, ImageData, ImageSource, InMemory, as_examples
from ..data.batches import even_slices
from ..data.metric import wide
from ..data.metrics import Metric, values_of
from ..graph.inputs import main_output, placed
from ..graph.preserve import preserved
from ..network.fitting import output_on
from ..network.norms import batch_norms
from ..provenance import provenance
from ..surgery import recalibrate_batchnorm
from ..sweep import adaptive_batches, fingerprint, is_out_of_memory, on_each_core, worker_device
from ..sweep.fingerprints import deciding
from ._grid import CellGrid, SurfaceOptions, evaluate_grid, mean_and_error
from .cell_inputs import HELD_BYTES, CellInputs, micro_batch
from .cell_metrics import Loss, cell_parts, loss_name, named_metrics, needs_origin
from .surface_record import Surface

STATISTICS_BATCH = 128
"""Examples per batch where a batch determines its norms' statistics: the batch size with which CIFAR ResNets are
trained.
"""


@checked
@dataclass(frozen=True, eq=False)
class CellSettings:
    """How each cell of a surface is computed.

    Attributes:
        batchnorm: statistics of batch norms at a cell: frozen, recalibrated or batch; see :func:`loss_surface`.
        recalibrate: examples that statistics are measured on; the surface's own by default.
        batch_size: examples per batch; None: as many as suit the cache; 128 with ``batch``, where it affects values.
        dtype: compute in this type; bfloat16 changes the numbers, and is faster only where the processor computes in it
            (otherwise ten times slower).
        fast: fold norms and store channels last (the same numbers within 1e-10 in float64, 1e-4 in float32).

    Example:
        >>> CellSettings(batchnorm="batch", batch_size=1)
        Traceback (most recent call last):
        ValueError: expected batches of at least 2 examples with batchnorm='batch', got 1
    """

    batchnorm: NormStatistics = "frozen"
    recalibrate: ImageSource | None = None
    batch_size: int | None = None
    dtype: torch.dtype | None = None
    fast: bool = True

    def __post_init__(self) -> None:
        """Refuse batches that have no statistics."""
        if self.batchnorm == "batch" and self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"expected batches of at least 2 examples with batchnorm='batch', got {self.batch_size}")

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        """The batch size only determines a value with batch statistics."""
        others = None if self.recalibrate is None else _facts_of(as_examples(self.recalibrate, labelled=False))
        return deciding(self, aside=() if self.batchnorm == "batch" else {"batch_size"}, recalibrate=others)


class CellOptions(SurfaceOptions, total=False):
    """Keywords that every surface of a loss takes beside its axes and metrics.

    Attributes:
        loss: a metric by name, or a function of outputs and targets that returns one value per example; by default that
            which fits the targets: cross-entropy of classes, of pixels or of the next tokens, or the squared error.
        settings: statistics of batch norms, batches and types; see :class:`CellSettings`.
    """

    loss: Loss | None
    settings: CellSettings


class Movable(Protocol):
    """A private copy of a network that is moved from point to point.

    Attributes:
        model: what runs, to see how large its values are.
    """

    model: nn.Module

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once."""

    def move(self, point: Sequence[float], recalibrate: Callable[[nn.Module], object] | None) -> None:
        """Move to a point; `recalibrate` measures the statistics of a model's norms there."""

    def run(self, inputs: CellInputs, chosen: slice) -> torch.Tensor:
        """The main output for some of the examples at the point."""


class Space(Protocol):
    """The points of a surface, and what they mean for a network. It is sent to each worker."""

    @property
    def model(self) -> nn.Module:
        """The user's own model, which is only read."""

    @property
    def origin(self) -> list[float]:
        """The point of the model itself, with which metrics may compare."""

    def at(self, cell: Mapping[str, float]) -> list[float]:
        """The point of a cell at x, or x and y."""

    def movable(self, settings: CellSettings, device: torch.device, example: Any) -> Movable:
        """A copy to move."""


class CellEvaluator:
    """Metrics of a network at points of a space over all examples, one value per example.

    Only a private copy changes; the model is only read. Outputs are held for as many examples at a time as fit: all, if
    there are few classes; only a few for a language model, whose output is a score for each token of the vocabulary at
    each position.

    Attributes:
        network: the copy that moves.
        batch_size: examples per batch, unless several threads share them.
    """

    def __init__(
        self,
        space: Space,
        data: InMemory,
        metrics: Mapping[str, Metric],
        settings: CellSettings | None = None,
        device: torch.device | None = None,
    ) -> None:
        settings = settings or CellSettings()
        check_statistics(space.model, settings.batchnorm)
        parameter = next(space.model.parameters())
        on = device or parameter.device
        self._space, self._metrics, self._settings = space, dict(metrics), settings
        # Files are often sorted by class, and a batch of one class has that class's statistics: hence a random order.
        order = data.random_order().cpu() if settings.batchnorm == "batch" else None
        self._back = None if order is None else order.argsort().numpy()
        data = data if order is None else data.subset(order)
        self._few_scores = isinstance(data, ImageData)  # one per class
        self._targets, self._mask = (None if one is None else one.cpu() for one in (data.targets, data.mask))
        self._inputs = CellInputs(data, on, settings.dtype or parameter.dtype, settings.fast)
        if settings.batchnorm == "recalibrated":
            source = data if settings.recalibrate is None else settings.recalibrate
            others = as_examples(source, space.model, labelled=False)
            self._calibration = CellInputs(others.shuffled(), on, parameter.dtype, settings.fast)
        self.network = space.movable(settings, on, self._inputs[slice(0, 2)])
        self.batch_size = settings.batch_size or (
            STATISTICS_BATCH
            if settings.batchnorm == "batch"
            else micro_batch(self.network.model, self._inputs[slice(0, 1)])
        )

    def __call__(self, point: Sequence[float]) -> dict[str, np.ndarray]:
        """For each metric (examples,), float64."""
        origin = self._origin if needs_origin(self._metrics) else None
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._metrics}
        for number, (rows, outputs) in enumerate(self.outputs(point)):
            targets, mask = (None if one is None else one[rows] for one in (self._targets, self._mask))
            full = outputs if origin is None else origin[number]
            for name, metric in self._metrics.items():
                parts[name].append(cell_parts(name, metric, outputs, targets, full, mask))
        values = {name: values_of(self._metrics[name], np.concatenate(part)) for name, part in parts.items()}
        return values if self._back is None else {name: array[self._back] for name, array in values.items()}

    @cached_property
    def _origin(self) -> list[torch.Tensor]:
        return [outputs for _, outputs in self.outputs(self._space.origin)]

    def outputs(self, point: Sequence[float]) -> Iterator[tuple[slice, torch.Tensor]]:
        """The outputs at a point, on the CPU, of consecutive examples; with batch statistics in their random order."""
        self.network.move(point, self._measure if self._settings.batchnorm == "recalibrated" else None)
        for batches in self._held_together:
            rows = slice(batches[0].start, batches[-1].stop)
            with torch.inference_mode():
                parts = self._parts(rows, batches)
            outputs = torch.cat(parts).cpu()  # a single synchronisation with a GPU, not one per batch
            yield rows, wide(outputs)

    @cached_property
    def _held_together(self) -> list[list[slice]]:
        """The batches, in groups whose outputs are held together; the first output shows how many fit."""
        batches = even_slices(len(self._inputs), self.batch_size)
        if self._few_scores or len(batches) == 1:
            return [batches]
        with torch.inference_mode():
            size = self._run(batches[0]).nbytes
        count = max(1, HELD_BYTES // size)
        return [batches[first : first + count] for first in range(0, len(batches), count)]

    def _parts(self, chosen: slice, batches: list[slice]) -> list[torch.Tensor]:
        """The outputs for some examples in order: whole batches on several cores, smaller ones if memory runs out."""
        cores, examples = torch.get_num_threads(), chosen.stop - chosen.start
        divides = len(batches) >= cores > 1 and self.network.divides
        # Here the batches determine the values, so memory or the number of cores must not divide them otherwise.
        if self._settings.batchnorm == "batch":
            return on_each_core(self._run, batches) if divides else list(map(self._run, batches))

        def run(part: slice) -> torch.Tensor:
            return self._run(slice(chosen.start + part.start, chosen.start + part.stop))

        if divides:
            size = math.ceil(examples / (math.ceil(len(batches) / cores) * cores))  # as many batches on each core
            try:
                return on_each_core(run, even_slices(examples, size))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
        return list(adaptive_batches(run, examples, self.batch_size))

    def _run(self, chosen: slice) -> torch.Tensor:
        return self.network.run(self._inputs, chosen)

    def _measure(self, model: nn.Module) -> None:
        """Set a model's batch norms to the statistics of the examples chosen for that."""
        slices = even_slices(len(self._calibration), STATISTICS_BATCH)
        recalibrate_batchnorm(model, ((self._calibration[chosen], None) for chosen in slices))


@dataclass(frozen=True, eq=False)
class Cells:
    """What all cells of a surface need; it is sent once to each worker, where the private copies are made.

    Attributes:
        space: where the cells are.
        data: examples, with targets if the metrics need them.
        metrics: functions by name.
        settings: how each cell is computed.
        on_workers: whether an executor runs them, whose workers have their own devices.
    """

    space: Space
    data: InMemory
    metrics: Mapping[str, Metric]
    settings: CellSettings
    on_workers: bool = False

    @cached_property
    def evaluator(self) -> CellEvaluator:
        """Created at the first cell."""
        on_gpu = next(self.space.model.parameters()).device.type != "cpu"
        device = worker_device() if on_gpu and self.on_workers else None
        return CellEvaluator(self.space, self.data, self.metrics, self.settings, device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "evaluator"}

    def __sweep_fingerprint__(self) -> str:
        """What determines a cell, computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(deciding(self, aside={"on_workers"}, data=_facts_of(self.data)))


def _facts_of(data: InMemory) -> tuple[str, ...]:
    """What determines a value; images are normalised in their own dtype."""
    return (data.fingerprint, str(data.dtype)) if isinstance(data, ImageData) else (data.fingerprint,)


def evaluate_cells(
    space: Space,
    data: InMemory,
    grid: CellGrid,
    metrics: Sequence[str | Metric] | None,
    axes: Mapping[str, Any],
    options: CellOptions,
) -> Surface:
    """The surface of a space over a grid; `axes` says what the surface records about them.

    Raises:
        ValueError: metrics that are none, batch norms that cannot follow the settings, or examples that the model does
            not accept.
    """
    settings = options.get("settings", CellSettings())
    check_statistics(space.model, settings.batchnorm)
    if settings.recalibrate is not None:  # read once
        settings = replace(settings, recalibrate=as_examples(settings.recalibrate, space.model, labelled=False))
    functions = named_metrics(metrics, data, options.get("loss"))
    _check_few(space.model, data, functions)
    cells = Cells(space, data, functions, settings, on_workers=options.get("executor") is not None)
    facts = {
        **axes,
        "batchnorm": settings.batchnorm,
        "batch_size": settings.batch_size,
        "images": len(data),
        "source": provenance(space.model, data, settings.dtype),
        "loss": loss_name(functions),
    }
    return evaluate_grid(_cell, grid, cells, facts, options)


def _cell(point: dict[str, float], cells: Cells, seed: int) -> dict[str, float]:
    return mean_and_error(cells.evaluator(cells.space.at(point)))


def _telling(data: InMemory) -> slice | list[int]:
    """Two examples: those of the smallest and the largest label, where labels may be more than a model has."""
    targets = data.targets
    if targets is None or targets.is_floating_point() or len(targets) < 2:
        return slice(0, 2)
    rows = targets.reshape(len(targets), -1).long()  # flags too, of which torch finds no smallest
    return [int(rows.amin(1).argmin()), int(rows.amax(1).argmax())] if rows.shape[1] else slice(0, 2)


def _check_few(model: nn.Module, data: InMemory, metrics: Mapping[str, Metric]) -> None:
    """Check that a model accepts the examples, and metrics by name its outputs, before a worker fails at every cell.

    Raises:
        ValueError: they do not.
    """
    few = data.subset(_telling(data))
    with preserved(model):
        output = output_on(
            model, placed(few.x, model), data.name, f"pass {data.nouns} that fit it", data.nouns,
            taker=type(model).__name__,
        )  # fmt: skip
    outputs = wide(main_output(output).cpu())
    targets, mask = (None if one is None else one.cpu() for one in (few.targets, few.mask))
    for name, metric in metrics.items():
        if isinstance(metric, ExampleMetric):  # a user's function is called only for cells
            cell_parts(name, metric, outputs, targets, outputs, mask)


def check_statistics(model: nn.Module, batchnorm: NormStatistics) -> None:
    """Raises ValueError for a choice of statistics that the model's batch norms do not support."""
    missing = [name for name, norm in batch_norms(model).items() if norm.running_mean is None]
    if batchnorm != "batch" and missing:
        raise ValueError(
            f"expected running statistics in every batch norm for batchnorm={batchnorm!r}, got none in {missing[0]}; "
            "use batchnorm='batch'"
        )
