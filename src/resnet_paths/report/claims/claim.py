"""A claim of a paper, and how it is measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .evidence import Evidence


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        text: in words, with the numbers.
        holds: whether the claim holds here; None where this size cannot tell.
        numbers: the numbers by name.
    """

    text: str
    holds: bool | None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold`` or ``cannot be told``."""
        return {True: "holds", False: "does not hold", None: "cannot be told"}[self.holds]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: by which it is asked for.
        where: section, figure or table of the paper.
        statement: what the paper says, in our words.
        expected: what must be seen here for it to hold.
        measure: from the evidence to what is found.
    """

    name: str
    where: str
    statement: str
    expected: str
    measure: Callable[[Evidence], Measured]


@dataclass(frozen=True)
class Paper:
    """A paper and those of its claims that are measured.

    Attributes:
        name: by which it is asked for.
        citation: authors, title, year.
        claims: in the order of the paper.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]
