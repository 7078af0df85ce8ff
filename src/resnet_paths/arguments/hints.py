"""Whether a value matches a type hint, and the hint in words.

A small reader of hints of our own. The usual ones (beartype, typeguard, pydantic) refuse NumPy numbers where Python
numbers are named, accept ``True`` as a number and NaN as a share, and report over several lines.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import numbers
import re
import types
import typing
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from .ranges import FINITE, Range
from .shown import _article

_WORDS: dict[Any, str] = {
    int: "an integer", float: "a number", bool: "True or False", str: "a string", bytes: "bytes", type(None): "None",
    PurePath: "a path", abc.Callable: "a function", dict: "a dict", abc.Mapping: "a dict", Any: "anything",
}  # fmt: skip


ELSEWHERE = "checked elsewhere"
"""Marks a hint that the function checks itself, with a more specific message."""


class WrongValueError(Exception):
    """The type is right but the value is not: a number out of range, or a word that is not among the choices."""


def fits(value: Any, hint: Any, within: Range = FINITE) -> bool:
    """Whether a value matches the hint; numbers must also be in the range.

    Raises:
        WrongValueError: the type matches but the value is out of range.

    Example:
        >>> fits(np.int64(3), int), fits(True, int), fits(3, float), fits([1, "a"], typing.Sequence[int])
        (True, False, True, False)
    """
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *marks = typing.get_args(hint)
        return ELSEWHERE in marks or fits(value, inner, within)
    if origin is typing.Literal:
        return _is_choice(value, typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return _fits_any(value, typing.get_args(hint), within)
    if isinstance(hint, typing.TypeVar):
        return _fits_any(value, hint.__constraints__ or (hint.__bound__ or Any,), within)
    if hint is Any or hint is object or isinstance(hint, str | typing.ForwardRef | typing.ParamSpec):
        return True
    return _matches_type(value, origin or hint, typing.get_args(hint), within)


def _is_choice(value: Any, choices: tuple[Any, ...]) -> bool:
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return True
    if any(type(value) is type(choice) for choice in choices):
        raise WrongValueError
    return False


def _fits_any(value: Any, hints: tuple[Any, ...], within: Range) -> bool:
    wrong: WrongValueError | None = None
    for hint in hints:
        try:
            if fits(value, hint, within):
                return True
        except WrongValueError as error:
            wrong = error
    if wrong is not None:
        raise wrong
    return False


def _matches_type(value: Any, kind: Any, inner: tuple[Any, ...], within: Range) -> bool:
    if kind in (int, float):
        return _is_number(value, kind, within)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is type:
        return isinstance(value, type)
    if kind is abc.Callable:
        return callable(value)
    if kind in (tuple, list, abc.Sequence, abc.Iterable, abc.Collection):
        return _is_sequence(value, kind, inner, within)
    if kind in (dict, abc.Mapping):
        return _is_mapping(value, kind, inner, within)
    if not isinstance(kind, type):
        return True
    if typing.is_typeddict(kind):
        return isinstance(value, dict)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in _members(kind))
    return isinstance(value, kind)


def _is_number(value: Any, kind: type, within: Range) -> bool:
    sort = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool | np.bool_) or not isinstance(value, sort):
        if kind is int and isinstance(value, numbers.Real) and not isinstance(value, bool):
            raise WrongValueError  # a number, but not an integer
        return False
    if not within.holds(value):
        raise WrongValueError
    return True


def _is_sequence(value: Any, kind: Any, inner: tuple[Any, ...], within: Range) -> bool:
    if isinstance(value, str | bytes | abc.Mapping) or not isinstance(value, abc.Iterable):
        return False
    if isinstance(value, np.ndarray | torch.Tensor):
        return kind not in (tuple, list) and _is_array(value, inner, within)
    if kind in (tuple, list) and not isinstance(value, tuple | list):  # JSON has no tuples, so a list is accepted
        return False
    if kind is tuple and inner and Ellipsis not in inner:
        held = within if within.nan else FINITE  # ranges are of counts and shares, not of the members of pairs
        return len(list(value)) == len(inner) and all(fits(*pair, held) for pair in zip(value, inner, strict=True))
    if kind is not abc.Iterable and not hasattr(value, "__len__"):
        return False
    if not inner or not isinstance(value, list | tuple):
        return True  # reading a generator here would exhaust it
    return all(fits(item, inner[0], within) for item in value)


def _is_array(value: Any, inner: tuple[Any, ...], within: Range) -> bool:
    """Whether an array or a tensor holds the numbers, or rows of numbers, that the hint names."""
    if not inner or inner[0] is Any or typing.get_origin(inner[0]) in (abc.Sequence, typing.Union, types.UnionType):
        return True
    if inner[0] not in (int, float):
        return inner[0] in (torch.Tensor, np.ndarray)
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bool or value.is_complex():
            return False
        value = value.detach().cpu().double().numpy()
    array: np.ndarray = value
    if array.dtype.kind not in "iuf" or array.ndim == 0:
        return False
    if inner[0] is int and not (array % 1 == 0).all():  # as for a list of floats
        raise WrongValueError
    if array.size and not (within.holds(float(array.min())) and within.holds(float(array.max()))):
        raise WrongValueError
    return True


def _is_mapping(value: Any, kind: Any, inner: tuple[Any, ...], within: Range) -> bool:
    if not isinstance(value, kind):
        return False
    if len(inner) != 2:
        return True
    return all(fits(key, inner[0]) and fits(item, inner[1], within) for key, item in value.items())


def _members(protocol: type) -> set[str]:
    named = set(getattr(protocol, "__protocol_attrs__", ())) or {
        name for name in (*vars(protocol), *getattr(protocol, "__annotations__", ())) if not name.startswith("_")
    }
    return named - {"__init__"}


def in_words(hint: Any, within: Range = FINITE) -> str:
    """A hint in words.

    Example:
        >>> print(in_words(int, Range(1)), "|", in_words(str | None), "|", in_words(typing.Literal["a", "b"]))
        an integer of at least 1 | a string | 'a' or 'b'
        >>> print(in_words(typing.Sequence[float]), "|", in_words(dict[str, torch.Tensor]))
        a sequence of numbers | a dict of strings and Tensors
        >>> print(in_words(typing.Sequence[int | torch.Tensor | Range]))
        a sequence of integers, Tensors or Ranges
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return in_words(inner[0], within)
    if origin is typing.Literal:
        return _or([repr(choice) for choice in inner])
    if isinstance(hint, typing.TypeVar):
        hint = hint.__bound__ or Any
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _or(list(dict.fromkeys(in_words(part, within) for part in inner if part is not type(None))))
    kind = origin or hint
    if kind in (int, float):
        return f"{_WORDS[kind]} {within}".rstrip()
    if kind in (tuple, list, abc.Sequence, abc.Iterable, abc.Collection):
        return _group(kind, inner, within)
    if kind in (dict, abc.Mapping) and len(inner) == 2 and Any not in inner:
        return f"a dict of {_plural(in_words(inner[0]))} and {_plural(in_words(inner[1], within))}"
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return _WORDS[PurePath]
    if kind is torch.nn.Module:
        return "a torch.nn.Module"
    return _WORDS.get(kind) or _article(getattr(kind, "__name__", str(kind)))


def _group(kind: Any, inner: tuple[Any, ...], within: Range) -> str:
    name = {tuple: "tuple", list: "list"}.get(kind, "sequence")
    if not inner or inner[0] is Any:
        return f"a {name}"
    if kind is tuple and Ellipsis not in inner:
        return f"a tuple of {len(inner)}: {', '.join(in_words(part) for part in inner)}"
    return f"a {name} of {_plural(in_words(inner[0], within))}"


def _plural(words: str) -> str:
    """The plural of a noun phrase with an article."""
    return "".join(map(_one_plural, re.split("( or |, )", words)))


def _one_plural(words: str) -> str:
    noun = words.removeprefix("a ").removeprefix("an ")
    if noun == words:
        return words
    for name in ("integer", "number", "sequence", "list", "tuple", "dict"):
        if name in noun:
            return noun.replace(name, f"{name}s", 1)
    return f"{noun}s"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def nest_of_tensors(value: Any) -> bool:
    """Whether a value may be a network's input: a batch, a nest with one inside, or an object of the model's own type.

    Example:
        >>> nest_of_tensors({"x": torch.ones(1)}), nest_of_tensors([1, "a"])
        (True, False)

    Raises:
        WrongValueError: a tensor has no examples.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim == 0 or not len(value):
            raise WrongValueError
        return True
    if isinstance(value, abc.Mapping):
        return any(map(nest_of_tensors, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(nest_of_tensors, value))
    plain = (type(None), bool, int, float, complex, str, bytes, type, np.ndarray, np.generic, PurePath)
    return not isinstance(value, plain) and not inspect.isroutine(value) and type(value) is not object
