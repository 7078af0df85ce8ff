"""What a forward draws at random: tensors drawn by PyTorch, and numbers drawn by Python or NumPy.

A PyTorch draw is an operation of the graph and draws again in each run. A number drawn in Python would be a constant:
where it decides which blocks run (LayerDrop in train mode), the graph would contain one draw forever. The generators
are shared by all threads, so a generator that has advanced proves nothing about this forward. Hence PyTorch's draws are
recognised by the functions that draw, and Python's and NumPy's by following the forward again from other seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .opaque_modules import CannotFollow
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
ADVICE = "unroll in eval mode (model.eval()), where nothing is drawn at random"


def draws(function: Any) -> bool:
    """Whether a torch function returns random values, whatever its arguments.

    Example:
        >>> import torch
        >>> draws(torch.rand), draws(torch.Tensor.uniform_), draws(torch.relu)
        (True, True, False)
    """
    return getattr(function, "__name__", "") in _NAMES


def reads(function: Any) -> bool:
    """Whether a torch function turns a tensor's values into a Python value."""
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
    """Detect whether Python's or NumPy's generator is used (by any thread).

    Yields:
        A function that returns whether one has been used since the block was entered.

    Example:
        >>> with noticing_draws() as drawn:
        ...     before, _, after = drawn(), random.random(), drawn()
        >>> before, after
        (False, True)
    """
    before = _state()
    yield lambda: _state() != before


def same_for_other_seeds(attempt: Callable[[], tuple[Program, bool]], others: int = 3) -> Program:
    """A program that does not depend on Python's and NumPy's generators.

    Args:
        attempt: follows the model; also returns whether one of the generators was used meanwhile.
        others: number of other seeds to try if one was used (perhaps by another thread). Each costs one more pass over
            the model; a decision that a fair coin makes goes unnoticed once in eight times with three.

    Raises:
        CannotFollow: another seed leads to other operations.
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
