"""Batch-norm statistics measured again after blocks were dropped.

PyTorch's own running average (momentum) would weigh the last batches most and batches of unequal size equally. Here
each value counts once, so that the result is the mean and variance of the data, whatever its batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageSource, InMemory, as_batches
from ..data.inputs import placed_input
from ..graph.inputs import call_model
from ..graph.locking import MODEL_LOCK
from ..graph.wrappers import unwrap
from ..network.norms import BatchNorm, tracking_norms
from ..warned import warn
from .moments import Moments, wide

_ONE_VALUE = "Expected more than 1 value per channel"


@checked
def recalibrate_batchnorm(
    model: nn.Module,
    batches: ImageSource,
    *,
    max_batches: int | None = None,
    keep: Iterable[str] = (),
    exact: bool = False,
    batch_size: int = 100,
    seed: int = 0,
) -> int:
    """Set the running statistics of batch norms to those of the data, in place.

    Every value has the same weight, whatever the sizes of the batches: with n_b values per channel in batch b, of mean
    m_b and (biased) variance v_b, and N = sum of n_b,

        mean = 1/N sum n_b m_b,      var = 1/(N - 1) sum n_b (v_b + (m_b - mean)^2),

    the mean and unbiased variance of the norm's input. That input depends on the earlier norms: each normalises a batch
    by the batch's own statistics, as in training, so after the first norm the numbers depend slightly on how the
    images are grouped. With `exact` they do not: the norms are measured one after the other, with earlier norms using
    the statistics of all images, which gives the result of a single batch of all images.

    Momentum and train flags are restored, and after an exception the statistics too. A norm that does not run keeps its
    statistics. A model without batch norms is left unchanged, with a warning.

    Pass images as the model saw them in training, including shifts and flips
    (:func:`resnet_paths.training.augmented`): the weights fit the statistics of those. :func:`statistics_gap` of the
    full model shows whether images are of this kind.

    Args:
        model: the model to change.
        batches: labelled images, which are shuffled; or batches of inputs, or of inputs and labels, in their own order
            (a loader, a dataset, an iterable; see :func:`~resnet_paths.data.as_batches`). A batch of one image is
            merged with its neighbour.
        max_batches: maximum number of batches to use.
        keep: names of batch norms to leave unchanged: those before the first change of a model, whose statistics
            over the full training set are better than new ones over a few images.
        exact: whether to make the result independent of the batches, at the cost of one pass per norm; the batches
            are kept in memory.
        batch_size: images per batch, for images that do not come in batches; batches are as equal as possible.
        seed: seed of the order of labelled images.

    Returns:
        The number of batch norms recalibrated (0: the model has none).

    Raises:
        ValueError: there are no batches, or only one value per channel, for a model with batch norms; or a name in
            `keep` is not a batch norm.

    Cost: one forward pass per batch; with `exact`, one per batch and norm.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])])
        1
        >>> float(norm.running_mean), float(norm.running_var)
        (3.0, 4.0)
    """
    model = unwrap(model)  # a compiled model would not call the measuring hooks
    named, kept = tracking_norms(model), set(keep)
    unknown = sorted(kept - set(named))
    if unknown:
        raise ValueError(f"expected names of batch norms to keep, such as {next(iter(named), None)!r}, got {unknown}")
    if not named:
        warn(
            f"{type(model).__name__} has no batch norms that keep running statistics: nothing was recalibrated",
        )
    norms = [norm for name, norm in named.items() if name not in kept]
    if not norms:
        return 0
    if isinstance(batches, InMemory):
        batches = batches.shuffled(seed)
    read = (x for x, _ in islice(as_batches(batches, model, batch_size=batch_size, inputs=True), max_batches))
    inputs = _without_singles(placed_input(x, model) for x in read)
    with MODEL_LOCK:  # two threads measuring at once would mix their statistics
        seen = _recalibrated(model, norms, inputs, exact)
    if not seen:
        raise ValueError(
            "expected at least one batch to measure the statistics on, got none; is the iterator exhausted? pass a list"
        )
    return len(norms)


def _recalibrated(model: nn.Module, norms: list[BatchNorm], inputs: Iterator[Any], exact: bool) -> int:
    """Measure and set the statistics of these norms; return the number of batches (0: nothing is changed)."""
    with _put_back(model, norms) as done, torch.no_grad():
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # so that running statistics are those of the last batch alone, to be pooled in float64
        kept = list(inputs) if exact else inputs
        moments, seen = _pass(model, norms, kept)
        order = list(moments)
        for position in range(1, len(order) if exact else 0):
            moments[order[position - 1]].write(order[position - 1], unbiased=False)
            order[position - 1].eval()  # normalises as a batch of all images would
            again, _ = _pass(model, order[position:], kept)
            moments |= again
        for norm, measured in moments.items():
            measured.write(norm)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(seen)
        done.append(bool(seen))
    return seen


def _pass(model: nn.Module, norms: list[BatchNorm], inputs: Iterable[Any]) -> tuple[dict[BatchNorm, Moments], int]:
    """The moments of each norm's input, in the order in which the norms first run, and the number of batches."""
    moments: dict[BatchNorm, Moments] = {}

    def note(norm: Any, arguments: tuple[Any, ...], output: object) -> None:
        x = arguments[0]
        count = x.numel() // x.shape[1]
        mean, var = wide(norm.running_mean), wide(norm.running_var)
        moments.setdefault(norm, Moments()).add(count, mean, var * ((count - 1) / count))

    seen = 0
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_hook(note).remove)
        for x in inputs:
            try:
                call_model(model, x)
            except ValueError as error:
                if _ONE_VALUE in str(error):
                    raise ValueError(
                        "expected at least two examples per batch to measure the statistics on, got a norm with a "
                        "single value per channel; pass more examples, or batches of at least two"
                    ) from None
                raise
            seen += 1
    return moments, seen


@contextmanager
def _put_back(model: nn.Module, norms: list[BatchNorm]) -> Iterator[list[bool]]:
    """Restore train flags and momenta at the end, and the statistics too unless the yielded list contains True."""
    flags = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    done: list[bool] = []
    try:
        yield done
    finally:
        for buffer, value in () if any(done) else before:
            buffer.copy_(value)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in flags:
            module.training = flag


def _without_singles(batches: Iterable[Any]) -> Iterator[Any]:
    """The same batches, with a single example merged into its neighbour: alone it may have no variance."""
    ready, spare = None, None
    for x in batches:
        if spare is not None:
            x, spare = torch.cat([spare, x]), None
        if isinstance(x, torch.Tensor) and len(x) == 1:
            spare = x
            continue
        if ready is not None:
            yield ready
        ready = x
    if spare is not None:
        ready = spare if not isinstance(ready, torch.Tensor) else torch.cat([ready, spare])
    if ready is not None:
        yield ready
