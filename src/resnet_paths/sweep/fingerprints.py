"""Fingerprints: SHA-256 of everything in a value that can affect a result.

Hashing pickles seems obvious, but equal objects have different ones (sets, shared references, caches), and functions
are pickled by name, whatever their code. Source text would count comments, and miss what a function calls and closes
over. So values are traversed here: data by content, code by bytecode and by the globals that it reads.
`provenance.fingerprint` and `graph.model_fingerprint` identify the data and the model in records; they know neither
code nor arbitrary objects, and files of earlier runs contain their results.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..arguments import checked, without_checks
from . import code_identity
from .errors import FingerprintError


@checked
def fingerprint(value: Any) -> str:
    """SHA-256 of a value's contents: equal for equal contents in any process, different for different ones.

    A model contributes its classes and code, structure, modes, hooks, parameters and buffers; tensors and arrays
    contribute dtype, shape, device type and every bit; functions contribute their bytecode, defaults, closures and the
    globals they read, recursively through all user code. Installed packages count by version, and this package by the
    text of its files. An object can replace its content by the result of a method `__sweep_fingerprint__`.

    Raises:
        FingerprintError: a value has no lasting content, such as an open file, a lock or a generator.

    Cost: about 1 s per GB.

    Example:
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
        True
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2, dtype=torch.float64))
        False
        >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
        False
    """
    return _Walk().digest(value).hex()


def deciding(record: Any, aside: Iterable[str] = (), **others: Any) -> dict[str, Any]:
    """The fields of a dataclass that affect a value, for its `__sweep_fingerprint__`: all except those excluded.

    Fields added later thus count until somebody excludes them. With a list of the fields that count instead, a
    forgotten field would make a journal return the values of other settings.

    Args:
        record: an instance of a dataclass.
        aside: names of fields that do not affect the value.
        **others: values that replace those of fields.

    Raises:
        ValueError: a name is not a field.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass
        ... class Settings:
        ...     width: float
        ...     progress: bool
        >>> deciding(Settings(2.0, True), aside={"progress"})
        {'width': 2.0}
    """
    names = [field.name for field in dataclasses.fields(record)]
    unknown = sorted({*aside, *others} - set(names))
    if unknown:
        raise ValueError(f"expected fields of {type(record).__name__}, got {', '.join(unknown)}")
    return {name: others[name] if name in others else getattr(record, name) for name in names if name not in aside}


class _Walk:
    """One traversal of nested objects, which may contain cycles."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[bytes, Any]] = {}  # keeps the object alive, so that its id is not reused
        self.open: dict[int, int] = {}

    def digest(self, value: Any) -> bytes:
        plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
        if plain and not hasattr(type(value), "__sweep_fingerprint__"):
            return _of_plain(value)
        if id(value) in self.done:
            return self.done[id(value)][0]
        if id(value) in self.open:
            return _hash("cycle", _number(self.open[id(value)]))
        self.open[id(value)] = len(self.open)
        try:
            digest = self._compound(value)
        except RecursionError as error:
            raise FingerprintError(f"a {type(value).__name__} is nested too deeply for a fingerprint") from error
        finally:
            del self.open[id(value)]
        self.done[id(value)] = digest, value
        return digest

    def _compound(self, value: Any) -> bytes:
        custom = getattr(type(value), "__sweep_fingerprint__", None)
        if custom is not None:
            return _hash("custom", _name(type(value)), self.digest(custom(value)))
        return _method(type(value))(self, value)  # type: ignore[arg-type]  # mypy takes no class for hashable

    def all(self, values: Iterable[Any]) -> bytes:
        return b"".join(map(self.digest, values))

    def of_array(self, value: np.ndarray) -> bytes:
        if value.dtype.hasobject:
            return _hash("objects", _number(*value.shape), self.all(value.ravel().tolist()))
        return _hash("array", value.dtype.str.encode(), repr(value.dtype).encode(), _number(*value.shape), _raw(value))

    def of_tensor(self, value: torch.Tensor) -> bytes:
        description = f"{value.dtype} {value.layout} {value.device.type}".encode()
        if value.is_meta:
            raise FingerprintError("a tensor on the meta device has no values: load the weights before the sweep")
        if value.layout is not torch.strided:
            value = value.detach().to_dense()
        if value.is_quantized:
            return _hash("quantized", description, self.digest(value.dequantize()), str(value.qscheme()).encode())
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        content = _raw(plain.reshape(-1).view(torch.uint8).numpy()) if plain.numel() else b""
        return _hash("tensor", _name(type(value)), description, _number(*value.shape), content)

    def of_module(self, value: nn.Module) -> bytes:
        original = getattr(value, "_orig_mod", None)  # a compiled model computes the same as the original
        if isinstance(original, nn.Module):
            return self.digest(original)
        excluded = {"_parameters", "_buffers", "_modules", "_graph", "_non_persistent_buffers_set"}
        excluded |= {"_is_torch_compile", "_compile_kwargs"}  # Lightning adds the second at torch.compile
        state = vars(value)
        parts: list[Any] = [
            type(value),
            *(list(state[name].items()) for name in ("_parameters", "_buffers", "_modules")),
        ]
        if isinstance(value, fx.GraphModule):
            parts.append(value.code)
            excluded |= {
                name for name in state if name.startswith("_code") or name in ("_tracer_cls", "meta", "shape_env")
            }
        stored = _stored(value)
        attributes = [self._attribute(name, stored[name]) for name in sorted(set(stored) - excluded)]
        return _hash("module", self.all(parts) + b"".join(attributes))

    def _attribute(self, name: str, value: Any) -> bytes:
        """The fingerprint of ``(name, value)``; flags and empty tables of hooks recur in every module."""
        if name.endswith("_hooks") and isinstance(value, dict):
            value = list(value.values())  # the keys are counters that differ between runs
        if type(value) in (bool, int, type(None)):
            return _of_flag(name, value)
        if type(value) in (list, dict, OrderedDict, set) and not value:
            return _of_empty(name, type(value))  # type: ignore[arg-type]  # mypy takes no class for hashable
        return self.digest((name, value))

    def of_function(self, value: FunctionType) -> bytes:
        value = without_checks(value)
        version = code_identity.installed_version(value.__module__)
        if version and not code_identity.is_own_package(value.__module__):
            return _hash("installed", _name(value), version.encode())
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
        if version:  # closures of this package's functions may contain user values
            return _hash("own", _name(value), version.encode(), self.all(parts))
        reads = [name.encode() + self.digest(item) for name, item in code_identity.globals_read(value)]
        return _hash("function", self.all(parts), *reads)

    def of_class(self, value: type) -> bytes:
        if version := code_identity.installed_version(value.__module__):
            return _hash("installed", _name(value), version.encode())
        members = [(name, item) for name, item in sorted(vars(value).items()) if name not in code_identity.CLASS_NOISE]
        bases = self.all(base for base in value.__bases__ if base is not object)
        return _hash("class", _name(value), bases, *(name.encode() + self._member(item) for name, item in members))

    def _member(self, item: Any) -> bytes:
        if isinstance(item, staticmethod | classmethod):
            return self.digest(item.__func__)
        if isinstance(item, property):
            return self.all([item.fget, item.fset, item.fdel])
        if type(item).__name__ in ("member_descriptor", "getset_descriptor", "_abc_data", "cached_property"):
            return self.digest(getattr(item, "func", None))
        return self.digest(item)

    def of_python_module(self, value: ModuleType) -> bytes:
        version = code_identity.installed_version(value.__name__)
        if version is None:
            raise FingerprintError(
                f"the module {value.__name__} is passed around as a value: "
                "use its functions by name, or pass `version=`"
            )
        return _hash("python module", value.__name__.encode(), version.encode())

    def of_object(self, value: Any) -> bytes:
        """The fingerprint of any other object, from what pickle would store of it."""
        try:
            reducer = copyreg.dispatch_table.get(type(value))  # of a compiled pattern, for one
            reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except Exception as error:
            raise FingerprintError(
                f"a {_name(type(value)).decode()} has no content to compare between runs ({error}): remove it from "
                "the function's globals and from `context`, add a method __sweep_fingerprint__ to its class, or pass "
                "`version=` if it is part of the code"
            ) from error
        if isinstance(reduced, str):
            return _hash("named", _name(type(value)), reduced.encode())
        maker, arguments, state, items, pairs = (*reduced, None, None, None, None)[:5]
        parts = [type(value), maker, arguments, state, list(items or ()), list(pairs or ())]
        return _hash("object", self.all(parts))


def _stored(module: nn.Module) -> dict[str, Any]:
    """The attributes that a module stores: recurrent ones, for instance, leave out weak references to their weights."""
    getstate = getattr(type(module), "__getstate__", None)
    if getstate is None or getstate is getattr(object, "__getstate__", None):
        return vars(module)
    try:
        state = getstate(module)
    except Exception:  # a parametrized module refuses
        return vars(module)
    return state if isinstance(state, dict) else vars(module)


@functools.lru_cache(maxsize=1 << 12, typed=True)  # True equals 1
def _of_flag(name: str, value: bool | int | None) -> bytes:
    return _Walk().digest((name, value))


@functools.lru_cache(maxsize=1 << 12)
def _of_empty(name: str, kind: type) -> bytes:
    return _Walk().digest((name, kind()))


@functools.lru_cache(maxsize=1 << 14)  # code is immutable and contains only immutable objects
def _of_code(value: CodeType) -> bytes:
    documented = code_identity.has_docstring(value)  # a docstring decides nothing
    constants = (None, *value.co_consts[1:]) if documented else value.co_consts
    flags = value.co_flags & ~code_identity.DOCSTRING_FLAG
    names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
    return _hash("code", value.co_code, _Walk().all([constants, names, flags, value.co_exceptiontable]))


def _sequence(tag: str) -> Callable[[_Walk, Any], bytes]:
    return lambda walk, value: _hash(tag, _name(type(value)), walk.all(value))


_METHODS: tuple[tuple[Any, Callable[[_Walk, Any], bytes]], ...] = (
    (torch.Tensor, _Walk.of_tensor),
    (np.ndarray, _Walk.of_array),
    (np.generic, lambda walk, value: _hash("scalar", walk.of_array(np.asarray(value)))),
    (nn.Module, _Walk.of_module),
    (enum.Enum, lambda walk, value: _hash("enum", _name(type(value)), value.name.encode())),
    (torch.Size, _sequence("size")),
    (tuple, _sequence("tuple")),
    (list, _sequence("list")),
    (dict, lambda walk, value: _hash("dict", _name(type(value)), walk.all([*value, *value.values()]))),
    (set | frozenset, lambda walk, value: _hash("set", _name(type(value)), *sorted(map(walk.digest, value)))),
    (bytearray, lambda walk, value: _hash("bytearray", bytes(value))),
    (PurePath, lambda walk, value: _hash("path", os.fspath(value).encode())),
    (torch.dtype | torch.device | torch.layout, lambda walk, value: _hash("torch", str(value).encode())),
    (torch.Generator, lambda walk, value: _hash("generator", walk.digest(value.get_state()))),
    (CodeType, lambda _, value: _of_code(value)),
    (FunctionType, _Walk.of_function),
    (MethodType, lambda walk, value: _hash("method", walk.all([value.__self__, value.__func__]))),
    (BuiltinFunctionType, lambda walk, value: _hash("builtin", _builtin(walk, value))),
    (ModuleType, _Walk.of_python_module),
    (code_identity.ModuleUse, lambda walk, value: _hash("uses", value.name.encode(), walk.all(value.used))),
    (type, _Walk.of_class),
)


_REMEMBERED = 100
"""The longest texts that are remembered: names are shorter, and a document is hashed once."""


@functools.lru_cache(maxsize=1 << 12)  # the modules of a model are many, their classes few
def _method(kind: type) -> Callable[[_Walk, Any], bytes]:
    return next((method for kinds, method in _METHODS if issubclass(kind, kinds)), _Walk.of_object)


def _of_plain(value: Any) -> bytes:
    """The fingerprint of a plain value; names and flags recur in every module, so theirs are remembered.

    Only of Python's own types, whose equal values are the same: 0.0 equals -0.0, and an integer or a string of a
    subclass may equal another that differs, or have no hash.
    """
    short = type(value) in (str, bytes) and len(value) <= _REMEMBERED
    return _of_plain_once(value) if short or type(value) in (int, bool, type(None)) else _of_plain_now(value)


def _of_plain_now(value: Any) -> bytes:
    if isinstance(value, float):
        content = struct.pack(">d", value) if value == value else b"nan"
    elif isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, complex):
        content = _of_plain_now(value.real) + _of_plain_now(value.imag)
    else:
        content = value if isinstance(value, bytes) else repr(value).encode()
    return _hash("plain", _name(type(value)), content)


_of_plain_once = functools.lru_cache(maxsize=1 << 14, typed=True)(_of_plain_now)


def _builtin(walk: _Walk, value: Any) -> bytes:
    owner = getattr(value, "__self__", None)
    inside = b"" if owner is None or isinstance(owner, ModuleType) else walk.digest(owner)
    return _name(value) + inside


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is assigned later
        return None


def _name(value: Any) -> bytes:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}".encode()


def _number(*values: int) -> bytes:
    return repr(values).encode()


def _raw(value: np.ndarray) -> bytes:
    # Hashes the memory without copying it.
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()


def _hash(tag: str, *parts: bytes) -> bytes:
    digest = hashlib.sha256(tag.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
