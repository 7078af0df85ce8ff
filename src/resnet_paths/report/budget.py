"""A time budget, divided among the stages one after another.

Each stage in turn gets a share of the remaining time that leaves enough for the stages after it. If there is time for
the full sizes of all stages, they get them. Otherwise each gets at least its smallest sizes, and the rest is divided by
weight. If not even that fits, the stages that cost the most relative to their weight are left out first.

The cost of a stage is known in advance only roughly, from its number of passes and the time of a pass. So the times of
finished stages correct the estimates for the others. A pass timed on a busy machine looks too expensive, and one timed
on a quiet machine too cheap if it becomes busy later; so before a stage is made smaller, passes are timed again. And
where time is short, a stage first runs with its smallest sizes, which shows its real cost, and then once more with
sizes that fill its share.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

from ..durations import in_seconds
from ..nouns import plural
from ..sweep.progress import duration
from .effort import Prices
from .section import Section
from .stage import FULL, LEAST, QUICK, Options, Stage
from .subject import Subject
from .words import listed, number

QUICK_SECONDS, FULL_SECONDS = 180.0, 1800.0
_NAMED = {"quick": QUICK_SECONDS, "full": FULL_SECONDS}
_IN_WORDS = {
    "images": ("{one}", "{many}"),
    "repeat_images": ("repeated {one}", "repeated {many}"),
    "search_images": ("{one} to search on", "{many} to search on"),
    "recalibrate_images": ("{one} to recalibrate on", "{many} to recalibrate on"),
    "batch": ("{one} per timed batch", "{many} per timed batch"),
    "max_blocks": ("dropped block at most", "dropped blocks at most"),
    "held_out": ("held-out set", "held-out sets"),
    "max_searched": ("searched set", "searched sets"),
    "passes": ("pass of a single {one}", "passes of single {many}"),
    "seconds": ("second per timing", "seconds per timing"),
    "basis": ("basis vector", "basis vectors"),
}
"""Names of options for readers of the page, for one and for many, where the name alone does not say it."""
_STEPS = 24  # levels between two of the named ones: neighbours differ by less than the error of an estimate
_KEPT_BACK = 0.04  # of the budget, for the page itself
_CORRECTION = (0.5, 4.0)  # bounds on how far finished stages correct the estimates of the others
_TRUST = 0.03  # of the budget: finished stages correct the others fully only once they have taken far more than this
_TRIAL = 0.2  # of a stage's share: the longest that a trial with its smallest sizes may take
_SURE = 0.9  # of a stage's share: below it no trial is needed, since later stages can absorb an error
_FILLED = 0.85  # of a stage's share: what an estimate may fill
_DOUBT = 1.25  # times the time left: a stage is left out only if the smallest sizes of all are expected to exceed it
_FRESH = 0.05  # of the budget: how long prices remain valid where time is short
_TIMED = 0.0025  # of the budget: the longest single timing for a price, as far as possible
_COSTLY = 0.01  # of the budget: prices that took longer to measure are not measured again
_PRICED = 3  # measurements of the prices before a stage is made smaller; their median is used
_MUCH = 0.5  # a size below this share of what a quick report uses causes a warning


def budget_seconds(budget: str | float | timedelta) -> float:
    """The seconds of a budget: ``quick`` (3 minutes), ``full`` (30 minutes) or a duration.

    Raises:
        ValueError: other words.

    Example:
        >>> budget_seconds("quick"), budget_seconds("10min"), budget_seconds(90)
        (180.0, 600.0, 90.0)
    """
    if isinstance(budget, str) and budget in _NAMED:
        return _NAMED[budget]
    try:
        return in_seconds(budget)
    except ValueError as reason:
        raise ValueError(str(reason).replace("expected", "expected a budget 'quick', 'full' or", 1)) from None


def most_level(seconds: float) -> float:
    """The level that no stage exceeds: a report with all of its intended sizes does not use up its time.

    Example:
        >>> most_level(60), most_level(180), most_level(1800), most_level(7200)
        (1.0, 1.0, 2.0, 2.0)
    """
    return min(max(QUICK + math.log(seconds / QUICK_SECONDS) / math.log(FULL_SECONDS / QUICK_SECONDS), QUICK), FULL)


class LeftOutError(Exception):
    """A stage would take more time or memory than is available; the message says how much."""


@dataclass(frozen=True)
class Spent:
    """How the numbers of a stage were computed.

    Attributes:
        options: the sizes used.
        given: the share of the budget that the stage was given, in seconds.
        used: the time that it took, with its trial.
        shrunk: the sizes that are below those of a quick report, as (name, used, wanted).
        noun: what an example is called, of which the options count images.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    given: float = 0.0
    used: float = 0.0
    shrunk: tuple[tuple[str, float, float], ...] = ()
    noun: str = "image"

    def to_json(self) -> str:
        """Serialise it, for the journal."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spent:
        """What :meth:`to_json` wrote.

        Example:
            >>> spent = Spent({"draws": 4}, 10.0, 8.0, (("draws", 4, 16),))
            >>> Spent.from_json(spent.to_json()) == spent
            True
        """
        content = json.loads(text)
        return cls(**content | {"shrunk": tuple(map(tuple, content["shrunk"]))})

    @property
    def precision(self) -> str:
        """The sizes that the budget did not allow.

        Example:
            >>> Spent(shrunk=(("draws", 4, 16),)).precision
            '4 draws instead of 16'
            >>> Spent(shrunk=(("images", 4, 16), ("batch", 1, 32)), noun="sequence").precision
            '4 sequences instead of 16 and 1 sequence per timed batch instead of 32'
        """
        return listed([f"{number(used)} {self._words(name, used)} instead of {number(wanted)}"
                       for name, used, wanted in self.shrunk]) if self.shrunk else ""  # fmt: skip

    def _words(self, name: str, count: float) -> str:
        spaced = name.replace("_", " ")
        one, many = _IN_WORDS.get(name, (spaced.removesuffix("s"), spaced))
        return (one if count == 1 else many).format(one=self.noun, many=plural(self.noun))

    @property
    def warning(self) -> str:
        """One sentence if sizes had to shrink a lot; otherwise nothing."""
        if all(used > _MUCH * wanted for _, used, wanted in self.shrunk):
            return ""
        return f"Reduced to stay within the budget: {self.precision}. A longer --budget gives more precise numbers."


@dataclass(eq=False)
class TimePlan:
    """The time of one report, from now on.

    Attributes:
        subject: what the report is about.
        stages: those still to run, in order.
        seconds: the budget.
        fixed: options that were given, by stage: they do not follow the budget.
        clock: tells the time.
        prices: of passes; None: measured when they are first needed, and again where time is short.
        began: when the budget began to run; None: now.
        left_out: why stages were left out.
    """

    subject: Subject
    stages: Sequence[Stage]
    seconds: float
    fixed: Mapping[str, Options] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    prices: Prices | None = None
    began: float | None = None
    left_out: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Start the clock, unless it runs already."""
        self.began = self.clock() if self.began is None else self.began
        self.most = most_level(self.seconds)
        self._used = self._estimated = 0.0
        self._measured: list[Prices] = []
        self._priced_at = self._pricing = 0.0

    def run(self, stage: Stage) -> tuple[Section, Spent]:
        """Run a stage with the sizes that its share of the time allows.

        Raises:
            LeftOutError: even its least sizes need more time or memory than there is.
        """
        began = self.clock()
        share = self._share(stage)
        if share is None:
            self.left_out[stage.name] = reason = self._why_not(stage)
            raise LeftOutError(reason)
        level, section = self._tried(stage, share, began)
        options = self._options(stage, level)
        if section is None:
            section = stage.run(self.subject, options)
        used = self.clock() - began
        self._used, self._estimated = self._used + used, self._estimated + self._estimate(stage, level)
        spent = Spent(options, share, used, self._shrunk(stage, options), self.subject.data.noun)
        if spent.warning:
            section = replace(section, warnings=(*section.warnings, spent.warning))
        return section, spent

    def _share(self, stage: Stage) -> float | None:
        """The time for the next stage, None if there is none; an outdated or single price makes no stage smaller."""
        share = self.shares(stage).get(stage.name)
        short = share is None or self._expected(stage, self._highest(stage)) > share
        if not short or not self._measured or self._pricing > _COSTLY * self.seconds:
            return share
        if self.clock() - self._priced_at > _FRESH * self.seconds:
            self._measured.clear()
        while len(self._measured) < _PRICED:
            self._price()
        return self.shares(stage).get(stage.name)

    def another_round(self, failed: int) -> bool:
        """Whether others have left enough time for a stage that was left out; then those are the stages to run.

        Args:
            failed: number of stages without a result. If others than those left out failed, they would fail again.
        """
        again = [stage for stage in self.stages if stage.name in self.left_out]
        if len(again) < failed or not any(stage.name in self.shares(again[0], again) for stage in again):
            return False
        self.stages = again
        self.left_out = {}
        return True

    def elapsed(self) -> float:
        """The seconds since the budget began to run."""
        return self.clock() - (self.began or 0.0)

    def to_go(self, stage: Stage) -> float:
        """The seconds that a stage and those after it are expected to take."""
        shares, expected = self.shares(stage), 0.0
        for one in self._from(stage):
            if one.name in shares:
                wanted = self._expected(one, self._highest(one))
                expected += wanted if wanted <= shares[one.name] else _FILLED * shares[one.name]
        return expected

    def shares(self, stage: Stage, stages: Sequence[Stage] = ()) -> dict[str, float]:
        """The time of a stage and of those after it, by name; without those for which there is none.

        Args:
            stage: the next one.
            stages: all that are still to run; none: it and those after it.
        """
        left = max(self.seconds * (1 - _KEPT_BACK) - self.elapsed(), 0.0)
        stages = stages or self._from(stage)
        open_stages = [one for one in stages if self._fits(one, LEAST) or self._is_given(one)]
        least = {one.name: self._expected(one, LEAST) for one in open_stages}
        most = {one.name: max(self._expected(one, self._highest(one)), least[one.name]) for one in open_stages}
        doubt = _DOUBT if len(open_stages) > 1 else 1.0  # the time that others turn out not to need may be enough
        for one in sorted(open_stages, key=lambda one: least[one.name] / one.weight, reverse=True):
            if sum(least[other.name] for other in open_stages) > doubt * left and not self._is_given(one):
                open_stages.remove(one)
        return divided(left, {one.name: one.weight for one in open_stages}, least, most)

    def _is_given(self, stage: Stage) -> bool:
        """Whether all sizes of a stage were given: then it runs with them, however long that takes."""
        return bool(self.fixed.get(stage.name)) and self._options(stage, LEAST) == self._options(stage, self.most)

    # what stages cost

    def _from(self, stage: Stage) -> list[Stage]:
        names = [one.name for one in self.stages]
        return list(self.stages[names.index(stage.name) :]) if stage.name in names else [stage]

    def _options(self, stage: Stage, level: float) -> dict[str, Any]:
        return stage.options(level, self.fixed.get(stage.name))

    def _estimate(self, stage: Stage, level: float) -> float:
        effort = stage.effort(self.subject, self._options(stage, level))
        if self.prices is None and (effort.images or effort.gradients):
            self._price()
        return effort.seconds if self.prices is None else self.prices.seconds(effort)

    def _price(self) -> None:
        """Measure what passes cost now; the median of several measurements is used, since one may be far off."""
        began = self.clock()
        self._measured.append(self.subject.prices(min(0.5, _TIMED * self.seconds)))
        self._priced_at = self.clock()
        self._pricing = self._priced_at - began
        ordered = sorted(self._measured, key=lambda prices: prices.image + prices.batch)
        self.prices = ordered[len(ordered) // 2]

    def _expected(self, stage: Stage, level: float) -> float:
        """The estimate, corrected by what finished stages took."""
        trust = _TRUST * self.seconds
        correction = (self._used + trust) / (self._estimated + trust)
        return min(max(correction, _CORRECTION[0]), _CORRECTION[1]) * self._estimate(stage, level)

    def _fits(self, stage: Stage, level: float) -> bool:
        return stage.effort(self.subject, self._options(stage, level)).bytes <= self.subject.memory

    def _levels(self) -> list[float]:
        return [step / _STEPS for step in range(math.floor(self.most * _STEPS + 1e-9) + 1)]

    def _highest(self, stage: Stage, seconds: float = math.inf, factor: float | None = None) -> float:
        """The highest level within the time and the memory; the lowest if there is none."""
        for level in reversed(self._levels()):
            if not self._fits(stage, level):
                continue
            if seconds == math.inf:
                return level
            expected = self._expected(stage, level) if factor is None else factor * self._estimate(stage, level)
            if expected <= seconds:
                return level
        return LEAST

    def _tried(self, stage: Stage, share: float, began: float) -> tuple[float, Section | None]:
        """The level for a share of the time, and the section if a trial has already made it."""
        highest = self._highest(stage)
        sizes = self._options(stage, LEAST)
        least, estimate = self._expected(stage, LEAST), self._estimate(stage, LEAST)
        if self._options(stage, highest) == sizes or self._expected(stage, highest) <= _SURE * share:
            return highest, None
        if least > _TRIAL * share or estimate <= 0:
            return self._highest(stage, _FILLED * share), None
        section = stage.run(self.subject, sizes)
        took = self.clock() - began
        level = self._highest(stage, _FILLED * (share - took), took / estimate)
        return level, section if self._options(stage, level) == sizes else None

    # what is reported about it

    def _shrunk(self, stage: Stage, options: Options) -> tuple[tuple[str, float, float], ...]:
        shrunk = []
        for name, wanted in self._options(stage, QUICK).items():
            used = options[name]
            if isinstance(used, int | float) and isinstance(wanted, int | float) and used < wanted:
                if name.endswith("images"):
                    of_training = name in ("search_images", "recalibrate_images")
                    most = len((self.subject.training or ()) if of_training else self.subject.data)
                    used, wanted = min(used, most), min(wanted, most)
                if used < wanted:
                    shrunk.append((name, used, wanted))
        return tuple(shrunk)

    def _why_not(self, stage: Stage) -> str:
        sizes = self._options(stage, LEAST)
        effort = stage.effort(self.subject, sizes)
        nouns = self.subject.data.nouns
        named = listed(
            [f"{name.replace('images', nouns)} {value}" for name, value in sizes.items() if name in stage.least]
        )
        if effort.bytes > self.subject.memory:
            return (
                f"even its least sizes ({named}) need about {effort.bytes / 1e9:.1f} GB beside the model, above the "
                f"bound of {self.subject.memory / 1e9:.1f} GB"
            )
        left = max(self.seconds * (1 - _KEPT_BACK) - self.elapsed(), 0.0)
        return (
            f"even its least sizes ({named}) would take about {duration(self._expected(stage, LEAST))}, and "
            f"{duration(left)} of the budget of {duration(self.seconds)} were left for all further stages; a longer "
            "--budget includes it"
        )


def divided(
    total: float, weights: Mapping[str, float], least: Mapping[str, float], most: Mapping[str, float]
) -> dict[str, float]:
    """A time divided by weight, such that everyone gets at least their minimum and at most their maximum.

    If all get their maximum, the remainder is divided in the same proportions.

    Example:
        >>> divided(10, {"a": 1, "b": 1}, {"a": 1, "b": 7}, {"a": 5, "b": 9})
        {'a': 3.0, 'b': 7.0}
        >>> divided(10, {"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 3})
        {'a': 4.0, 'b': 6.0}
    """
    names = list(weights)
    wanted = sum(most[name] for name in names)
    if wanted <= total:
        return {name: total * (most[name] / wanted if wanted else 1.0 / len(names)) for name in names}
    low, high = 0.0, max(most[name] / weights[name] for name in names)
    for _ in range(60):
        middle = (low + high) / 2
        given = sum(min(max(middle * weights[name], least[name]), most[name]) for name in names)
        low, high = (middle, high) if given < total else (low, middle)
    return {name: round(float(min(max(high * weights[name], least[name]), most[name])), 6) for name in names}
