"""Several batches at once in one process: a thread for each core, and one core for each operation.

Not an executor for `sweep`: a swept function may seed generators and change its model, which threads share; this is for
functions within one point that do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..arguments import checked

A = TypeVar("A")
T = TypeVar("T")


@checked
def on_each_core(function: Callable[[A], T], items: Sequence[A]) -> list[T]:
    """``[function(item) for item in items]`` without autograd, as many at a time as PyTorch has threads.

    An operation on a small batch divides badly among cores (each waits for the others at its end); whole batches do
    not. PyTorch lets go of Python's lock while it computes. The number of threads is put back, also after an error.

    Args:
        function: must not draw random numbers, nor change what it shares with its other calls.
        items: what it is called with, each once.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: the first that the function raised.

    Example:
        >>> on_each_core(lambda k: float(torch.tensor(k) ** 2), [1, 2, 3])
        [1.0, 4.0, 9.0]
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2 or not threads_see_the_same():
        return [_without_autograd(function, item) for item in items]
    with (
        _one_core_an_operation(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        futures = [pool.submit(_without_autograd, function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def threads_see_the_same() -> bool:
    """Whether a new thread computes as this one does: autocast, default devices and modes hold in one thread only.

    Example:
        >>> with torch.device("cpu"):
        ...     threads_see_the_same()
        False
    """
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return modes == 0 and not torch.is_autocast_enabled("cpu")


def _without_autograd(function: Callable[[A], T], item: A) -> T:
    with torch.inference_mode():
        return function(item)


@contextmanager
def _one_core_an_operation() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
