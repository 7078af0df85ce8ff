"""The command group, and how a plain function becomes a command."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import typing
from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import Parameter
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from .. import __version__
from ._errors import print_error, user_errors

F = TypeVar("F", bound=Callable[..., None])


class Commands(TyperGroup):
    """The group of all commands. Errors of the parser are one line too, like those of the commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; see typer."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except Exception as error:
            # Newer versions of typer hold their own copy of click: what counts is what the exception can do.
            if not hasattr(error, "format_message"):
                raise
            sys.exit(_told(error))
        sys.exit(code if isinstance(code, int) else 0)


def _told(error: Any) -> int:
    """Print a one-line error (or the help if there are no arguments); return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "resnet-paths"
    message = str(error.format_message()).replace("Value error, ", "").strip().rstrip(".")
    print_error(f"{message}; see {where} --help")
    return int(error.exit_code)


app = typer.Typer(name="resnet-paths", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See inside residual networks as ensembles of 2^n paths, and make them smaller."""


def command(*examples: str, note: str = "") -> Callable[[F], F]:
    """Register a function as a command: its name, docstring and arguments give the name, help and options.

    Args:
        examples: command lines shown in the help.
        note: the last line of the help.
    """
    epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in examples), *filter(None, [note])])

    def register(function: F) -> F:
        app.command(epilog=epilog)(user_errors(ungrouped(function)))
        return function

    return register


def _with_home(value: Any) -> Any:
    """A text that begins with ~ as a path from the home folder, which a shell leaves alone in --model=~/net.pt."""
    if isinstance(value, list | tuple):
        return type(value)(map(_with_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def ungrouped(function: Callable[..., None]) -> Callable[..., None]:
    """The same function, with each field of its dataclass arguments as a separate keyword argument."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    single: list[Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            single.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
            continue
        groups[name] = hints[name]
        inner = typing.get_type_hints(hints[name], include_extras=True)
        single += [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=inner[field.name])
            for field in dataclasses.fields(hints[name])
        ]

    @wraps(function)
    def run(**given: Any) -> None:
        given = {name: _with_home(value) for name, value in given.items()}
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        function(**made, **given)

    run.__signature__ = inspect.Signature(single)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in single}
    return run
