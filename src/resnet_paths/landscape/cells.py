"""One cell of a surface: metrics of a model at a point of parameter space, over all images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..choices import NormStatistics
from ..data import ImageData
from ..data.batches import even_slices
from ..graph.inputs import call_model
from ..graph.private_copy import private_copy, private_use
from ..lesion import metric_named
from ..lesion.metrics import cross_entropy
from ..surgery import recalibrate_batchnorm
from ..sweep import adaptive_batches, is_out_of_memory, on_each_core
from ._working import WorkingCopy, use_batch_statistics, without_statistics
from .directions import Direction

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Metric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits, labels and the logits at the origin to one value an image."""

STATISTICS_BATCH = 128
_CACHE_BYTES = 2 << 20
HELD_BYTES = 1 << 30
"""Images, or states, of at most this many bytes are kept ready."""


def named_metrics(metrics: Sequence[str | Metric], loss: Loss | None) -> dict[str, Metric]:
    """Functions by name; ``loss`` stands for the loss that the caller chose.

    Raises:
        ValueError: an unknown name, none at all, or one twice.
    """
    chosen = loss or cross_entropy
    found: dict[str, Metric] = {}
    for metric in metrics:
        name, function = metric_named(metric)
        if name in found:
            raise ValueError(f"expected each metric once, got {name!r} twice; give your functions names of their own")
        found[name] = _Loss(chosen) if metric == "loss" else function
    if not found:
        raise ValueError("expected at least one metric, such as 'loss', got none")
    return found


def one_an_image(name: str, values: torch.Tensor) -> np.ndarray:
    """(images,) float64: of several values an image their mean, so that errors are of means over images.

    Raises:
        ValueError: one number for all images.
    """
    if not values.ndim:
        raise ValueError(
            f"expected a value for each image of {name}, got one number for all; leave out the mean or sum over the "
            "images (reduction='none')"
        )
    wide = values.double()
    return (wide.flatten(1).mean(1) if wide.ndim > 1 else wide).numpy()


class _Loss:
    """A loss in the form of a metric."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return self._loss(logits, labels)


def needs_origin(metrics: Mapping[str, Metric]) -> bool:
    """Whether a metric may read the logits at the origin: all but those that are known not to."""
    return any(
        not isinstance(metric, _Loss) and name not in ("error", "top5_error") for name, metric in metrics.items()
    )


def micro_batch(model: nn.Module, example: torch.Tensor) -> int:
    """The batch size at which the largest intermediate value fits the cache; 1024 on a GPU.

    Args:
        model: it runs once, as a private copy.
        example: one image.
    """
    if example.device.type != "cpu":
        return 1024
    return int(min(512, max(16, _CACHE_BYTES // _largest_output(model, example))))


class Images:
    """Images as a model reads them: kept ready where they fit, normalised again at each reading where not."""

    def __init__(self, data: ImageData, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        self._data = data.to(dtype=dtype)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        size = data.images[:1].numel() * len(data) * dtype.itemsize
        self._held = self._ready(slice(None)) if size <= HELD_BYTES else None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, chosen: slice) -> torch.Tensor:
        return self._ready(chosen) if self._held is None else self._held[chosen]

    def _ready(self, chosen: slice) -> torch.Tensor:
        images = self._data.normalised(self._data.images[chosen])
        return images.to(self._device).contiguous(memory_format=self._format)

    def batches(self, slices: Sequence[slice]) -> Iterator[torch.Tensor]:
        """One batch after the other."""
        return (self[chosen] for chosen in slices)


def in_order(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Rows of images that were read in another order, in the images' own.

    Example:
        >>> in_order(torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([2, 0, 1])).flatten().tolist()
        [0.0, 1.0, 2.0]
    """
    return rows if order is None else rows[order.argsort()]


class CellEvaluator:
    """Metrics of a model at points ``θ + Σ c_k δ_k`` over all images, one value an image.

    Everything that changes is a private copy: the model is only read. See :func:`loss_surface` for the arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: Sequence[Direction],
        data: ImageData,
        metrics: Mapping[str, Metric],
        *,
        batchnorm: NormStatistics = "frozen",
        recalibrate: ImageData | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        fast: bool = True,
        device: torch.device | None = None,
    ) -> None:
        parameter = next(model.parameters())
        place = device or parameter.device
        model = model if place == parameter.device else private_copy(model).to(place)
        wanted = dtype or parameter.dtype
        check_statistics(model, batchnorm)
        self.metrics = dict(metrics)
        self.batchnorm = batchnorm
        # Files come sorted by class, and a batch of one class has that class's statistics: hence a random order.
        self._order = data.random_order().cpu() if batchnorm == "batch" else None
        self._images = Images(data if self._order is None else data.subset(self._order), place, wanted, fast)
        self._labels = data.labels.cpu()
        example = self._images[slice(0, 2)].to(parameter.dtype)
        fold = fast and batchnorm != "batch"
        self._copy = WorkingCopy(model, directions, example, fold=fold, channels_last=fast, dtype=dtype)
        self._statistics: WorkingCopy | None = None
        if batchnorm == "batch":
            use_batch_statistics(self._copy.model)
        elif batchnorm == "recalibrated":
            self._statistics = WorkingCopy(model, directions, example, fold=False, channels_last=fast)
            self._calibration = Images((recalibrate or data).shuffled(), place, parameter.dtype, fast)
        default = STATISTICS_BATCH if batchnorm == "batch" else micro_batch(self._copy.model, self._images[slice(0, 1)])
        self.batch_size = batch_size or default
        self._origin: torch.Tensor | None = None
        self._count = len(directions)

    def __call__(self, coefficients: Sequence[float]) -> dict[str, np.ndarray]:
        """For each metric (images,), float64."""
        whole = self._origin_logits()
        logits = self.logits(coefficients)
        return {
            name: one_an_image(name, metric(logits, self._labels, logits if whole is None else whole))
            for name, metric in self.metrics.items()
        }

    def logits(self, coefficients: Sequence[float]) -> torch.Tensor:
        """(images, classes) at a point, on the CPU."""
        statistics = None if self._statistics is None else self._recalibrated(self._statistics, coefficients)
        self._copy.move(coefficients, statistics)
        with torch.inference_mode():
            if self.batchnorm == "batch":  # what fits together decides the values: no smaller batches when memory ends
                slices = even_slices(len(self._images), self.batch_size)
                parts = [self._run(chosen) for chosen in slices]
            else:
                parts = self._parts()
        logits = in_order(torch.cat(parts).cpu(), self._order)  # one wait for a GPU, not one for each batch
        return logits if logits.dtype == torch.float64 else logits.float()

    def _parts(self) -> list[torch.Tensor]:
        """The logits of all images in order: whole batches on several cores, or smaller ones where memory ends."""
        cores = torch.get_num_threads()
        count = math.ceil(len(self._images) / self.batch_size)
        if count >= cores > 1 and self._copy.divides:
            size = math.ceil(len(self._images) / (math.ceil(count / cores) * cores))  # as many batches on each core
            try:
                return on_each_core(self._run, even_slices(len(self._images), size))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
        return list(adaptive_batches(self._run, len(self._images), self.batch_size))

    def _run(self, chosen: slice) -> torch.Tensor:
        return self._copy(self._images[chosen])

    def _recalibrated(self, working: WorkingCopy, coefficients: Sequence[float]) -> nn.Module:
        """The model at a point, its running statistics those of the images there."""
        working.move(coefficients)
        slices = even_slices(len(self._calibration), STATISTICS_BATCH)
        recalibrate_batchnorm(working.model, self._calibration.batches(slices))
        return working.model

    def _origin_logits(self) -> torch.Tensor | None:
        """The logits at the origin, which metrics of your own and ``disagreement`` may read; computed once."""
        if not needs_origin(self.metrics):
            return None
        if self._origin is None:
            self._origin = self.logits([0.0] * self._count)
        return self._origin


def how_measured(batchnorm: NormStatistics) -> str:
    """A choice of statistics as fingerprints know it: another way to take them makes other cells."""
    return batchnorm if batchnorm == "frozen" else f"{batchnorm}, in a random order, every image once"


def check_statistics(model: nn.Module, batchnorm: str) -> None:
    """Raises ValueError for an unknown choice, or one that the model's batch norms cannot follow."""
    if batchnorm not in ("frozen", "recalibrated", "batch"):
        raise ValueError(f"expected batchnorm 'frozen', 'recalibrated' or 'batch', got {batchnorm!r}")
    missing = without_statistics(model)
    if batchnorm != "batch" and missing:
        raise ValueError(
            f"expected running statistics in every batch norm for batchnorm={batchnorm!r}, got none in {missing[0]}; "
            "use batchnorm='batch'"
        )


def _largest_output(model: nn.Module, example: torch.Tensor) -> int:
    """Bytes of the largest value that a module returns for one image."""
    largest = [example.nbytes]

    def note(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            largest[0] = max(largest[0], output.nbytes)

    with private_use(model) as own:
        handles = [module.register_forward_hook(note) for module in own.modules() if not list(module.children())]
        try:
            with torch.inference_mode():
                call_model(own, example)
        finally:
            for handle in handles:
                handle.remove()
    return largest[0]
