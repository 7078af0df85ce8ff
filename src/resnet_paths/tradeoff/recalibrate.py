"""Batch-norm statistics measured again, after blocks were dropped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..graph.locking import MODEL_LOCK
from ..network.norms import tracking_norms
from ..network.unrolled import call_model


def recalibrate_batchnorm(
    model: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None, keep: Iterable[str] = ()
) -> int:
    """Set the running statistics of batch norms to those of the data, in place.

    Each mean and variance becomes the average over the batches of the batch's own (momentum 1/k at batch k). The
    momentum and the train flags are put back; after an exception the statistics too. Without batch norms nothing is
    done, and a warning says so.

    Give training images as the model saw them in training, shifts and flips included
    (:func:`resnet_paths.training.augmented`): the weights fit the statistics of those. :func:`statistics_gap` of
    the whole model tells whether images are such.

    Args:
        model: the model to change.
        batches: inputs, or pairs of inputs and labels.
        max_batches: use at most so many.
        keep: names of batch norms that stay as they are: those before the first change of a model, whose
            statistics over the whole training set are better than new ones over a few images.

    Returns:
        The number of batch norms recalibrated (0: the model has none).

    Raises:
        ValueError: there are batch norms, and no batches; a name in `keep` is not a batch norm.

    Cost: one forward pass a batch.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate_batchnorm(norm, [torch.tensor([[1.0], [3.0]])])
        1
        >>> float(norm.running_mean), float(norm.running_var)
        (2.0, 2.0)
    """
    named, kept = tracking_norms(model), set(keep)
    unknown = sorted(kept - set(named))
    if unknown:
        raise ValueError(f"expected names of batch norms to keep, such as {next(iter(named), None)!r}, got {unknown}")
    if not named:
        warnings.warn(
            f"{type(model).__name__} has no batch norms that keep running statistics: nothing was recalibrated",
            stacklevel=2,
        )
    norms = [norm for name, norm in named.items() if name not in kept]
    if not norms:
        return 0
    with MODEL_LOCK:  # two threads that measure at once would mix what they measure
        seen = _measured(model, norms, batches, max_batches)
    if not seen:
        raise ValueError(
            "expected at least one batch to measure the statistics on, got none; is the iterator used up? give a list"
        )
    return len(norms)


def _measured(
    model: nn.Module,
    norms: list[nn.modules.batchnorm._BatchNorm],
    batches: Iterable[Any],
    max_batches: int | None,
) -> int:
    """Measure the statistics of these norms; the number of batches (0: everything is as it was)."""
    flags = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    seen, done = 0, False
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
        with torch.no_grad():
            for batch in batches:
                if seen == max_batches:
                    break
                call_model(model, batch[0] if isinstance(batch, (tuple, list)) else batch)
                seen += 1
        done = bool(seen)
    finally:
        for buffer, value in () if done else before:
            buffer.copy_(value)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in flags:
            module.training = flag
    return seen
