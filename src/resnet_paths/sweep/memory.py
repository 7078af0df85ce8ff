"""Out of memory: halve the batch, say so, and go on.

How large a batch fits depends on the model, on the device and on who else uses it, and no formula knows it beforehand.
PyTorch has one exception for CUDA, and plain `RuntimeError`s with various texts for CPUs, MPS and cuBLAS.
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
_heard: ContextVar[list[str] | None] = ContextVar("halvings", default=None)


class BatchHalvedWarning(UserWarning):
    """A batch did not fit into memory, and was halved."""


@checked
def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a CPU, CUDA or MPS allocation did not fit.

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
    """Calls `function` on consecutive slices of `range(length)`, with smaller ones from where memory ran out.

    What was computed before is kept; once halved, the batch size stays. The cached memory of the devices is given back
    before the next attempt.

    Args:
        function: called with a slice, such as `lambda rows: model(x[rows])`; it must be safe to call again.
        length: the number of examples.
        batch_size: the first to try.

    Yields:
        What `function` returned for a slice.

    Raises:
        MemoryError: or the device's own out-of-memory error, when a single example does not fit; any other error at
            once.
        RuntimeError: the same, where a library raises that.
        ValueError: a batch size below 1.

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
        # The error keeps the frames, and so the tensors, of the attempt alive: it must be gone before the next.
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
        _say(f"a batch of {size} does not fit into memory, going on with {batch_size} ({message})")
        _release()


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collects what is said about halved batches, for the record of a point."""
    said: list[str] = []
    token = _heard.set(said)
    try:
        yield said
    finally:
        _heard.reset(token)


def _say(text: str) -> None:
    said = _heard.get()
    if said is not None:
        said.append(text)
    warn(text, BatchHalvedWarning)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
