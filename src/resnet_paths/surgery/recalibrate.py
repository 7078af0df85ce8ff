"""Batch-norm statistics measured again, after blocks were dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageData, ImageSource, as_batches
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

    Every value weighs the same, whatever the sizes of the batches: with n_b values a channel in batch b, of mean m_b
    and (biased) variance v_b, and N = sum of n_b,

        mean = 1/N sum n_b m_b,      var = 1/(N - 1) sum n_b (v_b + (m_b - mean)^2),

    which are mean and unbiased variance of all that reaches the norm. What reaches it depends on the norms before:
    each normalises a batch by the batch's own statistics, as in training, so that behind the first norm the numbers
    depend a little on how the images are grouped. With `exact` they do not: the norms are measured one after the
    other, those before by the statistics of all images, and all are those of a single batch of all images.

    The momentum and the train flags are put back; after an exception the statistics too. A norm that does not run
    keeps what it has. Without batch norms nothing is done, and a warning says so.

    Give training images as the model saw them in training, shifts and flips included
    (:func:`resnet_paths.training.augmented`): the weights fit the statistics of those. :func:`statistics_gap` of
    the whole model tells whether images are such.

    Args:
        model: the model to change.
        batches: labelled images, which are taken in a random order; or batches of inputs, or of inputs and labels, as
            they come (a loader, a data set, an iterable; see :func:`~resnet_paths.data.as_batches`). A batch of one
            image joins its neighbour.
        max_batches: use at most this many.
        keep: names of batch norms that stay as they are: those before the first change of a model, whose
            statistics over the whole training set are better than new ones over a few images.
        exact: independent of the batches, at the cost of a pass for each norm; the batches are kept in memory.
        batch_size: images per batch of what has no batches of its own; batches are as equal as can be.
        seed: of the order of labelled images.

    Returns:
        The number of batch norms recalibrated (0: the model has none).

    Raises:
        ValueError: there are batch norms, and no batches, or a single value a channel; a name in `keep` is not a batch
            norm.

    Cost: one forward pass a batch; with `exact` one for each batch and norm.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])])
        1
        >>> float(norm.running_mean), float(norm.running_var)
        (3.0, 4.0)
    """
    model = unwrap(model)  # a compiled one would not call the hooks that measure
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
    if isinstance(batches, ImageData):
        batches = batches.shuffled(seed)
    read = (x for x, _ in islice(as_batches(batches, model, batch_size=batch_size, inputs=True), max_batches))
    inputs = _without_singles(placed_input(x, model) for x in read)
    with MODEL_LOCK:  # two threads that measure at once would mix what they measure
        seen = _recalibrated(model, norms, inputs, exact)
    if not seen:
        raise ValueError(
            "expected at least one batch to measure the statistics on, got none; is the iterator used up? give a list"
        )
    return len(norms)


def _recalibrated(model: nn.Module, norms: list[BatchNorm], inputs: Iterator[Any], exact: bool) -> int:
    """Measure and set the statistics of these norms; the number of batches (0: everything is as it was)."""
    with _put_back(model, norms) as done, torch.no_grad():
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # the running statistics are those of the last batch alone
        kept = list(inputs) if exact else inputs
        moments, seen = _pass(model, norms, kept)
        order = list(moments)
        for position in range(1, len(order) if exact else 0):
            moments[order[position - 1]].write(order[position - 1], unbiased=False)
            order[position - 1].eval()  # as a batch of all images would be normalised
            again, _ = _pass(model, order[position:], kept)
            moments |= again
        for norm, found in moments.items():
            found.write(norm)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(seen)
        done.append(bool(seen))
    return seen


def _pass(model: nn.Module, norms: list[BatchNorm], inputs: Iterable[Any]) -> tuple[dict[BatchNorm, Moments], int]:
    """The moments of what reaches each norm, in the order in which they first run, and the number of batches."""
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
                        "expected at least two images in a batch to measure the statistics on, as a norm sees a single "
                        "value a channel of one; give more images, or batches of two at least"
                    ) from None
                raise
            seen += 1
    return moments, seen


@contextmanager
def _put_back(model: nn.Module, norms: list[BatchNorm]) -> Iterator[list[bool]]:
    """Train flags and momenta as they were, at the end; the statistics too, unless what is yielded says done."""
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
    """The same batches, but a tensor of one example joined to its neighbour: alone it may have no variance."""
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
