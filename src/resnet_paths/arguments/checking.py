"""The one place where arguments are compared with what a function's signature and the words of its names say."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, overload

import torch

from .hints import WrongValueError, fits, in_words, nest_of_tensors
from .modes import no_autocast
from .ranges import FINITE, RANGES, Range
from .shown import shown

F = TypeVar("F", bound=Callable[..., Any])

_INPUTS = {"x", "example_input"}
"""Arguments that hold what a model is given: a nest of tensors, where their hint does not say more."""
_INPUT_WORDS = "an input that holds a tensor, of at least one example"


@overload
def checked(function: F, /) -> F: ...
@overload
def checked(**ranges: Range) -> Callable[[F], F]: ...
def checked(function: Any = None, /, **ranges: Range) -> Any:
    """Let a function, or a class when it is made, refuse arguments of a wrong kind or out of their range, in one line.

    It also runs without an autocast that is on around the call, so that the numbers are those of the types given.

    The kind is read from the type hints, the range of a number from its name (`RANGES` of
    :mod:`resnet_paths.arguments.ranges`).

    Args:
        function: what is checked; its signature and docstring stay.
        **ranges: ranges of arguments whose names mean something else in this function.

    Raises:
        TypeError: at a call, for an argument of another kind.
        ValueError: at a call, for a number out of its range or a word that is none of the choices.

    Cost: about 10 microseconds a call.

    Example:
        >>> @checked
        ... def mean(values: list[float], *, draws: int = 3) -> float: return sum(values) / len(values)
        >>> mean([1, 2], draws=0)
        Traceback (most recent call last):
        ValueError: expected draws as a whole number of at least 1 and at most 1,000,000,000, got 0
        >>> mean("ab")
        Traceback (most recent call last):
        TypeError: expected values as a list of numbers, got 'ab'
    """
    if function is None:
        return lambda later: checked(later, **ranges)
    if isinstance(function, type):
        function.__init__ = checked(function.__init__, **ranges)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_checks(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python says it well, and names the function
        check_arguments(function, given, ranges)
        with no_autocast():
            return function(*args, **kwargs)

    with_checks.__checks__ = True  # type: ignore[attr-defined]
    return with_checks


def without_checks(function: Any) -> Any:
    """The function itself: the checks decide no value, so that a fingerprint leaves them out."""
    while getattr(function, "__checks__", False):
        function = function.__wrapped__
    return function


def check_arguments(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    ranges: Mapping[str, Range] = MappingProxyType({}),
    named: Callable[[str], str] = str,
) -> None:
    """Compare arguments, by name, with what a function asks for; see :func:`checked`.

    Args:
        function: whose hints count.
        given: the arguments.
        ranges: ranges that differ from those of the names.
        named: what an argument is called in the message.
    """
    hints = _hints(function)
    for name, value in given.items():
        if name == "self" or name not in hints or (value is None and name in _optional(function)):
            continue
        hint = hints[name]
        if typing.get_origin(hint) is typing.Unpack:
            _check_options(value, typing.get_args(hint)[0], ranges, named)
            continue
        if isinstance(value, tuple) and name in _variable(function):
            for item in value:
                _check(name, item, hint, ranges, named)
            continue
        if name in _named_freely(function):
            for key, item in () if hint is Any else value.items():  # checked where they are handed on to
                _check(key, item, hint, ranges, named)
            continue
        _check(name, value, hint, ranges, named)


def _check_options(
    options: Mapping[str, Any], kind: Any, ranges: Mapping[str, Range], named: Callable[[str], str]
) -> None:
    hints = _hints(kind)
    for name, value in options.items():
        if name not in hints:
            raise TypeError(f"expected options among {', '.join(sorted(hints))}, got {name}={shown(value)}")
        _check(name, value, hints[name], ranges, named)


def _check(name: str, value: Any, hint: Any, ranges: Mapping[str, Range], named: Callable[[str], str]) -> None:
    within = ranges.get(name) or RANGES.get(name, FINITE)
    inputs = name in _INPUTS and hint in (Any, torch.Tensor)
    try:
        if (not inputs or nest_of_tensors(value)) and fits(value, hint, within):
            return
        kind: type[Exception] = TypeError
    except WrongValueError:
        kind = ValueError
    what = _INPUT_WORDS if inputs else in_words(hint, within)
    raise kind(f"expected {named(name)} as {what}, got {shown(value)}")


@functools.cache
def _hints(function: Any) -> dict[str, Any]:
    """Hints by name; a name that only type checkers import stands for anything."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        space = vars(sys.modules[function.__module__])
        known = {}
        for name, text in function.__annotations__.items():
            try:
                known[name] = eval(text, space) if isinstance(text, str) else text
            except NameError:
                known[name] = Any
        return known


@functools.cache
def _optional(function: Any) -> frozenset[str]:
    """Arguments that may be left out by None."""
    return frozenset(n for n, p in inspect.signature(function).parameters.items() if p.default is None)


@functools.cache
def _variable(function: Any) -> frozenset[str]:
    return _of_kind(function, inspect.Parameter.VAR_POSITIONAL)


@functools.cache
def _named_freely(function: Any) -> frozenset[str]:
    return _of_kind(function, inspect.Parameter.VAR_KEYWORD)


def _of_kind(function: Any, kind: Any) -> frozenset[str]:
    return frozenset(n for n, p in inspect.signature(function).parameters.items() if p.kind is kind)
