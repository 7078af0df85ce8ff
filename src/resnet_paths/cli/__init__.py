"""The commands; the same words as in Python."""

from __future__ import annotations

from typing import Annotated

import typer

from . import landscape, lesion, paths, plan, report, reproduce, shrink, train, unroll
from ._group import Commands

app = typer.Typer(
    name="resnet-paths",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="See inside residual networks as ensembles of 2^n paths, and make them cheaper.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See inside residual networks as ensembles of 2^n paths, and make them cheaper."""


for command in (unroll, lesion, paths, plan, shrink, landscape, train, report, reproduce):
    command.register(app)


def main() -> None:
    """Run the command line."""
    app()
