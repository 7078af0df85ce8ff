"""A stage of the report: one file in ``stages/``, one section of the page.

Stages know nothing of each other and are points of one sweep: each may fail, be left out or come from the journal
without the others. Their options are plain values, which name the point; the two budgets differ in options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..choices import Budget
from .section import Section
from .subject import Subject

BUDGETS: tuple[Budget, ...] = get_args(Budget)
Options = Mapping[str, Any]


NO_GRADIENT = "the gradient of the loss at the input is zero for all images: there is nothing to split"


class NotApplicableError(Exception):
    """A stage does not apply to this model or these images; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A stage of the report.

    Attributes:
        name: for `skip`.
        title: of its section.
        question: the question that the section answers, in one sentence.
        run: from the subject and the options of a budget to the section.
        quick: its options under the quick budget: numbers of images, draws and so on.
        full: what the full budget changes in them.
        weight: its approximate running time relative to the other stages (for the remaining time).
    """

    name: str
    title: str
    question: str
    run: Callable[[Subject, Options], Section]
    quick: Options
    full: Options
    weight: float = 1.0

    def options(self, budget: Budget, changed: Options | None = None) -> dict[str, Any]:
        """The options under a budget, with some of them changed.

        Raises:
            ValueError: an option that the stage does not have.
        """
        known = {**self.quick, **(self.full if budget == "full" else {})}
        unknown = sorted(set(changed or {}) - set(known))
        if unknown:
            raise ValueError(
                f"expected options of the stage {self.name} among {', '.join(known) or 'none'}, got {unknown[0]!r}"
            )
        return {**known, **(changed or {})}
