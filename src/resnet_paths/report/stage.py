"""A stage of the report: one file in ``stages/``, one section of the page.

Stages know nothing of each other and are points of one sweep: each may fail, be left out or come from the journal
without the others. Their options are plain values. Those that are sizes (numbers of images, draws, orders, grid points)
follow one scale per stage, from the smallest meaningful ones, through those of a quick report, to those of a full one.
The budget chooses the level on this scale from its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .effort import Effort
from .section import Section
from .subject import Subject

Options = Mapping[str, Any]
LEAST, QUICK, FULL = 0.0, 1.0, 2.0


Words = Callable[[Subject], tuple[str, str]]


class NotApplicableError(Exception):
    """A stage does not apply to this model or these examples; the message says why."""


def no_effort(subject: Subject, options: Options) -> Effort:
    """The effort of a stage that takes next to no time."""
    return Effort()


@dataclass(frozen=True)
class Stage:
    """A stage of the report.

    Attributes:
        name: for `skip`.
        title: of its section.
        question: the question that the section answers, in one sentence.
        run: from the subject and the options to the section.
        quick: its options in a quick report: numbers of images, draws and so on.
        full: what a full report changes in them.
        weight: its share of a budget that is too short for all stages, relative to the others.
        least: what changes in the quick options where time is short; with less the results would be meaningless.
        effort: what it costs with given options.
        worded: title and question for a subject, where they depend on its metric.
    """

    name: str
    title: str
    question: str
    run: Callable[[Subject, Options], Section]
    quick: Options
    full: Options
    weight: float = 1.0
    least: Options = field(default_factory=dict)
    effort: Callable[[Subject, Options], Effort] = no_effort
    worded: Words | None = None

    def about(self, subject: Subject) -> Stage:
        """The stage with the title and the question for a subject."""
        if self.worded is None:
            return self
        title, question = self.worded(subject)
        return replace(self, title=title, question=question)

    def options(self, level: float = QUICK, changed: Options | None = None) -> dict[str, Any]:
        """The options at a level, some of them given.

        Args:
            level: 0 for the least, 1 for a quick report, 2 for a full one; sizes between are on a geometric scale.
            changed: options that do not follow the level.

        Raises:
            ValueError: an option that the stage does not have.

        Example:
            >>> stage = Stage("a", "A", "?", lambda *_: Section(()), {"draws": 16}, {"draws": 64}, least={"draws": 4})
            >>> [stage.options(level)["draws"] for level in (0, 0.5, 1, 1.5, 2)]
            [4, 8, 16, 32, 64]
        """
        unknown = sorted(set(changed or {}) - {*self.quick, *self.full})
        if unknown:
            known = ", ".join({**self.quick, **self.full}) or "none"
            raise ValueError(f"expected options of the stage {self.name} among {known}, got {unknown[0]!r}")
        low, high, part = (
            ({**self.quick, **self.least}, self.quick, level)
            if level <= QUICK
            else (self.quick, {**self.quick, **self.full}, level - QUICK)
        )
        return {name: _between(low[name], high[name], part) for name in high} | dict(changed or {})


def _between(low: Any, high: Any, part: float) -> Any:
    """A size between two, on a geometric scale; other values are `low` up to the end."""
    if part >= 1 or low == high:
        return high
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and end > 0 for end in (low, high))
    if not numbers:
        return low
    value = low * (high / low) ** part
    return round(value) if isinstance(low, int) and isinstance(high, int) else float(f"{value:.3g}")
