"""Which blocks to drop: search, repair, certificate and timing put together.

Each role has its own images, because choosing and measuring on the same ones overestimates the choice: search compares
sets, judge compares the finalists again, repair repairs, and certify measures. What is tested on the images that
certify, and in which order, never depends on them, so a certificate holds at its stated level without a correction.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..arguments import checked
from ..data import ExampleMetric, ImageData, ImageSource, InMemory
from ..data.fitting import check_fits, smooth, target_kinds, usual_metric
from ..data.metrics import needs_labels
from ..graph.eval_mode import check_eval
from ..graph.inputs import placed
from ..graph.model_fingerprint import fingerprint
from ..lesion import Metric, metric_named
from ..network import UnrolledNetwork
from ..sweep.progress import SweepProgress, reporter
from .bench import Bench, Evaluator, Running, Workshop, block_costs, measure_set
from .distillation import check_labels_of_loss
from .finetuning import TunedInTurn, Tuner
from .goals import AccuracyDrop, Count, Disagreement, Goal, Latency, Rise
from .plan import DropPlan, ImagesUsed, training_data
from .points import Measured, PlanPoint, measured_point, together
from .repairs import Distil, Recalibrate, Repair, adapted, closed
from .runtimes import Clock, check_runtime
from .search import Exact, Greedy, Scores, Search, Set
from .search.exact import check_few
from .split import ImageSplit, check_apart
from .stopwatch import Stopwatch, doubts

_LEVEL = 0.95
_COST_SECONDS = 0.02  # to time each piece of the network separately; the costs only order blocks by what they save
_FAR = 0.15  # sets are not measured if their estimated share of the time exceeds the goal by more than this error
_LEAST_ROUNDS = 6  # the minimum and maximum of six rounds contain the median with over 95 % probability


@checked
def plan_drop(
    net: UnrolledNetwork,
    images: ImageSource,
    *,
    goal: Goal,
    search: Search | None = None,
    repair: Repair | None = None,
    split: ImageSplit | None = None,
    clock: Clock | None = None,
    full_frontier: bool = False,
    journal: Path | str | None = None,
    progress: bool = True,
) -> DropPlan:
    """Choose blocks to drop, for a latency, a fall in accuracy, a disagreement or a number of blocks.

    Sets of blocks are compared on some images as they would be deployed, repaired on others, and measured on held-out
    images. Latency is measured on the real smaller networks, in turn with the full one.

    Args:
        net: the network, in eval mode.
        images: the images that `split` divides.
        goal: :class:`Latency`, :class:`AccuracyDrop`, :class:`Rise` (of any metric), :class:`Disagreement` or
            :class:`Count`.
        search: :class:`Greedy` (default), :class:`Beam` or :class:`Exact`.
        repair: :class:`NoRepair`, :class:`Recalibrate` (default), :class:`Refit` or :class:`Distil`.
        split: which images search, repair, judge and certify.
        clock: on which input and in which runtime latency is measured.
        full_frontier: whether to measure sets beyond the one that decides, down to the last block.
        journal: a file that stores what was evaluated, from which the same call resumes.
        progress: whether to show progress on standard error, as a bar on a terminal and otherwise as lines.

    Raises:
        ValueError: no set reaches the goal, there are too few images, roles share images, or the search has too many
            sets.
        UnrollError: the model is in training mode.

    Cost: the sets of the search, which share prefixes if compared at gates (without repair, or recalibrated), and take
        one repair each with a refit; then per point two forward passes over the images that certify, one repair, and
        twice the clock's seconds. Fine-tuning trains once; for a goal with a confidence, once per size from the first
        size on that the search images do not already show to reach the goal.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> options = {"clock": Clock(seconds=0.01, rounds=1), "progress": False}
        >>> plan = plan_drop(net, digits("train").subset(slice(0, 90)), goal=Count(1), **options)
        >>> len(plan.point.dropped)
        1
    """
    search, repair, split, clock = search or Greedy(), repair or Recalibrate(), split or ImageSplit(), clock or Clock()
    check_eval(net.model)
    most = most_blocks(goal, search, len(net))
    if isinstance(goal, Latency) and clock.rounds < _LEAST_ROUNDS:
        raise ValueError(f"expected a clock with at least {_LEAST_ROUNDS} rounds for a latency, got {clock.rounds}")
    roles = split.roles(images, repair.needs_images, model=net.model)
    check_apart(roles, "certify", ("search", "repair", "judge"))
    if repair.learns:
        check_apart(roles, "repair", ("search",))
    check_goal(goal, search, roles)
    if isinstance(repair, Distil):
        check_labels_of_loss(training_data(repair, roles, net.model), repair.settings)
    check_runtime(clock.runtime)
    given = fingerprint(net.model)

    with reporter(progress) as report:
        running = Running(None if journal is None else Path(journal), report)
        other = None
        if (
            repair.needs_images
            and not isinstance(goal, Disagreement | Rise)
            and "class" in target_kinds(roles["search"])
        ):
            other = adapted(net, roles["repair"], roles["search"])
        planner = _Planner(other or net, goal, search, repair, split, clock, roles, running, bool(progress), most)
        plan = planner.run(full_frontier)
    return replace(plan, model_fingerprint=given, adapted=other is not None)


def check_goal(goal: Goal, search: Search, roles: Mapping[str, InMemory]) -> None:
    """Check, before any work, that the data have the targets that the goal and the metrics need.

    Raises:
        ValueError: they do not.
    """
    certify = roles["certify"]
    if not isinstance(certify, ImageData):
        _check_examples(goal, search, certify)
        return
    if isinstance(goal, Rise) and isinstance(function := metric_named(goal.metric)[1], ExampleMetric):
        check_fits(function, certify)
    searched = None if search.metric is None else metric_named(search.metric)[1]
    if isinstance(searched, ExampleMetric) and (certify.labelled or not searched.needs_targets):
        check_fits(searched, certify)
    if isinstance(goal, AccuracyDrop) and not roles["certify"].labelled:
        raise ValueError(
            "expected labelled images to certify a fall in accuracy, got images without labels; use a "
            "Disagreement(...), which needs none"
        )
    for role in ("search", "judge"):
        if role in roles and not roles[role].labelled and search.metric is not None and needs_labels(search.metric):
            raise ValueError(
                f"expected labelled images to {role} by {search.metric}, got images without labels; omit metric, "
                "or use soft_disagreement"
            )


def _check_examples(goal: Goal, search: Search, data: InMemory) -> None:
    """The same for examples other than images."""
    kinds = target_kinds(data)
    wrong = data.labelled and "class" not in kinds if isinstance(goal, Disagreement) else "class" not in kinds
    if isinstance(goal, AccuracyDrop | Disagreement) and wrong:
        raise ValueError(
            f"expected {data.nouns} of one class each for the goal {type(goal).__name__}, got {data!r}; use "
            f"Rise({usual_metric(data)!r}, by=...), in a terminal --metric {usual_metric(data)} --rise"
        )
    for metric in (goal.metric if isinstance(goal, Rise) else None, search.metric):
        if metric is not None and isinstance(function := metric_named(metric)[1], ExampleMetric):
            check_fits(function, data)


def most_blocks(goal: Goal, search: Search, blocks: int) -> int:
    """The largest number of blocks that a plan may drop.

    Raises:
        ValueError: the goal asks for more, or the search would not end.
    """
    if isinstance(search, Exact):
        check_few(blocks)
    most = blocks if search.max_blocks is None else min(search.max_blocks, blocks)
    if isinstance(goal, Count):
        if not 0 <= goal.count <= most:
            raise ValueError(f"expected between 0 and {most} blocks to drop, got {goal.count}")
        return goal.count
    return most


@dataclass(eq=False)
class _Planner:
    """One run of the planner."""

    net: UnrolledNetwork
    goal: Goal
    search: Search
    repair: Repair
    split: ImageSplit
    clock: Clock
    roles: dict[str, InMemory]
    running: Running
    says: bool
    max_blocks: int
    anew: int = 0

    @cached_property
    def _workshop(self) -> Workshop:
        return Workshop(self.net, closed(self.repair), self.roles.get("repair"))

    def run(self, full_frontier: bool) -> DropPlan:
        name, _ = self._metric
        notes = [*self._too_few()]
        watch = Stopwatch(self.net, self.clock, placed(self.clock.input(self.roles["certify"]), self.net.model))
        if isinstance(self.goal, Latency):
            self._say("timing each block")
            watch.costs = block_costs(self.net, watch.x, _COST_SECONDS, self.running)
        scores, judge = self._scores("search", watch.costs), None
        if "judge" in self.roles:
            judge = self._scores("judge", watch.costs)
        measured, selected, tuning = self._frontier(scores, judge, watch, full_frontier, notes)
        points = [one.point for one in measured]
        notes += doubts(points[1:], points[0])
        if self._tests:
            tests = len(points) + (0 if tuning is None else tuning.tests)
            points = [together(point, len(self.roles["certify"]), tests) for point in points]

        sets = [point.dropped for point in points]
        greedy = self._greedy(scores, sets)
        drawn: list[tuple[float, ...]] = []
        if self.search.random_sets:
            drawn = scores.at_random(map(len, sets), self.search.random_sets, self.split.seed)
        plan = DropPlan(
            points=tuple(points),
            chosen=selected,
            goal=self.goal,
            search=self.search,
            repair=self.repair,
            split=self.split.weights,
            clock=self.clock,
            images={role: ImagesUsed(d.name, len(d), d.fingerprint, d.noun) for role, d in self.roles.items()},
            adapted=False,
            model_fingerprint="",
            metric=name,
            search_losses=tuple(scores.known[one] for one in sets),
            greedy_losses=tuple(greedy),
            random_losses=tuple(drawn),
            judge_losses=() if judge is None else tuple(judge.known[one] for one in sets),
            notes=tuple(notes),
        )
        return self._finetuned(plan, measured[0], tuning)

    @property
    def _tests(self) -> bool:
        return isinstance(self.goal, AccuracyDrop | Disagreement | Rise)

    @property
    def _metric(self) -> tuple[str, Metric]:
        """The metric that the search minimises: the goal's own if the images have labels for it."""
        data = self.roles["certify"]
        if self.search.metric is None and (isinstance(self.goal, Rise) or not isinstance(data, ImageData)):
            return metric_named(smooth(self.goal.metric if isinstance(self.goal, Rise) else usual_metric(data)))
        labelled = all(self.roles[role].labelled for role in ("search", "judge") if role in self.roles)
        usual = "soft_error" if labelled and not isinstance(self.goal, Disagreement) else "soft_disagreement"
        return metric_named(self.search.metric or usual)

    @property
    def _measures(self) -> tuple[str, Metric | None]:
        """The metric measured on the examples that certify: that of the goal, or of the search without classes."""
        if isinstance(self.goal, Rise):
            return metric_named(self.goal.metric)
        data = self.roles["certify"]
        if "class" not in target_kinds(data):
            return metric_named("disagreement") if isinstance(data, ImageData) else self._metric
        return "", None

    @property
    def _level(self) -> float:
        """The confidence of the bounds."""
        return self.goal.confidence if isinstance(self.goal, AccuracyDrop | Disagreement | Rise) else _LEVEL

    @property
    def _free(self) -> bool:
        """Whether a bound must hold for any distribution."""
        return isinstance(self.goal, Rise) and self.goal.distribution_free

    def _too_few(self) -> Iterator[str]:
        data = self.roles["certify"]
        if isinstance(self.goal, AccuracyDrop | Disagreement | Rise):
            needed = self.goal.least_images
            if len(data) < needed:
                yield (
                    f"Too few {data.nouns} to certify: even if not one answer changes, at least {needed} are needed to "
                    f"show that {self.goal}; there are {len(data)}"
                )

    def _scores(self, role: str, costs: tuple[float, ...] | None) -> Scores:
        _, metric = self._metric
        bench = self._bench(role, metric)
        most = self._expected(costs)
        total = self.search.sets(len(self.net), most) if role == "search" else most * self.split.finalists
        if role == "search":
            self._say(f"comparing about {total} sets of blocks on {len(self.roles[role])} {self.roles[role].nouns}")
        return Scores(len(self.net), Evaluator(bench, self.running, f"plan, {role}", total), costs)

    def _expected(self, costs: tuple[float, ...] | None) -> int:
        """Roughly how many blocks must go: for a latency, as many blocks of mean cost as make up the time to save."""
        if not isinstance(self.goal, Latency) or not costs or sum(costs) <= 0:
            return self.max_blocks
        return min(self.max_blocks, math.ceil((1 - self.goal.share) * len(costs) / sum(costs)) + 1)

    def _bench(self, role: str, metric: Metric | None = None) -> Bench:
        return Bench(self._workshop, self.roles[role], metric, self.split.batch_size)

    def _frontier(
        self, scores: Scores, judge: Scores | None, watch: Stopwatch, full_frontier: bool, notes: list[str]
    ) -> tuple[list[Measured], int, TunedInTurn | None]:
        """The points measured until the goal is decided, the index of the chosen one, and what was fine-tuned."""
        bench = self._bench("certify", self._measures[1])
        scores.score([()])
        measured = [self._measure(bench, (), None, scores)]
        seconds = watch.first().median
        measured[0] = replace(measured[0], point=replace(measured[0].point, latency=seconds))
        if judge is not None:
            judge.score([()])
        passes: list[bool] = []
        tuning = self._in_turn(measured[0])
        for path_set in self.search.path(scores, self.max_blocks):
            if self._far(path_set, scores) and not full_frontier:
                continue
            dropped = path_set if judge is None else self._judged(path_set, scores, judge)
            one = self._measure(bench, dropped, measured[0], scores)
            if isinstance(self.goal, Latency):
                point, passed = self._timed_again(watch.time(one.point), watch, notes)
                one = replace(one, point=point)
            else:
                passed = self._passes(one.point) if tuning is None else tuning(one.point)
            measured.append(one)
            passes.append(passed)
            if self._decided(passes) and not full_frontier:
                break
        if tuning is not None:
            tuning.last()
        if not isinstance(self.goal, Latency):  # no decision waits for the times
            timed = watch.time_all([one.point for one in measured[1:]])
            measured[1:] = [replace(one, point=point) for one, point in zip(measured[1:], timed, strict=True)]
        return measured, self._chosen(passes, measured), tuning

    def _far(self, dropped: Set, scores: Scores) -> bool:
        """Whether a set saves so much less than a latency goal requires that it need not be measured."""
        goal = self.goal
        return (
            isinstance(goal, Latency)
            and 1 - scores.saved(dropped) > goal.share + _FAR
            and len(dropped) < self.max_blocks
        )

    def _measure(self, bench: Bench, dropped: Set, full: Measured | None, scores: Scores) -> Measured:
        state = SweepProgress(f"plan, measuring {len(dropped)} dropped", 1)
        values = measure_set(bench, dropped, self.running, state)
        loss, metric = scores.known[dropped], self._measures[0]
        return measured_point(self.net, dropped, values, full, self._level, loss, metric, self._free)

    def _judged(self, path_set: Set, scores: Scores, judge: Scores) -> Set:
        """The best set of this size according to the judge, among the best of the search."""
        # Of nearly the same saving, so that judging does not give up the time that the search has saved.
        saved = scores.saved(path_set)
        candidates = [one for one in scores.known if len(one) == len(path_set) and scores.saved(one) >= 0.98 * saved]
        final = list(
            dict.fromkeys([path_set, *sorted(candidates, key=lambda s: (scores.rank(s), s))[: self.split.finalists]])
        )
        judge.score(final)
        return judge.best(final)

    def _timed_again(self, point: PlanPoint, watch: Stopwatch, notes: list[str]) -> tuple[PlanPoint, bool]:
        """Time a point that seems fast enough again, for longer; only that timing counts."""
        goal = self.goal
        if not isinstance(goal, Latency) or point.share > goal.share:
            return point, False
        # The number of timings is not known beforehand: errors of a half, a quarter, ... of the allowed one never
        # exceed it in sum.
        self.anew += 1
        again = watch.time(point, 1 - (1 - goal.confidence) / 2**self.anew, longer=True)
        low, high = again.share_interval
        if high > goal.share:
            notes.append(
                f"{len(point.dropped)} dropped: seemed to take {point.share:.2f} of the time; timed again, "
                f"{again.share:.2f} ({low:.2f} to {high:.2f}), which does not show the goal"
            )
        return again, high <= goal.share

    def _passes(self, point: PlanPoint) -> bool:
        goal = self.goal
        if isinstance(goal, AccuracyDrop):
            return point.fall_at_most is not None and point.fall_at_most <= goal.drop
        if isinstance(goal, Rise):
            return point.rise_at_most is not None and point.rise_at_most <= goal.by
        if isinstance(goal, Disagreement):
            return point.disagreement_at_most is not None and point.disagreement_at_most <= goal.share
        return isinstance(goal, Count) and len(point.dropped) == goal.count

    def _decided(self, passes: list[bool]) -> bool:
        # A sequence of tests ends with its first failure, a search for a latency or a count with its first success.
        return not passes[-1] if self._tests else passes[-1]

    def _chosen(self, passes: list[bool], measured: list[Measured]) -> int:
        if self._tests:
            # The full network is measured first and always passes, so the number of passes is the index of the last
            # one.
            return [*passes, False].index(False)
        if isinstance(self.goal, Latency):
            if True not in passes:
                least = min((one.point.share_interval[1], len(one.point.dropped)) for one in measured)
                raise ValueError(
                    f"expected a latency that dropping can reach, got {self.goal.share}; the lowest shown is "
                    f"{least[0]:.2f}, with {least[1]} of {len(self.net)} blocks dropped"
                )
            return passes.index(True) + 1
        return len(measured) - 1 if isinstance(self.goal, Count) and self.goal.count else 0

    def _greedy(self, scores: Scores, sets: list[Set]) -> list[float]:
        """Losses of the greedy search at the same sizes, for comparison if another search was used."""
        if isinstance(self.search, Greedy) or not sets[-1]:
            return []
        plain = Scores(scores.blocks, scores.evaluate, None, scores.known)
        path: list[Set] = [(), *Greedy().path(plain, max(map(len, sets)))]
        return [scores.known[path[len(dropped)]] for dropped in sets]

    def _finetuned(self, plan: DropPlan, full: Measured, tuning: TunedInTurn | None) -> DropPlan:
        """The plan with its fine-tuned network: that of the chosen set, or the last one tested in sequence."""
        point = plan.points[plan.chosen]
        if not isinstance(self.repair, Distil) or not (point.dropped or tuning):
            return plan
        if tuning is None:
            tuned = self._tuner(self.repair, full)(point)
            finetuned = together(tuned.point, len(self.roles["certify"]), 1)
            keeps = tuned.kept > 0
            return replace(
                plan, finetuned=finetuned, keeps_finetuned=keeps, finetuned_model=tuned.model if keeps else None
            )
        best, failed, tests = tuning.tuned, tuning.failed, len(plan.points) + tuning.tests
        failed = None if failed is None else _as_timed(failed, plan)
        if failed is not None and failed.dropped != point.dropped:
            plan = replace(plan, next_finetuned=failed)
        elif failed is not None:
            plan = replace(plan, finetuned=together(failed, len(self.roles["certify"]), tests))
        if best is None or best.point.dropped != point.dropped:
            return plan
        finetuned = together(_as_timed(best.point, plan), len(self.roles["certify"]), tests)
        return replace(plan, finetuned=finetuned, keeps_finetuned=True, finetuned_model=best.model)

    def _tuner(self, repair: Distil, full: Measured) -> Tuner:
        bench = self._bench("certify", self._measures[1])
        return Tuner(bench, repair, self.roles, full, self._level, self._say, self._free)

    def _in_turn(self, full: Measured) -> TunedInTurn | None:
        """The sequence of fine-tuned tests; None if the goal involves no test, or nothing is fine-tuned."""
        if not self._tests or not isinstance(self.repair, Distil):
            return None
        name, metric = self._measures
        bench = self._bench("search", metric)

        def measured(dropped: Set, reference: Measured | None) -> Measured:
            state = SweepProgress(f"plan, {len(dropped)} dropped on the search {self.roles['search'].nouns}", 1)
            values = measure_set(bench, dropped, self.running, state)
            return measured_point(self.net, dropped, values, reference, self._level, 0.0, name, self._free)

        searched = measured((), None)  # the full network, on the search images
        return TunedInTurn(
            self._tuner(self.repair, full),
            lambda dropped: self._passes(measured(dropped, searched).point),
            self._passes,
        )

    def _say(self, words: str) -> None:
        """Print a line when something long starts, if no bar is shown."""
        if self.says and not sys.stderr.isatty():
            print(f"plan: {words}", file=sys.stderr, flush=True)


def _as_timed(point: PlanPoint, plan: DropPlan) -> PlanPoint:
    """A fine-tuned network's point with the times of its set: it was tested before the sets were timed."""
    of_set = next(one for one in plan.points if one.dropped == point.dropped)
    times = ("latency", "share", "share_interval", "estimated")
    return replace(point, **{name: getattr(of_set, name) for name in times})
