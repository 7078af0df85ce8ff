"""A claim of a paper, and how it is measured here.

Each claim stands once, in the module of its paper: what the paper says, what must be observed, and the rule that
decides. ``resnet-paths reproduce`` measures it in a quick version; the studies under ``analysis/`` measure more images
or train longer, and hand their results to the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .evidence import Evidence
from .rules import word


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Attributes:
        text: in words, with the numbers.
        holds: whether the claim holds here, or the check agrees; None if inconclusive.
        numbers: the numbers by name.
    """

    text: str
    holds: bool | None
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    A **claim** is about how networks behave; the measurement can turn out either way. A **check** follows from
    definitions: if it agrees, this library computes what the paper defines. It says nothing about networks.

    Attributes:
        name: its identifier.
        where: section, figure or table of the paper.
        statement: what the paper says, in our words.
        expected: what must be observed for it to hold.
        measure: from the evidence to a measurement.
        kind: ``claim`` or ``check``.
    """

    name: str
    where: str
    statement: str
    expected: str
    measure: Callable[[Evidence], Measured]
    kind: Literal["claim", "check"] = "claim"

    def verdict(self, measured: Measured) -> str:
        """``holds`` or ``does not hold``; for a check ``agrees`` or ``disagrees``; or ``inconclusive``."""
        if self.kind == "claim" or measured.holds is None:
            return word(measured.holds)
        return "agrees" if measured.holds else "disagrees"


@dataclass(frozen=True)
class Paper:
    """A paper and its measured statements.

    Attributes:
        name: its identifier.
        citation: authors, title, year.
        claims: in the order of the paper.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]

    def table(self, measured: Mapping[str, Measured]) -> list[str]:
        """Rows of a table in Markdown, for those of the claims that were measured, by their names."""
        rows = [
            (f"{claim.statement} ({claim.where})", claim.expected, one.text, claim.verdict(one))
            for claim in self.claims
            if (one := measured.get(claim.name)) is not None
        ]
        lines = ["| claim | expected | measured | verdict |", "|---|---|---|---|"]
        return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
