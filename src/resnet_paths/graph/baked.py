"""Values that a forward read from its model while it was followed, and that a graph holds for good.

``x + self.scale * f(x)`` with a number ``scale``, ``if i not in self.skip``: what is read is a constant of the graph.
So what was read is noted, and compared whenever the network is used. Reading is seen by replacing
``nn.Module.__getattribute__``, for the thread that follows the model, while it does. Tensors of the model are operands
of the graph, read anew at each run, except where Python was told their values or a constant was computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import torch
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


@dataclass(eq=False)
class HeldTensor:
    """A tensor of the model with which the forward computed while it was followed, the result being a constant.

    Attributes:
        name: its qualified name.
        value: a copy of it as it was then.
        seen: the tensor and its version when it was last compared: what has not been written to is not compared.
        view: the constant is a view of the tensor, and so changes with it as long as the memory is the same.
    """

    name: str
    value: torch.Tensor
    seen: tuple[torch.Tensor, int]
    view: bool = False

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, *, view: bool) -> HeldTensor:
        """Note a tensor's present value."""
        return cls(name, tensor.detach().clone(), (tensor, version(tensor)), view)

    def check(self, now: torch.Tensor) -> None:
        """That the tensor is as it was.

        Raises:
            UnrollError: it is not.
        """
        if self.seen[0] is now and (self.view or self.seen[1] == version(now) >= 0):
            return
        if now.shape != self.value.shape or not same_numbers(now.to(self.value), self.value):
            raise UnrollError(
                f"expected {self.name} to hold the values that it had when the model was unrolled, got others; the "
                "network holds what was computed from the old ones: unroll the model again"
            )
        self.seen = now, version(now)


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape hold the same; NaN equals NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


class HeldTensors:
    """The tensors of a model that are noted while its forward is followed.

    Args:
        tensors: all its tensors, by name.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._versions = {name: version(value) for name, value in tensors.items()}
        self._noted: dict[str, HeldTensor] = {}

    def note(self, names: Iterable[str], constant: torch.Tensor | None = None) -> None:
        """Note some as they are now, given what was computed from them.

        Not what the forward itself has written to (a counter).
        """
        for name in names:
            tensor = self._tensors[name]
            view = constant is not None and constant.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            known = self._noted.get(name)
            if known is not None:
                known.view = known.view and view
            elif version(tensor) == self._versions[name]:
                self._noted[name] = HeldTensor.of(name, tensor, view=view)

    def noted(self) -> tuple[HeldTensor, ...]:
        """Those noted."""
        return tuple(self._noted.values())


def version(tensor: torch.Tensor) -> int:
    """How often a tensor was written to; -1 where PyTorch does not count (inference tensors)."""
    return -1 if tensor.is_inference() else tensor._version


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
