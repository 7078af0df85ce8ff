"""Tables for people: as narrow as possible, so that headers and names are not cut on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table


def table(title: str, left: Iterable[str] = (), right: Iterable[str] = ()) -> Table:
    """An empty table: first the text columns, then the numeric ones.

    Example:
        >>> len(table("Blocks", ["name"], ["error", "damage"]).columns)
        3
    """
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for name in left:
        made.add_column(name, overflow="fold")
    for name in right:
        made.add_column(name, justify="right", overflow="fold")
    return made


def show(screen: Console, shown: Table) -> None:
    """Print a table; outside a terminal (a log, a pipe) at the width that it needs."""
    if screen.is_terminal:
        screen.print(shown)
        return
    needed = screen.measure(shown, options=screen.options.update(width=10_000)).maximum
    screen.print(shown, width=max(needed, screen.width), soft_wrap=False, crop=False)
