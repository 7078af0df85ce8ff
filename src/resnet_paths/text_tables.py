"""Tables for people: names and headers in full at every width of the terminal."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

_GAP = 1  # letters between columns
_USUAL = 80  # letters of a line where nobody says
_WIDE = 10_000  # letters: no limit


class FittingTable(Table):
    """A table that breaks lines only between words; where that does not fit, each row is a list of headers and values.

    rich's own table breaks or cuts words once its columns are too narrow.

    Example:
        >>> from rich.console import Console
        >>> made = table("Blocks", ["name"], ["error", "damage"])
        >>> made.add_row("encoder.layers.11.mlp", "0.123", "+0.010")
        >>> Console(width=24).print(made)  # doctest: +NORMALIZE_WHITESPACE
        Blocks
        name encoder.layers.11.mlp
          error 0.123
          damage +0.010
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The columns, or the rows one below the other."""
        texts, least, between = self._least(console)
        widths = [max((line.cell_len for cell in cells for line in cell.split()), default=0) for cells in texts]
        room = options.max_width - between
        if self.title:  # over the whole terminal, not only the columns
            yield Text.assemble((_text(console, self.title).plain, "bold"))
        if sum(least) > room:
            yield from self._upright(console, options.max_width)
        else:
            while sum(widths) > room:  # the widest that can still break its lines
                widest = max(range(len(widths)), key=lambda place: (widths[place] > least[place], widths[place]))
                widths[widest] -= 1
            yield from Table.__rich_console__(self._of_widths(widths), console, options)
        if self.caption:
            yield _text(console, self.caption)

    def fits(self, console: Console, width: int) -> bool:
        """Whether the rows stay rows at a width."""
        _, least, between = self._least(console)
        return sum(least) <= width - between

    def _least(self, console: Console) -> tuple[list[list[Text]], list[int], int]:
        """The texts of each column, the least width of each, and the letters of a line that belong to none."""
        texts = [[_text(console, cell) for cell in (column.header, *column.cells)] for column in self.columns]
        least = [_longest(column, cells) for column, cells in zip(self.columns, texts, strict=True)]
        return texts, least, self._of_widths(least)._between(console)

    def _of_widths(self, widths: list[int]) -> FittingTable:
        made = copy.copy(self)
        made.title = made.caption = None
        made.columns = [replace(column, width=width) for column, width in zip(self.columns, widths, strict=True)]
        return made

    def _between(self, console: Console) -> int:
        """Letters of a line that belong to no column, in a table whose columns have widths."""
        whole = Table.__rich_measure__(self, console, console.options.update(width=_WIDE)).maximum
        return whole - sum(column.width or 0 for column in self.columns)

    def _upright(self, console: Console, room: int) -> RenderResult:
        heads = [_text(console, column.header).plain for column in self.columns]
        for index, cells in enumerate(zip(*(column.cells for column in self.columns), strict=True)):
            line = Text(style=self.rows[index].style or "")
            for head, cell in zip(heads, cells, strict=True):
                value = _text(console, cell)
                if not value.plain.strip():
                    continue
                pair = Text.assemble((f"{head} " if head else "", "dim"), " ".join(value.plain.split()))
                if line and line.cell_len + 3 + pair.cell_len > room:
                    yield line
                    line = Text("  ", style=line.style)
                elif line:
                    line.append("   ")
                line.append_text(pair)
            yield line


def _text(console: Console, cell: object) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _longest(column: Column, cells: list[Text]) -> int:
    """Letters of the longest part that must stay on one line."""
    parts = [cell.plain.splitlines() if column.no_wrap else cell.plain.split() for cell in cells]
    return max((Text(part).cell_len for some in parts for part in some), default=0)


def table(title: str, left: Iterable[str] = (), right: Iterable[str] = ()) -> FittingTable:
    """An empty table: first the text columns, then the numeric ones.

    Example:
        >>> len(table("Blocks", ["name"], ["error", "damage"]).columns)
        3
    """
    made = FittingTable(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP), collapse_padding=True)
    for name in left:
        made.add_column(name)
    for name in right:
        made.add_column(name, justify="right")
    return made


def show(screen: Console, shown: Table) -> None:
    """Print a table; outside a terminal (a log, a pipe) in 80 columns, or where rows need more at their width."""
    width = screen.width
    if not screen.is_terminal:
        fits = not isinstance(shown, FittingTable) or shown.fits(screen, _USUAL)
        screen.width = _USUAL if fits else _WIDE  # the argument of print cannot exceed it
    try:
        screen.print(shown, soft_wrap=False, crop=False)
    finally:
        screen.width = width
