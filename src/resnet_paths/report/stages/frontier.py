"""What can be dropped, and what that saves."""

from __future__ import annotations

import math

from ...data import ImageData
from ...plot import plot_plan
from ...surgery import drop_blocks
from ...tradeoff import DropPlan, Latency, as_in_training, latencies_in_turn, plan_drop
from ..pictures import picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent, points, seconds

CONFIDENCE = 0.95
_LONGER = 4  # times as long as a point of the frontier the recommendation's latency is measured


def run(subject: Subject, options: Options) -> Section:
    """Greedy search for blocks to drop; accuracy and latency of the real smaller models."""
    training = _as_in_training(subject, options["search_images"])
    data = subject.images(options["images"])
    most = min(options["most"] or len(subject.net), len(subject.net))
    plan = plan_drop(
        subject.net,
        data if training is None else training,
        accuracy_drop=subject.tolerance,
        confidence=CONFIDENCE,
        most=most,
        recalibrate=_as_in_training(subject, options["recalibrate_images"]),
        report=None if training is None else data,
        batch=options["batch"],
        seconds=options["seconds"],
        batch_size=subject.batch_size,
        seed=subject.seed,
        progress=False,
    )
    apart = len(data) if training is not None else len(data) - len(data) // 2
    before, after = _timed(subject, plan, options)
    found = _found(plan, before, after)
    reading = (found, *_details(plan, before, after, training is not None, apart))
    chosen = plan.point
    alt = (
        f"Accuracy against latency as 0 to {len(plan.points) - 1} blocks are dropped: "
        f"{percent(plan.points[0].accuracy)} with all, {percent(accuracy_of(plan, plan.chosen))} at the chosen point "
        f"with {len(chosen.dropped)} dropped, {percent(accuracy_of(plan, len(plan.points) - 1))} at the last."
    )
    drawn = picture(lambda ax: plot_plan(plan, ax), alt)
    frame = plan.to_pandas().assign(
        dropped=[" ".join(map(str, point.dropped)) for point in plan.points],
        names=[" ".join(point.names) for point in plan.points],
    )
    table = Table.of("frontier", f"Greedy search, latency in seconds of {plan.batch} images", frame)
    part = Part("Accuracy against latency", reading, drawn, (table,), _code(subject, plan, options))
    return Section((part,), (found,), _warnings(subject, plan, before, after, apart, most))


def _as_in_training(subject: Subject, count: int | None) -> ImageData | None:
    images = subject.training_images(count)
    return None if images is None else as_in_training(subject.model, images, seed=subject.seed)


def accuracy_of(plan: DropPlan, index: int) -> float:
    """A point's accuracy on the images kept apart, as the model would be used."""
    point = plan.points[index]
    return point.accuracy if point.recalibrated is None else point.recalibrated


def _timed(subject: Subject, plan: DropPlan, options: Options) -> tuple[Latency, Latency]:
    """The whole model and the chosen one in turn, so that other work on the machine slows both."""
    x, _ = subject.batch(plan.batch)
    models = (subject.model, drop_blocks(subject.net, list(plan.point.dropped)))
    before, after = latencies_in_turn(models, x, seconds=_LONGER * options["seconds"])
    return before, after


def _found(plan: DropPlan, before: Latency, after: Latency) -> str:
    point, whole = plan.point, plan.points[0]
    allowed = points(plan.accuracy_drop or 0.0).lstrip("+")
    if not point.dropped:
        return (
            f"No drop is recommended: for none of the sets of blocks found do the images kept apart show, with "
            f"{percent(CONFIDENCE)} confidence, that accuracy falls by at most {allowed}."
        )
    return (
        f"Recommended: drop {counted(len(point.dropped), 'block')}. Latency goes to "
        f"{percent(after.median / before.median)}, parameters to {percent(point.parameters / whole.parameters)}, "
        f"accuracy from {percent(whole.accuracy)} to {percent(accuracy_of(plan, plan.chosen))} on images kept apart; "
        f"with {percent(CONFIDENCE)} confidence the fall is at most {allowed}."
    )


def _details(plan: DropPlan, before: Latency, after: Latency, trained: bool, apart: int) -> list[str]:
    point = plan.point
    low, high = point.recalibrated_interval or point.accuracy_interval
    where = "training images" if trained else "one half of the images"
    details = [
        f"The sets of blocks were chosen on {where}; the accuracies are those of {counted(apart, 'other image')}. "
        "There the sets are tested, smallest first, until one fails; the one before it is recommended. A set passes "
        f"if its fall is at most the tolerance with {percent(CONFIDENCE)} confidence (paired score test, Tango 1998)."
    ]
    if point.dropped:
        details.append(
            f"Dropped: {listed(point.names, most=12)}. The 95 % interval of the smaller model's accuracy is "
            f"{percent(low)} to {percent(high)}. One pass of {counted(before.batch, 'image')} takes "
            f"{seconds(before.median)} before and {seconds(after.median)} after (medians, {before.device}, "
            f"{counted(before.threads, 'thread')}), measured in turn."
        )
    details += _why_no_more(plan, apart)
    if point.recalibrated is not None and point.dropped:
        details.append(
            "Measuring the batch-norm statistics again after dropping changes the accuracy by "
            f"{points(point.recalibrated - point.accuracy)}."
        )
    return details


def _why_no_more(plan: DropPlan, apart: int) -> list[str]:
    """What the first set beyond the recommended one lacks."""
    if plan.chosen + 1 >= len(plan.points):
        return []
    first = plan.points[plan.chosen + 1]
    bound, allowed = first.fall_at_most or 0.0, plan.accuracy_drop or 0.0
    said = (
        f"With the {'next' if plan.chosen else 'first'} set "
        f"({counted(len(first.dropped), 'block')}: {listed(first.names, most=6)}) accuracy falls by "
        f"{_share(first.fall)}, and with {percent(CONFIDENCE)} confidence by at most {_share(bound)}"
    )
    if first.fall >= allowed:
        return [f"{said}: more than the tolerance of {_share(allowed)}."]
    needed = math.ceil(apart * ((bound - first.fall) / (allowed - first.fall)) ** 2)
    return [
        f"{said}: too few images to tell whether it is within {_share(allowed)}. About {needed:,} images kept apart "
        "would do if the fall stayed the same."
    ]


def _share(fall: float) -> str:
    return points(fall).removeprefix("+")


def _code(subject: Subject, plan: DropPlan, options: Options) -> str:
    if not plan.point.dropped:
        return ""
    dropped = list(plan.point.dropped)
    if plan.point.recalibrated is None:
        return subject.code(f"smaller = drop_blocks({subject.model_code}, {dropped})")
    lines = [
        "from resnet_paths.surgery import norms_before",
        "from resnet_paths.tradeoff import as_in_training",
        "",
        f"net = unroll({subject.model_code})",
        f"smaller = drop_blocks(net, {dropped})",
        f"images = {subject.training_images_code(options['recalibrate_images'])}",
        f"images = as_in_training(net.model, images, seed={subject.seed})",
        f"keep = norms_before(net, {dropped})",
        "recalibrate_batchnorm(smaller, images, keep=keep)",
    ]
    return subject.code("\n".join(lines))


def _warnings(
    subject: Subject, plan: DropPlan, before: Latency, after: Latency, apart: int, most: int
) -> tuple[str, ...]:
    found = []
    spread = max((side.high - side.low) / side.median for side in (before, after))
    if spread > 0.1:
        found.append(
            f"Latency is unsteady: the middle half of the timings spreads over {percent(spread)} of the median. Other "
            "work on this machine, or too short a run."
        )
    if before.runs < 10 or after.runs < 10:
        found.append(f"Latency rests on {min(before.runs, after.runs)} timings only: too short a run.")
    if subject.training is None:
        found.append(f"Blocks were chosen and judged on halves of the images: {apart} to judge.")
    if plan.chosen == most < len(subject.net):
        found.append(f"The search stopped at {most} dropped blocks, still within the tolerance: more may go.")
    return tuple(found)


STAGE = Stage(
    name="frontier",
    title="Accuracy against latency",
    question="Which blocks can go, and what does going without them save?",
    run=run,
    quick={
        "images": 1000,
        "search_images": 250,
        "recalibrate_images": 400,
        "most": 16,
        "batch": 32,
        "seconds": 0.15,
    },
    full={"images": None, "search_images": 1000, "recalibrate_images": 2000, "most": None, "seconds": 1.0},
    weight=22,
)
