"""Python values that a forward read from its modules while it was followed, and that a graph holds for good.

``x + self.scale * f(x)`` with a number ``scale``, ``if i not in self.skip``: what is read is a constant of the graph.
So what was read is noted, and compared whenever the network is used. Reading is seen by replacing
``nn.Module.__getattribute__``, for the thread that follows the model, while it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

from torch import nn

from .errors import UnrollError
from .own_thread import replaced_here

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_COLLECTIONS = (tuple, list, set, frozenset)
_OF_TORCH = frozenset(vars(nn.Module())) | {"training", "inplace"}
_GONE = object()


class Baked(NamedTuple):
    """One value that was read: ``module.name == value``, and the module's qualified name."""

    module: nn.Module
    name: str
    value: Any
    path: str


class Reads:
    """The plain attributes that modules of a model are asked for.

    Args:
        model: the model.
        watching: whether a read at this moment counts.
        method: given a module's path and one of its own methods that is read, what is read instead.
    """

    def __init__(
        self,
        model: nn.Module,
        watching: Callable[[], bool] = lambda: True,
        method: Callable[[str, Any], Any] | None = None,
    ) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._watching, self._method = watching, method
        self.seen: dict[tuple[int, str], Baked] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block reads in this thread are noted."""

        def reading(original: Any) -> Any:
            def read(module: nn.Module, name: str) -> Any:
                value = original(module, name)
                kind = type(value)
                if (kind in _PLAIN or kind in _COLLECTIONS) and name not in _OF_TORCH:
                    self._note(module, name, value)
                elif kind is MethodType and self._method is not None and not hasattr(nn.Module, name):
                    path = self._paths.get(id(module))
                    return value if path is None or name == "forward" else self._method(path, value)
                return value

            return read

        with replaced_here(nn.Module, "__getattribute__", reading):
            yield

    def _note(self, module: nn.Module, name: str, value: Any) -> None:
        path = self._paths.get(id(module))
        key = id(module), name
        if path is None or key in self.seen or not self._watching() or not _is_plain(value):
            return
        if _is_stored(module, name):
            self.seen[key] = Baked(module, name, value if isinstance(value, tuple) else _copied(value), path)

    def kept(self) -> tuple[Baked, ...]:
        """What was read and not changed since, by the forward itself (a counter)."""
        return tuple(baked for baked in self.seen.values() if _now(baked) == baked.value)


def check_unchanged(baked: tuple[Baked, ...]) -> None:
    """That the values which a graph holds are still those of the model.

    Raises:
        UnrollError: one has changed.

    Cost: one comparison per value.
    """
    for module, name, value, path in baked:
        now = getattr(module, name, _GONE)
        if now is not value and (not isinstance(now, _PLAIN + _COLLECTIONS) or now != value):
            where = f"{path}.{name}" if path else name
            what = "nothing" if now is _GONE else repr(now) if _is_plain(now) else f"a {type(now).__name__}"
            raise UnrollError(
                f"expected {where} to be {value!r}, as when the model was unrolled, got {what}; the network holds the "
                "old value: unroll the model again"
            )


def _now(baked: Baked) -> Any:
    return getattr(baked.module, baked.name, _GONE)


def _is_plain(value: Any) -> bool:
    if type(value) in _COLLECTIONS:
        return all(_is_plain(item) for item in value)
    return type(value) in _PLAIN


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, set)) else value


def _is_stored(module: nn.Module, name: str) -> bool:
    """Whether an attribute is kept as it is, in the instance or its class; a property is not, nor is a method."""
    if name in object.__getattribute__(module, "__dict__"):
        return True
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return owner is not None and owner is not nn.Module and not hasattr(vars(owner)[name], "__get__")
