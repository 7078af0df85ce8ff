"""What a forward draws at random: an operation of the graph draws again at each run, a number in Python does not.

Where such a number decides which blocks run (LayerDrop in train mode), a graph would hold one draw for good.
Generators are shared by all threads, so that one has moved on says nothing about this forward: PyTorch's are watched
by the functions that draw, Python's and NumPy's by following the forward again from other seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .closing import CannotFollow
from .program import Program, first_difference

_NAMES = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial",
    "normal", "poisson", "binomial", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_",
    "random_", "uniform_",
}  # fmt: skip
_READS = {
    "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__complex__", "__index__",
    "__contains__", "is_nonzero", "equal", "allclose",
}  # fmt: skip
ADVICE = "unroll in eval mode (model.eval()), where nothing is drawn"


def draws(function: Any) -> bool:
    """Whether a torch function's values are random, whatever it is given.

    Example:
        >>> import torch
        >>> draws(torch.rand), draws(torch.Tensor.uniform_), draws(torch.relu)
        (True, True, False)
    """
    return getattr(function, "__name__", "") in _NAMES


def reads(function: Any) -> bool:
    """Whether a torch function makes a Python value of a tensor's values."""
    return getattr(function, "__name__", "") in _READS


def _state() -> tuple[Any, Any]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def noticing_draws() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Python's or NumPy's generator has been used since (by any thread).

    Yields:
        The function.

    Example:
        >>> with noticing_draws() as drawn:
        ...     before, _, after = drawn(), random.random(), drawn()
        >>> before, after
        (False, True)
    """
    before = _state()
    yield lambda: _state() != before


def not_by_chance(attempt: Callable[[], tuple[Program, bool]], others: int = 3) -> Program:
    """A program that does not depend on Python's and NumPy's generators.

    Args:
        attempt: follows the model; tells also whether one of the generators was used meanwhile.
        others: how many other seeds are tried where one was (perhaps by another thread).

    Raises:
        CannotFollow: another seed gives other operations.
    """
    program, drawn = attempt()
    if not drawn:
        return program
    for seed in range(others):
        with _seeded(seed):
            other, _ = attempt()
        difference = first_difference(program, other)
        if difference is not None:
            where, reason = difference
            raise CannotFollow(where, f"it draws random numbers in Python ({reason}); {ADVICE}")
    return program
