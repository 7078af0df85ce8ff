"""Run a damaged network over a data set: one value per kind of damage and example.

All lesion studies are a `Study` here: a list of ways to damage a network. Values are kept per example, since every
interval and every comparison of two lesions needs them. A batch of examples is the unit of work, not a lesion, because
lesions share prefixes within a batch. What records call images may be examples of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Protocol, TypeVar, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..data import ImageSource, InMemory
from ..data.batches import even_slices
from ..data.fitting import data_for
from ..data.metric import ExampleMetric
from ..data.metrics import Metric, example_parts
from ..graph.eval_mode import check_eval
from ..graph.inputs import placed
from ..network import Evaluations, PlainNetwork, UnrolledNetwork, for_inference
from ..sweep import SweepError, sweep
from ..sweep.progress import reporter, tracked
from .options import Running, StudyOptions

Network = UnrolledNetwork | PlainNetwork
"""A network that can be damaged, in its residual blocks or in the layers of a plain network."""
N = TypeVar("N", bound=UnrolledNetwork | PlainNetwork)


class Study(Protocol):
    """Several ways to damage a network."""

    @property
    def model(self) -> nn.Module:
        """The model that runs."""

    def __len__(self) -> int:
        """The number of ways to damage it."""

    def full(self, x: Any) -> torch.Tensor:
        """The undamaged network's outputs."""

    def outputs(self, x: Any, count: Evaluations) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (way, outputs) for each way, in any order."""


@dataclass(frozen=True, eq=False)
class GateRows:
    """A network at gate vectors (m, n)."""

    runner: Network
    gates: torch.Tensor

    @property
    def model(self) -> nn.Module:
        """The model that runs."""
        return self.runner.model

    def __len__(self) -> int:
        return len(self.gates)

    def full(self, x: Any) -> torch.Tensor:
        """The undamaged network's outputs."""
        return self.runner(x)

    def outputs(self, x: Any, count: Evaluations) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (row, outputs) for each gate vector."""
        return self.runner.iterate(x, self.gates, count=count)


def deletion_gates(deleted: Sequence[Iterable[int]], blocks: int) -> torch.Tensor:
    """Gates (sets, blocks): 0 for the deleted blocks of each set, 1 for the others.

    Example:
        >>> deletion_gates([[], [0, 2]], 3).tolist()
        [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    """
    gates = torch.ones(len(deleted), blocks, device="cpu")
    for row, indices in enumerate(deleted):
        gates[row, [int(index) for index in indices]] = 0
    return gates


def quick(net: N, fast: bool = True) -> N:
    """The network with norms folded and weights stored channels last, if requested and possible."""
    check_eval(net.model)
    return for_inference(net) if fast and isinstance(net, UnrolledNetwork) else net  # type: ignore[return-value]


@checked
def evaluate_gates(
    net: Network,
    data: ImageSource,
    gates: torch.Tensor,
    metric: Metric,
    *,
    count: Evaluations | None = None,
    **options: Unpack[StudyOptions],
) -> np.ndarray:
    """Evaluate a metric for each gate vector and example.

    Args:
        net: the network, in eval mode.
        data: examples, with targets if the metric needs them; anything that :func:`~resnet_paths.data.as_examples`
            reads.
        gates: (m, n).
        metric: see :mod:`resnet_paths.data.metrics`; its third argument is the network at gates of one.
        count: accumulator; the numbers of evaluated pieces are added (the full network separately, once per batch).
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        The values in float64, (m, examples); their mean over examples is the metric (see
        :mod:`resnet_paths.data.metric` for perplexity and other metrics that are not means).

    Raises:
        UnrollError: the model is in training mode, where its output depends on the batch.
        SweepError: a batch failed on the executor.

    Cost: rows share common prefixes; the single deletions of n blocks cost about n/2 forward passes.
    """
    data = data_for(metric, data, net.model)
    run = Running(**options)
    return per_image(GateRows(quick(net, run.fast), gates), data, metric, run, count)


def per_image(
    study: Study, data: InMemory, metric: Metric, run: Running, count: Evaluations | None = None
) -> np.ndarray:
    """The metric for each way of damage and example, (ways, examples); batches are the points of a sweep."""
    check_eval(study.model)
    total, parts = Evaluations() if count is None else count, []
    for arrays in over_batches(_batch, (study, data, metric), len(data), run):
        parts.append(arrays["values"])
        add_pieces(total, arrays["pieces"])
    values = np.concatenate(parts, 1)
    return metric.values(values) if isinstance(metric, ExampleMetric) and values.ndim == 3 else values


def add_pieces(total: Evaluations, pieces: np.ndarray) -> None:
    """Add the numbers of pieces that a batch ran, in the order of the fields of `Evaluations`."""
    for field, number in zip(fields(total), pieces, strict=True):
        setattr(total, field.name, getattr(total, field.name) + int(number))


def over_batches(
    function: Callable[..., dict[str, np.ndarray]], context: Any, images: int, run: Running
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays that the function returned, batch by batch; see `sweep` for the rest.

    Args:
        function: of a point with the batch's `start` and `stop`, the context and a seed; at the top of its module.
        context: what all batches share.
        images: their number.
        run: batch size, executor, journal, progress.
    """
    # even sizes: a few images left over would make an inefficient batch
    points = [{"start": part.start, "stop": part.stop} for part in even_slices(images, run.batch_size)]
    swept = run.journal is not None or run.executor is not None
    work = _swept if swept else _here
    return work(function, points, context, run)


def _here(
    function: Callable[..., dict[str, np.ndarray]], points: list[dict[str, int]], context: Any, run: Running
) -> Iterator[dict[str, np.ndarray]]:
    with reporter(run.progress) as report:
        for point in tracked(points, len(points), "evaluating", report):
            yield function(point, context, 0)


def _swept(
    function: Callable[..., dict[str, np.ndarray]], points: list[dict[str, int]], context: Any, run: Running
) -> Iterator[dict[str, np.ndarray]]:
    result = sweep(
        function,
        points,
        context=context,
        journal=run.journal,
        executor=run.executor,
        progress=run.progress,
        retry_failed=True,
        chunk=1,
    )
    if result.errors:
        failed, error = next(iter(result.errors.items()))
        raise SweepError(
            f"expected values for all batches, but {len(result.errors)} of {len(points)} failed; examples "
            f"{points[failed]['start']} to {points[failed]['stop'] - 1}:\n{error}"
        )
    for parts in zip(*result.values.values(), strict=True):
        yield dict(zip(result.values, parts, strict=True))


def _batch(point: dict[str, int], context: tuple[Study, InMemory, Metric], seed: int) -> dict[str, np.ndarray]:
    """The metric's parts for all ways of damage on one batch of examples."""
    study, data, metric = context
    part = data.subset(slice(point["start"], point["stop"]))
    x, count, parts = placed(part.x, study.model), Evaluations(), [np.empty(0)] * len(study)
    targets, mask = (None if tensor is None else tensor.cpu() for tensor in (part.targets, part.mask))
    with torch.inference_mode():
        full = study.full(x).cpu()
        for way, outputs in study.outputs(x, count):
            parts[way] = example_parts(metric, outputs.cpu(), targets, full, mask, len(part))
    return {"values": np.stack(parts), "pieces": np.array(astuple(count))}
