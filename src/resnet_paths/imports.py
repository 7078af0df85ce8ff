"""Libraries imported inside functions, without side effects on the process.

A slow import is left to the function that needs it. Some libraries set environment variables and add warnings filters
on import, which then becomes a side effect of that function, and only of its first call.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock

_LOCK = RLock()


@contextmanager
def first_import(module: str) -> Iterator[None]:
    """Import a library inside this context, which then restores what the import changed.

    That is the environment, the warnings filters and the state of Python's random numbers.
    ``sys.path`` is not restored: a library that adds a folder to it (setuptools) finds its later imports there. If the
    module is already imported, the context costs nothing and restores nothing.

    Args:
        module: name of the module.

    Example:
        >>> import sys
        >>> with first_import("colorsys"):
        ...     import colorsys
        >>> "colorsys" in sys.modules
        True
    """
    if module in sys.modules:
        yield
        return
    state = random.getstate()  # some libraries draw a name of their own on import
    try:
        with environment_kept(), warnings.catch_warnings():
            yield
    finally:
        random.setstate(state)


@contextmanager
def environment_kept() -> Iterator[None]:
    """Restore every environment variable afterwards.

    Example:
        >>> with environment_kept():
        ...     os.environ["WITHIN"] = "1"
        >>> "WITHIN" in os.environ
        False
    """
    with _LOCK:
        before = dict(os.environ)
        try:
            yield
        finally:
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def load_compiler() -> None:
    """Import torch's compiler, which torch would otherwise do during an export or a forward derivative."""
    with first_import("torch._dynamo"):
        importlib.import_module("torch._dynamo")


@cache
def load_symbolic_shapes() -> None:
    """Import SymPy, which adds a warnings filter, and which torch would otherwise import during a gradient."""
    with first_import("sympy"):
        importlib.import_module("torch.fx.experimental.symbolic_shapes")


@cache
def load_forward_derivatives() -> None:
    """Make torch prepare forward derivatives, which it otherwise does on first use, with a warning about itself."""
    import torch
    from torch.autograd import forward_ad

    load_compiler()
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # torch scripts functions with torch.jit, which is deprecated
        forward_ad.make_dual(torch.ones(1, device="cpu"), torch.ones(1, device="cpu"))
