"""Which blocks can be dropped, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...data import ImageData, InMemory
from ...data.metrics import metric_named
from ...lesion.evaluate import deletion_gates, evaluate_gates
from ...nouns import counted
from ...plot import plot_plan
from ...tradeoff import (
    AccuracyDrop,
    Clock,
    DropPlan,
    Greedy,
    ImageSplit,
    NoRepair,
    PlanPoint,
    Recalibrate,
    Rise,
    as_in_training,
    plan_drop,
)
from ..effort import Effort, passes
from ..measure import Measure
from ..pictures import Mark, marks, picture
from ..section import Headline, Latency, Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import block_name, listed, percent, points, seconds

CONFIDENCE = 0.95
_ROUNDS = 6  # the smallest number with a meaningful median
_CALLS = 4 + 2 * _ROUNDS  # of a network that is timed, however long it takes
_FEWEST = 4  # images: two for each role
_SHARE_OF_FULL = 0.05  # allowed rise of a metric that may exceed 1, unless another is given
_NORMED_TOGETHER = 100  # images of a batch by whose statistics the search judges a set, whatever else fits the memory
_UNSTEADY = 0.1  # of the time: an interval at least this wide is mentioned


def run(subject: Subject, options: Options) -> Section:
    """Greedy search for blocks to drop; accuracy, or another metric, and latency of the smaller models."""
    training = _as_in_training(subject, options["search_images"])
    data = subject.images(options["images"])
    most = min(options["max_blocks"] or len(subject.net), len(subject.net))
    if training is None and len(data) < _FEWEST:
        nouns = subject.data.nouns
        raise NotApplicableError(f"{subject.counted(len(data))} cannot be divided into {nouns} to search and to report")
    plan = plan_drop(
        subject.net,
        data if training is None else training,
        goal=goal_of(subject, data),
        search=Greedy(max_blocks=most),
        repair=NoRepair() if training is None else Recalibrate(),
        split=_split(subject, data, training, options),
        clock=Clock(options["batch"], torch.get_num_threads(), seconds=options["seconds"], rounds=_ROUNDS),
        full_frontier=True,
        progress=False,
    )
    apart, terms = plan.images["certify"].count, Terms.of(plan, subject.measure)
    latencies = _latencies(plan, subject.noun)
    latency = latencies[plan.chosen]
    finding = found_of(plan, latency, terms)
    reading = (finding, *_details(plan, latency, subject, terms))
    chosen = plan.point
    alt = (
        f"{terms.title} against latency as 0 to {len(plan.points) - 1} blocks are dropped: "
        f"{terms.level(plan.points[0])} with all, {terms.level(plan.point)} at the chosen point "
        f"with {len(chosen.dropped)} dropped, {terms.level(plan.points[-1])} at the last."
    )
    frame = plan.to_pandas().assign(
        dropped=[" ".join(map(str, point.dropped)) for point in plan.points],
        names=[" ".join(point.names) for point in plan.points],
    )
    frame = frame.drop(columns=_unknown(plan))
    table = Table.of(
        "frontier", f"Greedy search, latency in seconds for {counted(plan.clock.batch, subject.noun)}", frame
    )
    drawn = picture(lambda ax: plot_plan(plan, ax), alt, _tips(table, terms))
    code = _code(subject, plan, options)
    part = Part(f"{terms.title} against latency", reading, drawn, (table,), code)
    headline = headline_of(plan, latency, len(subject.net), code, terms)
    return Section((part,), (finding,), _warnings(subject, plan, apart, most), headline, latencies)


def goal_of(subject: Subject, data: InMemory) -> AccuracyDrop | Rise:
    """A fall in accuracy, or a rise of another metric: the one asked for, or one that follows from the metric."""
    if subject.metric == "error" and subject.rise is None:
        return AccuracyDrop(subject.accuracy_drop, CONFIDENCE)
    if subject.allowed is not None:
        return Rise(subject.metric, subject.allowed, CONFIDENCE)
    gates = deletion_gates([[]], len(subject.fast))
    full = evaluate_gates(subject.fast, data, gates, metric_named(subject.metric)[1], **subject.study).mean()
    if not full > 0:
        value = subject.measure.value(float(full))
        raise NotApplicableError(
            f"the full network's {subject.measure.words} is {value}, so no allowed rise follows from it; give one "
            "(rise=, --rise)"
        )
    return Rise(subject.metric, float(f"{_SHARE_OF_FULL * full:.2g}"), CONFIDENCE)


def _unknown(plan: DropPlan) -> list[str]:
    """Columns of a plan that say nothing about examples without one class each."""
    full, columns = plan.points[0], []
    if math.isnan(full.accuracy):
        columns += ["plain", "accuracy", "accuracy_interval", "fall", "fall_at_most"]
    if math.isnan(full.disagreement):
        columns += ["disagreement", "disagreement_at_most"]
    return columns


@dataclass(frozen=True)
class Terms:
    """What a plan keeps, in words: accuracy, which falls, or another metric, which rises.

    Attributes:
        measure: the metric; None: accuracy.
        allowed: the change that is allowed.
    """

    measure: Measure | None = None
    allowed: float = 0.0

    @classmethod
    def of(cls, plan: DropPlan, measure: Measure) -> Terms:
        """The terms of a plan."""
        if isinstance(plan.goal, Rise):
            return cls(measure, plan.goal.by)
        return cls(None, plan.goal.drop if isinstance(plan.goal, AccuracyDrop) else 0.0)

    @property
    def words(self) -> str:
        """What is kept."""
        return "accuracy" if self.measure is None else self.measure.words

    @property
    def title(self) -> str:
        """The same at the beginning of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def subject(self) -> str:
        """The same with its article; accuracy has none."""
        return "accuracy" if self.measure is None else f"the {self.measure.words}"

    @property
    def change(self) -> str:
        """The change for the worse."""
        return "fall" if self.measure is None else "rise"

    def sentence(self, change: float, most: float) -> str:
        """A change and its upper bound; below zero it is one for the better."""
        worse, better = f"{self.change}s", "rises" if self.measure is None else "falls"
        value = f"{self.subject} {better if change < 0 else worse} by {self.amount(abs(change))}"
        bound = f"{f'it {worse} ' if change < 0 else ''}by at most {self.amount(most)}"
        return f"{value}, and with {percent(CONFIDENCE)} confidence {bound}"

    def level(self, point: PlanPoint) -> str:
        """The value of a point."""
        return percent(point.accuracy) if self.measure is None else self.measure.value(point.value or 0.0)

    def amount(self, change: float) -> str:
        """A change for the worse."""
        return points(change).removeprefix("+") if self.measure is None else self.measure.amount(change)

    def moved(self, point: PlanPoint, full: PlanPoint) -> str:
        """The change from the full network, with its sign; empty if there is none."""
        if self.measure is None:
            difference = point.accuracy - full.accuracy
            return points(difference) if difference else ""
        return self.measure.change(point.rise) if point.rise else ""

    def seen(self, point: PlanPoint) -> float:
        """The measured change for the worse."""
        return point.fall if self.measure is None else point.rise or 0.0

    def bound(self, point: PlanPoint) -> float:
        """Its upper bound."""
        bound = point.fall_at_most if self.measure is None else point.rise_at_most
        return math.inf if bound is None else bound


def _tips(table: Table, terms: Terms) -> list[Mark]:
    """As dropped, at the heights that are drawn; the latency in the table is in seconds."""
    measure = terms.measure

    def text(row: Mapping[str, Any]) -> str:
        if measure is not None:
            level = f"{measure.words} {measure.value(row['value'])}"
        else:
            repaired = f", {percent(row['accuracy'])} {row['repair']}" if row["repair"] != "none" else ""
            level = f"{percent(row['plain'])} right{repaired}"
        return f"{counted(row['count'], 'block')} dropped: {level}, {seconds(row['latency'])}"

    drawn = marks(table, text, y="plain" if measure is None else "value", x="latency")
    return [replace(mark, x=1e3 * mark.x) for mark in drawn]


def _as_in_training(subject: Subject, count: int | None) -> InMemory | None:
    """Training examples; images augmented as in training."""
    examples = subject.training_images(count)
    if not isinstance(examples, ImageData):
        return examples
    return as_in_training(subject.model, examples, seed=subject.seed)


def _split(subject: Subject, data: InMemory, training: InMemory | None, options: Options) -> ImageSplit:
    """Training examples, if there are any, choose and repair; the others certify."""
    if training is None:
        return ImageSplit(search=1.0, certify=1.0, batch_size=subject.at_once, seed=subject.seed)
    return ImageSplit(
        search=training,
        repair=_as_in_training(subject, options["recalibrate_images"]) or training,
        certify=data,
        batch_size=min(subject.at_once, _NORMED_TOGETHER),
        seed=subject.seed,
    )


def _latencies(plan: DropPlan, noun: str) -> tuple[Latency, ...]:
    """The times of all sets on the frontier, which the whole page quotes."""
    return tuple(
        Latency(
            tuple(point.dropped), plan.clock.batch, point.latency, plan.points[0].latency, point.share,
            *point.share_interval, noun,
        )
        for point in plan.points
    )  # fmt: skip


def found_of(plan: DropPlan, latency: Latency, terms: Terms) -> str:
    """The recommendation in a sentence or two."""
    point, whole = plan.point, plan.points[0]
    allowed = terms.amount(terms.allowed)
    if not point.dropped:
        return (
            f"No drop is recommended: for none of the sets found do the held-out {latency.nouns} show, with "
            f"{percent(CONFIDENCE)} confidence, that {terms.subject} {terms.change}s by at most {allowed}."
        )
    return (
        f"Recommended: drop {counted(len(point.dropped), 'block')}. "
        + (
            f"Latency falls to {percent(latency.share)}, parameters to "
            if latency.is_less
            else "That it saves time is not shown here; parameters fall to "
        )
        + f"{percent(point.parameters / whole.parameters)}, {terms.subject} "
        + ("" if terms.measure is None else "goes ")
        + f"from {terms.level(whole)} to {terms.level(point)} on held-out {latency.nouns}. With "
        f"{percent(CONFIDENCE)} confidence the {terms.change} is at most {allowed}."
    )


def headline_of(plan: DropPlan, latency: Latency, blocks: int, code: str, terms: Terms) -> Headline:
    """The top of the page. It speaks of time only if the interval shows that time is saved."""
    point, full = plan.point, plan.points[0]
    if not point.dropped:
        kept = "keep accuracy" if terms.measure is None else f"keep the rise of the {terms.words}"
        return Headline(f"No drop is certified to {kept} within {terms.amount(terms.allowed)}")
    change = terms.moved(point, full)
    moved = f"{terms.words} {change}" if change else f"same {terms.words}"
    parameters = point.parameters / full.parameters
    fewer = f"{percent(1 - parameters)} fewer parameters"
    saved = f"{percent(1 - latency.share)} less time" if latency.is_less else fewer
    held_out = f"{plan.images['certify'].count} held-out {latency.nouns}"
    return Headline(
        f"{len(point.dropped)} of {blocks} blocks can be dropped: {saved}, {moved}",
        (
            ("Latency", percent(latency.share), latency.below),
            (terms.title, terms.level(point), f"{terms.level(full)} before; {held_out}"),
            ("Parameters", percent(parameters), f"{point.parameters:,} of {full.parameters:,}"),
            ("Blocks dropped", str(len(point.dropped)), listed(list(map(str, point.dropped)), most=16)),
        ),
        code,
        tuple(point.dropped),
    )


def _details(plan: DropPlan, latency: Latency, subject: Subject, terms: Terms) -> list[str]:
    point, nouns = plan.point, subject.data.nouns
    apart = plan.images["certify"].count
    where = f"half of the {nouns}" if subject.training is None else f"training {nouns}"
    measured = "accuracies are" if terms.measure is None else f"{terms.words} is"
    details = [
        f"The sets of blocks were chosen on {where}. The {measured} measured on "
        f"{counted(apart, f'other {subject.noun}')}. "
        "On these, the sets are tested, smallest first, until one fails; the set before it is recommended. A set "
        + (
            f"passes if its fall is at most the allowed accuracy drop with {percent(CONFIDENCE)} confidence (paired "
            "score test, Tango 1998)."
            if terms.measure is None
            else f"passes if its rise is at most {terms.amount(terms.allowed)} with {percent(CONFIDENCE)} confidence "
            f"(paired by {subject.noun}: a score test for zeros and ones, otherwise the wider of Student's interval "
            "and the bootstrap-t, which is approximate)."
        )
    ]
    if terms.measure is not None and subject.allowed is None:
        details.append(
            f"The allowed rise is {percent(_SHARE_OF_FULL)} of the full network's {terms.words}, since none was given "
            "(--rise)."
        )
    if point.dropped:
        low, high = point.accuracy_interval
        interval = (
            f" The 95 % interval of the smaller model's accuracy is {percent(low)} to {percent(high)}."
            if terms.measure is None
            else ""
        )
        details.append(
            f"Dropped: {_blocks(point, 12)}.{interval} Its forward pass, measured in turn with the full network's, "
            f"takes {latency.below}."
        )
    details += _why_no_more(plan, apart, subject.data.nouns, terms)
    if point.repair == "recalibrated" and terms.measure is None:
        details.append(
            "Recalibrating the batch norms after dropping changes the accuracy by "
            f"{points(point.accuracy - point.plain)}."
        )
    if plan.adapted:
        details.append(
            f"The full network was recalibrated first, because this alone improves it on these {nouns}. The smaller "
            "networks are compared with the recalibrated network."
        )
    return details


def _blocks(point: PlanPoint, most: int) -> str:
    return listed([block_name(name) for name in point.names], most=most)


def _why_no_more(plan: DropPlan, apart: int, nouns: str, terms: Terms) -> list[str]:
    """Why the first set beyond the recommended one failed."""
    if plan.chosen + 1 >= len(plan.points):
        return []
    first = plan.points[plan.chosen + 1]
    seen, bound, allowed = terms.seen(first), terms.bound(first), terms.allowed
    said = (
        f"With the {'next' if plan.chosen else 'first'} set "
        f"({counted(len(first.dropped), 'block')}: {_blocks(first, 6)}) {terms.sentence(seen, bound)}"
    )
    most = "the allowed accuracy drop of " if terms.measure is None else "the allowed "
    if seen >= allowed:
        return [f"{said}: more than {most}{terms.amount(allowed)}."]
    if not math.isfinite(bound):
        return [f"{said}: too few {nouns} to tell whether it is within {terms.amount(allowed)}."]
    needed = math.ceil(apart * ((bound - seen) / (allowed - seen)) ** 2)
    return [
        f"{said}: too few {nouns} to tell whether it is within {terms.amount(allowed)}. About {needed:,} held-out "
        f"{nouns} would suffice if the {terms.change} stayed the same."
    ]


def _code(subject: Subject, plan: DropPlan, options: Options) -> str:
    if not plan.point.dropped:
        return ""
    dropped, images = list(plan.point.dropped), isinstance(subject.data, ImageData)
    if plan.point.repair == "none":
        model = subject.expressions.model
        short = f"smaller = drop_blocks({model}, {dropped})"
        return subject.code(short if images else f"{subject.setup}smaller = drop_blocks(net, {dropped})")
    of_training = f"images = as_in_training(net.model, images, seed={subject.seed})"
    lines = [
        "from resnet_paths.surgery import norms_before",
        *(["from resnet_paths.tradeoff import as_in_training"] if images else []),
        "",
        *subject.setup.splitlines(),
        f"smaller = drop_blocks(net, {dropped})",
        f"{'images' if images else 'examples'} = {subject.training_images_code(options['recalibrate_images'])}",
        *([of_training] if images else []),
        f"keep = norms_before(net, {dropped})",
        f"recalibrate_batchnorm(smaller, {'images' if images else 'examples'}, keep=keep)",
    ]
    return subject.code("\n".join(lines))


def _warnings(subject: Subject, plan: DropPlan, apart: int, most: int) -> tuple[str, ...]:
    warnings, nouns = list(plan.notes), subject.data.nouns
    low, high = plan.point.share_interval
    if high - low > _UNSTEADY:
        warnings.append(
            f"Latency is unsteady: its 95 % interval ranges from {percent(low)} to {percent(high)} of the full "
            "network's. Other load on this machine, or too short a run."
        )
    if subject.training is None:
        warnings.append(f"Blocks were chosen on one half of the {nouns} and judged on the other ({apart} {nouns}).")
    if plan.chosen == most < len(subject.net):
        allowed = "accuracy drop" if isinstance(plan.goal, AccuracyDrop) else "rise"
        warnings.append(
            f"The search stopped at {most} dropped blocks, still within the allowed {allowed}: more may be droppable."
        )
    return tuple(warnings)


def effort(subject: Subject, options: Options) -> Effort:
    """The sets of a greedy search at half a pass each; per point its certificate, repair and latency."""
    n = len(subject.net)
    most = min(options["max_blocks"] or n, n)
    training, held_out = subject.training, subject.count(options["images"])
    certify = held_out if training is not None else held_out - held_out // 2
    search, repair = held_out - certify, 0
    if training is not None:
        search, repair = (
            min(options[name] or len(training), len(training)) for name in ("search_images", "recalibrate_images")
        )
    sets = sum(n - dropped for dropped in range(most))
    at_once, batch = subject.at_once, min(options["batch"], held_out)
    return (
        passes(0 if subject.metric == "error" else 2, held_out, at_once)
        + passes(sets / 2 + 1, search, at_once)
        + passes(3 * (most + 1), certify, at_once)
        + passes(3 * (most + 1), repair, at_once)
        + passes(2 * _CALLS * most, batch, batch)  # the model itself, which is not prepared for speed
        + Effort(seconds=1.0 + 2 * most * options["seconds"])
    )


def _worded(subject: Subject) -> tuple[str, str]:
    accuracy = subject.metric == "error" and subject.rise is None
    return STAGE.title if accuracy else f"{subject.measure.title} against latency", STAGE.question


STAGE = Stage(
    name="frontier",
    title="Accuracy against latency",
    question="Which blocks can be dropped, and what does that save?",
    run=run,
    quick={
        "images": 1000,
        "search_images": 200,
        "recalibrate_images": 300,
        "max_blocks": 16,
        "batch": 32,
        "seconds": 0.05,
    },
    full={"images": None, "search_images": 1000, "recalibrate_images": 2000, "max_blocks": None, "seconds": 1.0},
    weight=30,
    least={"images": 30, "search_images": 15, "recalibrate_images": 30, "max_blocks": 2, "batch": 1},
    effort=effort,
    worded=_worded,
)
