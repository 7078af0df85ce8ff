"""What a stage hands to the page: pictures with their readings, tables, warnings; plain, so that it can be kept."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Picture:
    """A picture at two widths.

    Attributes:
        wide: SVG for screens.
        narrow: SVG for phones.
        alt: what it shows, in words, for those who do not see it.
    """

    wide: str
    narrow: str
    alt: str


@dataclass(frozen=True)
class Table:
    """Numbers to read and to download.

    Attributes:
        name: of the file, without ending.
        title: above the table.
        csv: the numbers in full.
    """

    name: str
    title: str
    csv: str

    @classmethod
    def of(cls, name: str, title: str, frame: pd.DataFrame) -> Table:
        """A table of a data frame, every number in full.

        Example:
            >>> table = Table.of("two", "Two numbers", pd.DataFrame({"a": [0.1, 1 / 3]}))
            >>> table.frame()["a"].tolist() == [0.1, 1 / 3]
            True
        """
        return cls(name, title, frame.to_csv(index=False))

    def frame(self) -> pd.DataFrame:
        """The numbers, bit by bit those that were given."""
        return pd.read_csv(io.StringIO(self.csv), float_precision="round_trip")


@dataclass(frozen=True)
class Part:
    """A picture (or none), what it says, and its numbers.

    Attributes:
        title: a few words.
        reading: plain sentences computed from the numbers.
        picture: or None.
        tables: the numbers.
        code: lines of Python that do what the reading recommends, or "".
    """

    title: str
    reading: tuple[str, ...]
    picture: Picture | None = None
    tables: tuple[Table, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Section:
    """What a stage found.

    Attributes:
        parts: in the order of the page.
        findings: the one or two sentences for the top of the page.
        warnings: reasons to doubt these numbers.
    """

    parts: tuple[Part, ...]
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """Those of all parts."""
        return tuple(table for part in self.parts for table in part.tables)

    def to_json(self) -> str:
        """One text, for the journal."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Section:
        r"""The section that :meth:`to_json` wrote.

        Example:
            >>> section = Section((Part("a", ("b",), tables=(Table("t", "T", "x\n1\n"),)),), warnings=("few images",))
            >>> Section.from_json(section.to_json()) == section
            True
        """
        content = json.loads(text)
        return cls(
            tuple(_part(part) for part in content["parts"]), tuple(content["findings"]), tuple(content["warnings"])
        )


def _part(content: dict[str, Any]) -> Part:
    picture = content["picture"]
    return Part(
        title=content["title"],
        reading=tuple(content["reading"]),
        picture=None if picture is None else Picture(**picture),
        tables=tuple(Table(**table) for table in content["tables"]),
        code=content["code"],
    )
