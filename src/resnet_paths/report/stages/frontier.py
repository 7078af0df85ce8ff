"""Which blocks can be dropped, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...data import ImageData
from ...plot import plot_plan
from ...tradeoff import (
    AccuracyDrop,
    Clock,
    DropPlan,
    Greedy,
    ImageSplit,
    NoRepair,
    Recalibrate,
    as_in_training,
    plan_drop,
)
from ..effort import Effort, passes
from ..pictures import Mark, marks, picture
from ..section import Headline, Latency, Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent, points, seconds

CONFIDENCE = 0.95
_ROUNDS = 6  # the fewest that hold a median
_CALLS = 4 + 2 * _ROUNDS  # of a network that is timed, however long it takes
_FEWEST = 4  # images: two for each role
_UNSTEADY = 0.1  # of the time: an interval so wide is said


def run(subject: Subject, options: Options) -> Section:
    """Greedy search for blocks to drop; accuracy and latency of the smaller models."""
    training = _as_in_training(subject, options["search_images"])
    data = subject.images(options["images"])
    most = min(options["max_blocks"] or len(subject.net), len(subject.net))
    if training is None and len(data) < _FEWEST:
        raise NotApplicableError(f"{counted(len(data), 'image')} cannot be divided into images to search and to report")
    plan = plan_drop(
        subject.net,
        data if training is None else training,
        goal=AccuracyDrop(subject.accuracy_drop, CONFIDENCE),
        search=Greedy(max_blocks=most),
        repair=NoRepair() if training is None else Recalibrate(),
        split=_split(subject, data, training, options),
        clock=Clock(batch=options["batch"], threads=subject.threads, seconds=options["seconds"], rounds=_ROUNDS),
        full_frontier=True,
        progress=False,
    )
    apart = plan.images["certify"].count
    latencies = _latencies(plan)
    latency = latencies[plan.chosen]
    found = found_of(plan, latency)
    reading = (found, *_details(plan, latency, training is not None, apart))
    chosen = plan.point
    alt = (
        f"Accuracy against latency as 0 to {len(plan.points) - 1} blocks are dropped: "
        f"{percent(plan.points[0].accuracy)} with all, {percent(plan.point.accuracy)} at the chosen point "
        f"with {len(chosen.dropped)} dropped, {percent(plan.points[-1].accuracy)} at the last."
    )
    frame = plan.to_pandas().assign(
        dropped=[" ".join(map(str, point.dropped)) for point in plan.points],
        names=[" ".join(point.names) for point in plan.points],
    )
    table = Table.of("frontier", f"Greedy search, latency in seconds for {counted(plan.clock.batch, 'image')}", frame)
    drawn = picture(lambda ax: plot_plan(plan, ax), alt, _tips(table))
    code = _code(subject, plan, options)
    part = Part("Accuracy against latency", reading, drawn, (table,), code)
    headline = headline_of(plan, latency, len(subject.net), apart, code)
    return Section((part,), (found,), _warnings(subject, plan, apart, most), headline, latencies)


def _tips(table: Table) -> list[Mark]:
    """As dropped, at the heights that are drawn; the latency in the table is in seconds."""

    def text(row: Mapping[str, Any]) -> str:
        repaired = f", {percent(row['accuracy'])} {row['repair']}" if row["repair"] != "none" else ""
        return (
            f"{counted(row['count'], 'block')} dropped: {percent(row['plain'])} right{repaired}, "
            f"{seconds(row['latency'])}"
        )

    return [replace(mark, x=1e3 * mark.x) for mark in marks(table, text, y="plain", x="latency")]


def _as_in_training(subject: Subject, count: int | None) -> ImageData | None:
    images = subject.training_images(count)
    return None if images is None else as_in_training(subject.model, images, seed=subject.seed)


def _split(subject: Subject, data: ImageData, training: ImageData | None, options: Options) -> ImageSplit:
    """Training images, if there are any, choose and repair; the others certify."""
    if training is None:
        return ImageSplit(search=1.0, certify=1.0, batch_size=subject.at_once, seed=subject.seed)
    return ImageSplit(
        search=training,
        repair=_as_in_training(subject, options["recalibrate_images"]) or training,
        certify=data,
        batch_size=subject.at_once,
        seed=subject.seed,
    )


def _latencies(plan: DropPlan) -> tuple[Latency, ...]:
    """The times of all sets on the frontier, by which the whole page names them."""
    return tuple(
        Latency(
            tuple(point.dropped), plan.clock.batch, point.latency, plan.points[0].latency, point.share,
            *point.share_interval,
        )
        for point in plan.points
    )  # fmt: skip


def found_of(plan: DropPlan, latency: Latency) -> str:
    """The recommendation in a sentence or two."""
    point, whole = plan.point, plan.points[0]
    allowed = points(_allowed(plan)).lstrip("+")
    if not point.dropped:
        return (
            f"No drop is recommended: for none of the sets found do the held-out images show, with "
            f"{percent(CONFIDENCE)} confidence, that accuracy falls by at most {allowed}."
        )
    return (
        f"Recommended: drop {counted(len(point.dropped), 'block')}. "
        + (
            f"Latency falls to {percent(latency.share)}, parameters to "
            if latency.is_less
            else "That it saves time is not shown here; parameters fall to "
        )
        + f"{percent(point.parameters / whole.parameters)}, "
        f"accuracy from {percent(whole.accuracy)} to {percent(point.accuracy)} on held-out images. With "
        f"{percent(CONFIDENCE)} confidence the fall is at most {allowed}."
    )


def headline_of(plan: DropPlan, latency: Latency, blocks: int, held_out: int, code: str) -> Headline:
    """The top of the page. It speaks of time only if the interval shows that time is saved."""
    point, full = plan.point, plan.points[0]
    if not point.dropped:
        allowed = points(_allowed(plan)).lstrip("+")
        return Headline(f"No drop is certified to keep accuracy within {allowed}")
    fall = point.accuracy - full.accuracy
    moved = "same accuracy" if fall == 0 else f"accuracy {points(fall)}"
    parameters = point.parameters / full.parameters
    fewer = f"{percent(1 - parameters)} fewer parameters"
    saved = f"{percent(1 - latency.share)} less time" if latency.is_less else fewer
    return Headline(
        f"{len(point.dropped)} of {blocks} blocks can be dropped: {saved}, {moved}",
        (
            ("Latency", percent(latency.share), latency.below),
            ("Accuracy", percent(point.accuracy), f"{percent(full.accuracy)} before; {held_out} held-out images"),
            ("Parameters", percent(parameters), f"{point.parameters:,} of {full.parameters:,}"),
            ("Blocks dropped", str(len(point.dropped)), listed(list(map(str, point.dropped)), most=16)),
        ),
        code,
        tuple(point.dropped),
    )


def _details(plan: DropPlan, latency: Latency, trained: bool, apart: int) -> list[str]:
    point = plan.point
    low, high = point.accuracy_interval
    where = "training images" if trained else "half of the images"
    details = [
        f"The sets of blocks were chosen on {where}. The accuracies are measured on {counted(apart, 'other image')}. "
        "On these, the sets are tested, smallest first, until one fails; the set before it is recommended. A set "
        f"passes if its fall is at most the allowed accuracy drop with {percent(CONFIDENCE)} confidence (paired score "
        "test, Tango 1998)."
    ]
    if point.dropped:
        details.append(
            f"Dropped: {listed(point.names, most=12)}. The 95 % interval of the smaller model's accuracy is "
            f"{percent(low)} to {percent(high)}. Its forward pass, measured in turn with the full network's, takes "
            f"{latency.below}."
        )
    details += _why_no_more(plan, apart)
    if point.repair == "recalibrated":
        details.append(
            "Recalibrating the batch norms after dropping changes the accuracy by "
            f"{points(point.accuracy - point.plain)}."
        )
    if plan.adapted:
        details.append(
            "The full network was recalibrated first, because this alone improves it on these images. The smaller "
            "networks are compared with the recalibrated network."
        )
    return details


def _why_no_more(plan: DropPlan, apart: int) -> list[str]:
    """Why the first set beyond the recommended one failed."""
    if plan.chosen + 1 >= len(plan.points):
        return []
    first = plan.points[plan.chosen + 1]
    bound, allowed = first.fall_at_most or 0.0, _allowed(plan)
    said = (
        f"With the {'next' if plan.chosen else 'first'} set "
        f"({counted(len(first.dropped), 'block')}: {listed(first.names, most=6)}) accuracy falls by "
        f"{_share(first.fall)}, and with {percent(CONFIDENCE)} confidence by at most {_share(bound)}"
    )
    if first.fall >= allowed:
        return [f"{said}: more than the allowed accuracy drop of {_share(allowed)}."]
    needed = math.ceil(apart * ((bound - first.fall) / (allowed - first.fall)) ** 2)
    return [
        f"{said}: too few images to tell whether it is within {_share(allowed)}. About {needed:,} held-out images "
        "would suffice if the fall stayed the same."
    ]


def _allowed(plan: DropPlan) -> float:
    return plan.goal.drop if isinstance(plan.goal, AccuracyDrop) else 0.0


def _share(fall: float) -> str:
    return points(fall).removeprefix("+")


def _code(subject: Subject, plan: DropPlan, options: Options) -> str:
    if not plan.point.dropped:
        return ""
    dropped = list(plan.point.dropped)
    if plan.point.repair == "none":
        return subject.code(f"smaller = drop_blocks({subject.expressions.model}, {dropped})")
    lines = [
        "from resnet_paths.surgery import norms_before",
        "from resnet_paths.tradeoff import as_in_training",
        "",
        f"net = unroll({subject.expressions.model})",
        f"smaller = drop_blocks(net, {dropped})",
        f"images = {subject.training_images_code(options['recalibrate_images'])}",
        f"images = as_in_training(net.model, images, seed={subject.seed})",
        f"keep = norms_before(net, {dropped})",
        "recalibrate_batchnorm(smaller, images, keep=keep)",
    ]
    return subject.code("\n".join(lines))


def _warnings(subject: Subject, plan: DropPlan, apart: int, most: int) -> tuple[str, ...]:
    found = list(plan.notes)
    low, high = plan.point.share_interval
    if high - low > _UNSTEADY:
        found.append(
            f"Latency is unsteady: its 95 % interval ranges from {percent(low)} to {percent(high)} of the full "
            "network's. Other load on this machine, or too short a run."
        )
    if subject.training is None:
        found.append(f"Blocks were chosen on one half of the images and judged on the other ({apart} images).")
    if plan.chosen == most < len(subject.net):
        found.append(
            f"The search stopped at {most} dropped blocks, still within the allowed accuracy drop: more may be "
            "droppable."
        )
    return tuple(found)


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
        passes(sets / 2 + 1, search, at_once)
        + passes(3 * (most + 1), certify, at_once)
        + passes(3 * (most + 1), repair, at_once)
        + passes(2 * _CALLS * most, batch, batch)  # the model itself, which is not prepared for speed
        + Effort(seconds=1.0 + 2 * most * options["seconds"])
    )


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
)
