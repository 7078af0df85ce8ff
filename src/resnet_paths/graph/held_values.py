"""Python values that a forward read from its model while it was traced: the graph holds them as constants.

In ``x + self.scale * f(x)`` with a number ``scale``, or in ``if i not in self.skip``, the value read becomes a constant
of the graph. If the user changes it later, the network would silently compute with the old one. So every such read is
recorded and compared whenever the network is used. Reads are observed by replacing ``nn.Module.__getattribute__``, only
in the thread that follows the model and only while it does. Tensors of the model need no such care: they are operands
of the graph and are read again in each run, except where Python saw their values or a constant was computed from them
(`HeldTensor`).
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
from .own_thread import replaced_for

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_COLLECTIONS = (tuple, list, set, frozenset)
_OF_TORCH = frozenset(vars(nn.Module())) | {"training", "inplace"}
_GONE = object()


class HeldAttribute(NamedTuple):
    """One value that was read: ``module.name == value``, and the module's qualified name."""

    module: nn.Module
    name: str
    value: Any
    path: str


@dataclass(eq=False)
class HeldTensor:
    """A tensor of the model from which a constant of the graph was computed.

    Attributes:
        name: its qualified name.
        value: a copy of its value at that time.
        seen: the tensor and its version at the last comparison; a tensor not written to since is not compared again.
        view: the constant is a view of the tensor, so it changes with the tensor as long as both share memory.
    """

    name: str
    value: torch.Tensor
    seen: tuple[torch.Tensor, int]
    view: bool = False

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, *, view: bool) -> HeldTensor:
        """Record a tensor's current value."""
        return cls(name, tensor.detach().clone(), (tensor, version(tensor)), view)

    def check(self, now: torch.Tensor) -> None:
        """Check that the tensor still holds the same values.

        Raises:
            UnrollError: it does not.
        """
        if self.seen[0] is now and (self.view or self.seen[1] == version(now) >= 0):
            return
        if now.shape != self.value.shape or not same_numbers(now.to(self.value), self.value):
            raise UnrollError(
                f"expected {self.name} to hold the values that it had when the model was unrolled, got others; the "
                "network contains constants computed from the old ones: unroll the model again"
            )
        self.seen = now, version(now)


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of the same shape are equal; NaN equals NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


class HeldTensors:
    """Collects the tensors of a model from which constants are computed while its forward is followed.

    Args:
        tensors: all tensors of the model, by name.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._versions = {name: version(value) for name, value in tensors.items()}
        self._noted: dict[str, HeldTensor] = {}

    def note(self, names: Iterable[str], constant: torch.Tensor | None = None) -> None:
        """Record the named tensors with their current values.

        A tensor that the forward itself has written to (a counter) is skipped: it differs in every run.

        Args:
            names: the tensors.
            constant: what was computed from them.
        """
        for name in names:
            tensor = self._tensors[name]
            view = constant is not None and constant.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            noted = self._noted.get(name)
            if noted is not None:
                noted.view = noted.view and view
            elif version(tensor) == self._versions[name]:
                self._noted[name] = HeldTensor.of(name, tensor, view=view)

    def noted(self) -> tuple[HeldTensor, ...]:
        """The tensors recorded so far."""
        return tuple(self._noted.values())


def version(tensor: torch.Tensor) -> int:
    """The number of writes to a tensor; -1 where PyTorch does not count them (inference tensors)."""
    return -1 if tensor.is_inference() else tensor._version


class Reads:
    """Collects the plain attributes that are read from the modules of a model.

    Args:
        model: the model.
        watching: whether a read counts at this moment.
        method: maps a module's path and one of its own methods to what a read of that method returns.
    """

    def __init__(
        self,
        model: nn.Module,
        watching: Callable[[], bool] = lambda: True,
        method: Callable[[str, Any], Any] | None = None,
    ) -> None:
        modules = dict(model.named_modules())
        self._modules = modules.values()
        self._paths = {id(module): path for path, module in modules.items()}
        self._watching, self._method = watching, method
        self.seen: dict[tuple[int, str], HeldAttribute] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block, reads in this thread are recorded."""

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

        with replaced_for(self._modules, nn.Module, "__getattribute__", reading):
            yield

    def _note(self, module: nn.Module, name: str, value: Any) -> None:
        path = self._paths.get(id(module))
        key = id(module), name
        if path is None or key in self.seen or not self._watching() or not _is_plain(value):
            return
        if _is_stored(module, name):
            self.seen[key] = HeldAttribute(module, name, value if isinstance(value, tuple) else _copied(value), path)

    def kept(self) -> tuple[HeldAttribute, ...]:
        """The values read, without those that the forward itself has changed since (a counter)."""
        return tuple(held for held in self.seen.values() if _now(held) == held.value)


def check_unchanged(held: tuple[HeldAttribute, ...]) -> None:
    """Check that the constants of a graph still equal the model's attributes.

    Raises:
        UnrollError: an attribute has changed.

    Cost: one comparison per value.
    """
    for module, name, value, path in held:
        now = getattr(module, name, _GONE)
        if now is not value and (not isinstance(now, _PLAIN + _COLLECTIONS) or now != value):
            where = f"{path}.{name}" if path else name
            what = "nothing" if now is _GONE else repr(now) if _is_plain(now) else f"a {type(now).__name__}"
            raise UnrollError(
                f"expected {where} to be {value!r}, as when the model was unrolled, got {what}; the network uses the "
                "old value: unroll the model again"
            )


def _now(held: HeldAttribute) -> Any:
    return getattr(held.module, held.name, _GONE)


def _is_plain(value: Any) -> bool:
    if type(value) in _COLLECTIONS:
        return all(_is_plain(item) for item in value)
    return type(value) in _PLAIN


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, set)) else value


def _is_stored(module: nn.Module, name: str) -> bool:
    """Whether an attribute is a stored value of the instance or its class, rather than a property or a method."""
    if name in object.__getattribute__(module, "__dict__"):
        return True
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return owner is not None and owner is not nn.Module and not hasattr(vars(owner)[name], "__get__")
