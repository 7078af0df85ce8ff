"""Out of memory: halve the batch, report it, and continue.

The largest batch that fits depends on the model, the device and its other users, so it cannot be computed in advance.
PyTorch has one exception for CUDA, and plain `RuntimeError`s with various messages for CPUs, MPS and cuBLAS.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

from ..arguments import checked
from ..warned import warn

T = TypeVar("T")

_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
_messages: ContextVar[list[str] | None] = ContextVar("halvings", default=None)


class BatchHalvedWarning(UserWarning):
    """A batch did not fit in memory and was halved."""


@checked
def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports a failed CPU, CUDA or MPS allocation.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
        >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


@checked
def adaptive_batches(function: Callable[[slice], T], length: int, batch_size: int) -> Iterator[T]:
    """Call `function` on consecutive slices of `range(length)`, with smaller slices once memory runs out.

    Earlier results are kept, and a halved batch size stays halved. The devices' cached memory is released before the
    next attempt.

    Args:
        function: called with a slice, such as `lambda rows: model(x[rows])`; it must be safe to call again.
        length: number of examples.
        batch_size: first batch size to try.

    Yields:
        The result of `function` for each slice.

    Raises:
        MemoryError: a single example does not fit (or the device's own out-of-memory error).
        RuntimeError: a single example does not fit and the library raises this; other errors propagate at once.
        ValueError: `batch_size` is below 1.

    Example:
        >>> x = torch.arange(5)
        >>> [int(part) for part in adaptive_batches(lambda rows: x[rows].sum(), len(x), 2)]
        [1, 5, 4]
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
    start = 0
    while start < length:
        size = min(batch_size, length - start)
        # The exception keeps the frames and tensors of the attempt alive, so it must be gone before the next one.
        message = None
        try:
            result = function(slice(start, start + size))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            message = str(error).partition("\n")[0] or type(error).__name__
        if message is None:
            yield result
            start += size
            continue
        batch_size = size // 2
        _report_halving(f"a batch of {size} does not fit in memory, continuing with {batch_size} ({message})")
        _release_cached_memory()


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect messages about halved batches, for the record of a point."""
    messages: list[str] = []
    token = _messages.set(messages)
    try:
        yield messages
    finally:
        _messages.reset(token)


def _report_halving(text: str) -> None:
    messages = _messages.get()
    if messages is not None:
        messages.append(text)
    warn(text, BatchHalvedWarning)


def _release_cached_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
