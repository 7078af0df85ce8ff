"""The decorator that compares arguments with a function's type hints and with the ranges that go with their names.

Checks sit on public functions only, and in one place, so that wrong input is refused before any computation and
internal calls pay nothing. The hints already state the types; only ranges are added, by argument name.
"""

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

EXPLAIN: list[Callable[[Exception, Mapping[str, Any]], None]] = []
"""Called with what a checked function raises and its arguments, to raise instead what a user can act on."""
_INPUTS = {"x", "example_input"}
"""Arguments that are a model's input: a nest of tensors, unless their hint says more."""
_INPUT_WORDS = "an input that contains a tensor, of at least one example"


@overload
def checked(function: F, /) -> F: ...
@overload
def checked(**ranges: Range) -> Callable[[F], F]: ...
def checked(function: Any = None, /, **ranges: Range) -> Any:
    """Make a function, or a class's constructor, refuse arguments of a wrong type or out of range with one line.

    The call also runs outside any surrounding autocast, so that results have the precision of the given dtypes.

    Types come from the type hints, the range of a number from the argument's name (`RANGES` of
    :mod:`resnet_paths.arguments.ranges`).

    Args:
        function: the function or class to check; its signature and docstring are kept.
        **ranges: ranges of arguments whose names have another meaning in this function.

    Raises:
        TypeError: at a call, if an argument has another type.
        ValueError: at a call, if a number is out of its range or a word is not among the choices.

    Cost: about 10 microseconds per call.

    Example:
        >>> @checked
        ... def mean(values: list[float], *, draws: int = 3) -> float: return sum(values) / len(values)
        >>> mean([1, 2], draws=0)
        Traceback (most recent call last):
        ValueError: expected draws to be an integer of at least 1 and at most 1,000,000,000, got 0
        >>> mean("ab")
        Traceback (most recent call last):
        TypeError: expected values to be a list of numbers, got 'ab'
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
            return function(*args, **kwargs)  # Python's own message names the function and the argument
        check_arguments(function, given, ranges)
        try:
            with no_autocast():
                return function(*args, **kwargs)
        except Exception as error:
            for explain in EXPLAIN:
                explain(error, given)
            raise

    with_checks.__checks__ = True  # type: ignore[attr-defined]
    return with_checks


def without_checks(function: Any) -> Any:
    """The undecorated function; checks do not affect results, so fingerprints leave them out."""
    while getattr(function, "__checks__", False):
        function = function.__wrapped__
    return function


def check_arguments(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    ranges: Mapping[str, Range] = MappingProxyType({}),
    named: Callable[[str], str] = str,
) -> None:
    """Compare arguments by name with a function's hints and ranges; see :func:`checked`.

    Args:
        function: the function whose hints apply.
        given: the arguments.
        ranges: ranges that replace those of the names.
        named: maps an argument to its name in the message (an option of the command line).
    """
    hints = _hints(function)
    for name, value in given.items():
        if name == "self" or name not in hints or (value is None and name in _optional(function)):
            continue
        hint = hints[name]
        if typing.get_origin(hint) is typing.Unpack:
            _check_options(value, typing.get_args(hint)[0], ranges, named)
            continue
        if isinstance(value, tuple) and name in _positional_rest(function):
            for item in value:
                _check(name, item, hint, ranges, named)
            continue
        if name in _keyword_rest(function):
            for key, item in () if hint is Any else value.items():  # the function that receives them checks them
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
    what = _INPUT_WORDS if inputs and hint is Any else in_words(hint, within) + " of at least one example" * inputs
    raise kind(f"expected {named(name)} to be {what}, got {shown(value)}")


@functools.cache
def _hints(function: Any) -> dict[str, Any]:
    """Hints by name; a hint imported only under TYPE_CHECKING counts as Any."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        space = vars(sys.modules[function.__module__])
        hints = {}
        for name, text in function.__annotations__.items():
            try:
                hints[name] = eval(text, space) if isinstance(text, str) else text
            except NameError:
                hints[name] = Any
        return hints


@functools.cache
def _optional(function: Any) -> frozenset[str]:
    """Arguments whose default is None, which is then allowed."""
    return frozenset(n for n, p in inspect.signature(function).parameters.items() if p.default is None)


@functools.cache
def _positional_rest(function: Any) -> frozenset[str]:
    return _of_kind(function, inspect.Parameter.VAR_POSITIONAL)


@functools.cache
def _keyword_rest(function: Any) -> frozenset[str]:
    return _of_kind(function, inspect.Parameter.VAR_KEYWORD)


def _of_kind(function: Any, kind: Any) -> frozenset[str]:
    return frozenset(n for n, p in inspect.signature(function).parameters.items() if p.kind is kind)
