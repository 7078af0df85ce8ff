"""Errors by origin: invalid use in one line, the user's code with its traceback, our bugs with a request to report."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

import resnet_paths as rp

from ._places import check_place
from .options import Place

TRACEBACK = "RESNET_PATHS_TRACEBACK"
"""The environment variable that shows the traceback of every error."""
_LONGEST = 700
_OWN = Path(__file__).resolve().parents[1]


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command after checking its options, and report errors by their origin.

    - Invalid use: one line, exit code 2.
    - An error in the user's own code (``--model mine.py:build``): its traceback from there on, exit code 1.
    - Anything else is a bug of this package: the traceback, and a request to report it, exit code 1.
    """
    options = _Options(command)

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            options.check(kwargs)
            with warnings.catch_warnings():
                warnings.showwarning = _warned
                return command(*args, **kwargs)
        except KeyboardInterrupt as stopped:
            print_error(
                str(stopped)
                or "stopped; finished work is kept, and the same command resumes where it has a journal or a folder"
            )
            raise typer.Exit(130) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message"):
                raise
            raise typer.Exit(_told(error)) from None

    return run


class _Options:
    """The options of a command, by argument name."""

    def __init__(self, command: Callable[..., Any]) -> None:
        self.command = command
        self.hints = typing.get_type_hints(command, include_extras=True)

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse wrong values before any work starts."""
        for name, value in given.items():
            if isinstance(value, str) and not value.strip():
                raise ValueError(
                    f"expected a value for {self.named(name)}, got {value!r}; leave it out for the default"
                )
        # of blocks to drop and of goals of plans, in every command
        ranges = {
            "count": rp.arguments.ranges.NONE_OR_MORE,
            "latency": rp.arguments.ranges.INSIDE,
            "disagreement": rp.arguments.ranges.INSIDE,
            "rise": rp.arguments.ranges.NOT_NEGATIVE,
        }
        rp.arguments.check_arguments(self.command, given, ranges, self.named)
        for name, value in given.items():
            for place in self._extras(name):
                if isinstance(place, Place) and value is not None:
                    check_place(value, place, self.named(name))

    def named(self, argument: str) -> str:
        """``--batch-size`` for ``batch_size``; for positional arguments, the name."""
        for extra in self._extras(argument):
            if hasattr(extra, "param_decls"):  # what typer.Option gives; in Annotated its first name is the default
                declared = [extra.default, *(extra.param_decls or ())]
                flags = [part for part in declared if isinstance(part, str) and part.startswith("--")]
                return flags[0].partition("/")[0] if flags else f"--{argument.replace('_', '-')}"
        return argument.upper()

    def _extras(self, argument: str) -> tuple[Any, ...]:
        hint = self.hints.get(argument)
        return typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()


@contextmanager
def reading(option: str, value: str) -> Iterator[None]:
    """Turn any error raised while reading something that the user named into one line about it.

    Files come from anywhere, and the libraries that read them raise what they like (``EOFError``, ``RuntimeError``,
    ``RecursionError``); ``RESNET_PATHS_TRACEBACK=1`` shows where it came from.
    """
    try:
        yield
    except Exception as error:
        if _is_about_input(error) or isinstance(error, typer.Exit | typer.Abort) or _users_frames(error) is not None:
            raise
        raise ValueError(
            f"expected something that can be read as {option}, got {value!r}: {_first_line(error)}"
        ) from error


def say(text: str) -> None:
    """Print one line on stderr, beside the command's output."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, style="dim", markup=False)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """Print a warning in one line, without its location in the code."""
    if issubclass(category, (UserWarning, RuntimeWarning)):
        say(f"warning: {' '.join(str(message).split())}")


def print_error(text: str) -> None:
    """Print one error line on stderr."""
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}... ({TRACEBACK}=1 shows all)"
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {escape(line)}")


def _told(error: Exception) -> int:
    """Report the error; return the exit code."""
    everything = bool(os.environ.get(TRACEBACK))
    if everything:
        traceback.print_exception(error, file=sys.stderr)
    own = _users_frames(error)
    if own is not None:
        if not everything:
            traceback.print_exception(type(error), error, own, file=sys.stderr, chain=False)
        print_error(f"your code raised {_first_line(error)}")
        return 1
    if rp.sweep.is_out_of_memory(error):
        print_error(f"out of memory: {_first_line(error)}; use fewer or smaller images, or a smaller model")
        return 2
    if _is_about_input(error):
        print_error(str(error) or type(error).__name__)
        return 2
    if not everything:
        traceback.print_exception(error, file=sys.stderr)
    print_error("this is a bug in resnet_paths, not yours; please report it with the lines above and the command")
    return 1


def _is_about_input(error: Exception) -> bool:
    """Whether the library raises this type for wrong arguments; other types are bugs."""
    kinds = (ValueError, TypeError, OSError, ImportError, FloatingPointError, rp.sweep.SweepError)
    return isinstance(error, kinds)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _users_frames(error: BaseException) -> Any:
    """The part of a traceback from the first file that is neither ours, nor installed, nor Python's own."""
    trace = error.__traceback__
    while trace is not None:
        if _is_users(trace.tb_frame):
            return trace
        trace = trace.tb_next
    return None


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<"):  # generated code, of torch.fx for one
        return False
    path = Path(file).resolve()
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    parts = {"site-packages", "dist-packages"} & set(path.parts)
    return not parts and not any(path.is_relative_to(place) for place in (_OWN, *installed))
