"""Replace names of PyTorch for one thread.

Both front ends follow a model by replacing methods that all modules share (``nn.Module.__call__`` and others). A class
has one such method per process, so the replacement dispatches on the calling thread: the thread that follows a model
gets the new behaviour, every other thread the original. Two threads never replace at the same time (see `locking.py`),
and replacements are undone in reverse order.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
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
    with _replaced((holder,), name, make):
        yield


@contextmanager
def replaced_for(
    objects: Iterable[object], base: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Within the block, this thread sees ``make(original)`` for a method of some objects whose classes share a base.

    Other objects may see it too. When a special method of a class is replaced, Python looks it up again for each
    subclass. ``nn.Module`` has 1,500 of them once timm and transformers are imported, which takes milliseconds; the
    classes of one model have few. Where one of these overrides the method, and may call the base's, the method is
    replaced in the base.

    Args:
        objects: the objects.
        base: their common base class.
        name: the name of the method.
        make: maps the original (unbound) to its replacement.

    Example:
        >>> class Shout(str):
        ...     pass
        >>> with replaced_for([Shout("a")], str, "__len__", lambda original: lambda text: 7):
        ...     len(Shout("a")), len("a")
        (7, 1)
    """
    classes = {type(item) for item in objects}
    own = {above for each in classes for above in each.__mro__[: each.__mro__.index(base)]}
    if any(name in vars(above) for above in own):
        holders = {base}
    else:
        holders = {each for each in classes if not classes.intersection(each.__mro__[1:])}
    with _replaced(holders, name, make):
        yield


@contextmanager
def _replaced(
    holders: Collection[Any], name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    thread = threading.get_ident()

    def switched(original: Callable[..., Any]) -> Callable[..., Any]:
        replacement = make(original)

        def switch(*args: Any, **kwargs: Any) -> Any:
            return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

        return switch

    before = [(holder, vars(holder).get(name, _NOWHERE)) for holder in holders]
    switches: list[Any] = []
    for holder in holders:
        switch = switched(getattr(holder, name))
        static = isinstance(inspect.getattr_static(holder, name), staticmethod)
        switches.append(staticmethod(switch) if static else switch)
    for holder, switch in zip(holders, switches, strict=True):
        setattr(holder, name, switch)
    try:
        yield
    finally:
        for holder, stored in before:
            if stored is _NOWHERE:
                delattr(holder, name)
            else:
                setattr(holder, name, stored)
