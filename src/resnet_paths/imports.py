"""Other libraries imported in the middle of a function, without a mark on the process.

A slow import is left to the function that needs it. Some libraries set environment variables and add warnings filters
when they are imported, which is then a side effect of that function, and of its first call only.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock

_LOCK = RLock()


@contextmanager
def first_import(module: str) -> Iterator[None]:
    """Within the block a library is imported; afterwards the environment and the warnings filters are as before.

    ``sys.path`` is left alone: a library that adds a folder to it (setuptools) finds its later imports there. Where
    the module has been imported already, the block costs nothing and restores nothing.

    Args:
        module: its name.

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
    with environment_kept(), warnings.catch_warnings():
        yield


@contextmanager
def environment_kept() -> Iterator[None]:
    """After the block every environment variable is as it was before.

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
    """Import torch's compiler, which torch itself does in the middle of an export or of a forward derivative."""
    with first_import("torch._dynamo"):
        importlib.import_module("torch._dynamo")


@cache
def load_symbolic_shapes() -> None:
    """Import SymPy, which adds a warnings filter, and which torch imports in the middle of a gradient."""
    with first_import("sympy"):
        importlib.import_module("torch.fx.experimental.symbolic_shapes")


@cache
def load_forward_derivatives() -> None:
    """Let torch prepare its forward derivatives, which it does at the first, with a warning about itself."""
    import torch
    from torch.autograd import forward_ad

    load_compiler()
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # torch scripts functions with torch.jit, which is deprecated
        forward_ad.make_dual(torch.ones(1, device="cpu"), torch.ones(1, device="cpu"))
