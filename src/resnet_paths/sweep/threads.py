"""Several batches at once in one process: one thread per core, and one core per operation.

Not an executor for `sweep`: a swept function may seed generators and change its model, which threads share. This is for
functions inside one point that do neither.
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

    An operation on a small batch divides badly among cores, because each waits for the others at its end; separate
    batches divide well. PyTorch releases Python's lock while it computes. The number of threads is restored afterwards,
    even after an error.

    Args:
        function: must neither draw random numbers nor change objects that its calls share.
        items: arguments of the calls.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: the first error of the function.

    Example:
        >>> on_each_core(lambda k: float(torch.tensor(k) ** 2), [1, 2, 3])
        [1.0, 4.0, 9.0]
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2 or not threads_see_the_same():
        return [_without_autograd(function, item) for item in items]
    with (
        operation_threads(1),
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
    """Whether a new thread computes like this one: autocast, default devices and modes are per thread.

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
def operation_threads(count: int) -> Iterator[None]:
    """Within the block, each operation of PyTorch on the CPU uses this number of threads.

    Example:
        >>> with operation_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
