"""Wrong use of the command line in one line: what is wrong, and where the help is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from typer.core import TyperGroup

from ._common import print_error


class Commands(TyperGroup):
    """The group of all commands; errors of its parser are one line too, like those of the commands."""

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
    """Says it in one line (or shows the help, where nothing was asked for); the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "resnet-paths"
    print_error(f"{str(error.format_message()).strip().rstrip('.')}; see {where} --help")
    return int(error.exit_code)
