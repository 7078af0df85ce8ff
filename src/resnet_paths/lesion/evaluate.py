"""A network at many gate vectors over a whole data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..data import ImageData
from ..unroll import Evaluations, UnrolledNetwork, UnrollError, for_inference
from .metrics import Metric


def progress_bar(what: str, enabled: bool) -> Progress:
    """A progress bar with the remaining time, on a terminal only."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not enabled or not sys.stderr.isatty(), transient=True)


def evaluate_gates(
    net: UnrolledNetwork,
    data: ImageData,
    gates: torch.Tensor,
    metric: Metric,
    *,
    batch_size: int = 100,
    fast: bool = True,
    progress: bool = True,
    count: Evaluations | None = None,
) -> np.ndarray:
    """One value for each gate vector and image.

    Args:
        net: the network, in eval mode.
        data: labelled images.
        gates: (m, n).
        metric: see :mod:`resnet_paths.lesion.metrics`; its third argument is the network at gates of one.
        batch_size: images at a time.
        fast: fold norms and store channels last first (same numbers within 1e-4 in float32, 1e-10 in float64).
        progress: show a progress bar on a terminal.
        count: is added the numbers of pieces evaluated (the whole network, once a batch, apart).

    Returns:
        (m, images), float64.

    Raises:
        UnrollError: the model is in training mode, in which its output depends on the batch.

    Cost: the rows share what they begin with; single deletions of n units cost about n/2 forward passes.
    """
    if any(module.training for module in net.model.modules()):
        raise UnrollError("expected a model in eval mode, got one in training mode; call model.eval() first")
    runner = for_inference(net) if fast else net
    parameter = next(net.model.parameters())
    values = np.empty((len(gates), len(data)))
    with torch.inference_mode(), progress_bar("evaluating", progress) as bar:
        task = bar.add_task("", total=len(data))
        for start, x, labels in _batches(data, batch_size, parameter):
            whole = runner(x).cpu()
            for row, logits in runner.iterate(x, gates, count=count):
                values[row, start : start + len(labels)] = metric(logits.cpu(), labels, whole).numpy()
            bar.update(task, advance=len(labels))
    return values


def _batches(data: ImageData, size: int, parameter: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    if size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {size}")
    start = 0
    for x, labels in data.batches(size):
        yield start, x.to(parameter.device, parameter.dtype), labels
        start += len(labels)
