"""What a stage passes to the page: figures with readings, tables, warnings; plain data that can be stored.

Plain data, because a finished stage goes to the journal as JSON and comes back in a later run, perhaps of the next
release: nothing on the page may depend on objects that only the process that computed them had. Tables are kept as CSV
with all digits, which is also what the reader downloads.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ..nouns import counted, plural
from .words import percent, seconds


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        svg: the drawing; its marks hold the values that are shown when one points at them.
        alt: the alternative text.
    """

    svg: str
    alt: str


@dataclass(frozen=True)
class Table:
    """Numbers to read and to download.

    Attributes:
        name: of the file, without suffix.
        title: above the table.
        csv: the numbers in full.
        texts: columns of texts; names such as 1, 007 and NA stay what they are.
    """

    name: str
    title: str
    csv: str
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, title: str, frame: pd.DataFrame) -> Table:
        """A table of a data frame, every number in full.

        Example:
            >>> table = Table.of("two", "Two numbers", pd.DataFrame({"a": [0.1, 1 / 3]}))
            >>> table.frame()["a"].tolist() == [0.1, 1 / 3]
            True
            >>> Table.of("two", "Two names", pd.DataFrame({"name": ["007", "NA"]})).frame()["name"].tolist()
            ['007', 'NA']
        """
        texts = tuple(str(column) for column in frame if all(isinstance(value, str) for value in frame[column]))
        return cls(name, title, frame.to_csv(index=False), texts)

    def frame(self) -> pd.DataFrame:
        """The numbers, bit-identical to those given."""
        columns = next(csv.reader(io.StringIO(self.csv)), [])
        return pd.read_csv(
            io.StringIO(self.csv),
            float_precision="round_trip",
            dtype=dict.fromkeys(self.texts, str),
            na_values={column: [""] for column in columns if column not in self.texts},
            keep_default_na=False,
        )

    def rows(self) -> list[dict[str, Any]]:
        r"""The numbers row by row, by the names of their columns.

        Example:
            >>> Table("two", "Two rows", "a,b\n1,x\n2,y\n").rows()[1]
            {'a': 2, 'b': 'y'}
        """
        return [{str(name): value for name, value in row.items()} for row in self.frame().to_dict("records")]


@dataclass(frozen=True)
class Part:
    """A figure (or none), its reading, and its numbers.

    Attributes:
        title: a few words.
        reading: plain sentences computed from the numbers.
        picture: or None.
        tables: the numbers.
        code: Python lines that carry out the recommendation, or "".
        explorer: what :func:`resnet_paths.report.explorer_data` gives, shown as the explorer, or "".
        surface: what ``resnet_paths.report.relief.relief_data`` gives, shown as a surface that can be rotated, or "".
    """

    title: str
    reading: tuple[str, ...]
    picture: Picture | None = None
    tables: tuple[Table, ...] = ()
    code: str = ""
    explorer: str = ""
    surface: str = ""


@dataclass(frozen=True)
class Headline:
    """The top of the page.

    Attributes:
        title: the finding, in one line.
        numbers: for each, its name, the number, and a note below it.
        code: Python lines that carry out the recommendation, or "".
        dropped: the blocks that it drops.
    """

    title: str
    numbers: tuple[tuple[str, str, str], ...] = ()
    code: str = ""
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass without some blocks, measured in turn with the full network.

    There is one measurement for the page: whatever names a time of these blocks shows this one, in these words.

    Attributes:
        dropped: the blocks.
        batch: number of examples of the pass.
        seconds: its time.
        full: the full network's.
        share: the share of the full network's time.
        low: lower end of the share's 95 % interval.
        high: its upper end.
        noun: what one example of the batch is called.
    """

    dropped: tuple[int, ...]
    batch: int
    seconds: float
    full: float
    share: float = 1.0
    low: float = 1.0
    high: float = 1.0
    noun: str = "image"

    @property
    def nouns(self) -> str:
        """What the examples are called."""
        return plural(self.noun)

    @property
    def is_less(self) -> bool:
        """Whether the interval shows that time is saved."""
        return self.high < 1

    @property
    def below(self) -> str:
        """The note below the share.

        Example:
            >>> Latency((3,), 32, 0.009, 0.012, 0.75, 0.7, 0.8).below
            '9 ms of 12 ms for 32 images; 95 % interval 70 % to 80 %'
            >>> Latency((3,), 32, 0.012, 0.012, 1.0, 0.9, 1.1).below
            '12 ms of 12 ms for 32 images; 95 % interval 90 % to 110 %: not shown to be less'
            >>> Latency((), 1, 0.012, 0.012).below
            '12 ms for 1 image'
        """
        examples = counted(self.batch, self.noun)
        if not self.dropped:
            return f"{seconds(self.full)} for {examples}"
        shown = "" if self.is_less else ": not shown to be less"
        return (
            f"{seconds(self.seconds)} of {seconds(self.full)} for {examples}; 95 % interval {percent(self.low)} to "
            f"{percent(self.high)}{shown}"
        )


@dataclass(frozen=True)
class Section:
    """The results of a stage.

    Attributes:
        parts: in the order of the page.
        findings: one or two sentences for the top of the page.
        warnings: reasons to doubt these numbers.
        headline: for the top of the page, if this stage has one.
        latencies: the times of sets of blocks, if this stage measures them.
    """

    parts: tuple[Part, ...]
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    headline: Headline | None = None
    latencies: tuple[Latency, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of all parts."""
        return tuple(table for part in self.parts for table in part.tables)

    def to_json(self) -> str:
        """Serialise it, for the journal."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Section:
        r"""The section that :meth:`to_json` wrote.

        Example:
            >>> section = Section((Part("a", ("b",), tables=(Table("t", "T", "x\n1\n", ("x",)),)),))
            >>> Section.from_json(section.to_json()) == section
            True
        """
        content = json.loads(text)
        headline = content["headline"]
        return cls(
            tuple(_part(part) for part in content["parts"]),
            tuple(content["findings"]),
            tuple(content["warnings"]),
            None
            if headline is None
            else Headline(
                headline["title"],
                tuple(map(tuple, headline["numbers"])),
                headline["code"],
                tuple(headline["dropped"]),
            ),
            tuple(Latency(**latency | {"dropped": tuple(latency["dropped"])}) for latency in content["latencies"]),
        )


def _part(content: dict[str, Any]) -> Part:
    picture = content["picture"]
    return Part(
        title=content["title"],
        reading=tuple(content["reading"]),
        picture=None if picture is None else Picture(**picture),
        tables=tuple(Table(**table | {"texts": tuple(table["texts"])}) for table in content["tables"]),
        code=content["code"],
        explorer=content["explorer"],
        surface=content["surface"],
    )
