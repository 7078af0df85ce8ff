"""Replace names of PyTorch for one thread.

Both front ends follow a model by replacing methods that all modules share (``nn.Module.__call__`` and others). A class
has one such method per process, so the replacement dispatches on the calling thread: the thread that follows a model
gets the new behaviour, every other thread the original. Two threads never replace at the same time (see `locking.py`),
and replacements are undone in reverse order.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NOWHERE = object()


@contextmanager
def replaced_here(holder: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block, this thread sees ``make(original)`` under a name of a class or module.

    Args:
        holder: the class or module.
        name: the name of a function, method or static method.
        make: maps the original (unbound) to its replacement.

    Example:
        >>> import math
        >>> with replaced_here(math, "sqrt", lambda original: lambda x: -original(x)):
        ...     math.sqrt(4.0)
        -2.0
        >>> math.sqrt(4.0)
        2.0
    """
    thread = threading.get_ident()
    stored = vars(holder).get(name, _NOWHERE)
    original = getattr(holder, name)
    replacement = make(original)

    def switch(*args: Any, **kwargs: Any) -> Any:
        return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

    static = isinstance(inspect.getattr_static(holder, name), staticmethod)
    setattr(holder, name, staticmethod(switch) if static else switch)
    try:
        yield
    finally:
        if stored is _NOWHERE:
            delattr(holder, name)
        else:
            setattr(holder, name, stored)
