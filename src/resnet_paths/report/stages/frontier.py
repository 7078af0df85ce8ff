"""What can be dropped, and what that saves."""

from __future__ import annotations

from ...data import ImageData
from ...plot import plot_plan
from ...surgery import drop_blocks
from ...tradeoff import DropPlan, Latency, as_in_training, measure_latency, plan_drop
from ..pictures import picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent, points, seconds


def run(subject: Subject, options: Options) -> Section:
    """Greedy search for blocks to drop; accuracy and latency of the real smaller models."""
    training = _as_in_training(subject, options["search_images"])
    data = subject.images(options["images"])
    most = min(options["most"] or len(subject.net), len(subject.net))
    plan = plan_drop(
        subject.net,
        data if training is None else training,
        accuracy_drop=subject.tolerance,
        most=most,
        recalibrate=_as_in_training(subject, options["recalibrate_images"]),
        report=None if training is None else data,
        batch=options["batch"],
        seconds=options["seconds"],
        batch_size=subject.batch_size,
        seed=subject.seed,
        progress=False,
    )
    before, after = _timed(subject, plan, options)
    found = _found(plan, before, after)
    reading = (found, *_details(plan, before, after, training is not None))
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
    part = Part("Accuracy against latency", reading, drawn, (table,), _code(subject, plan))
    return Section((part,), (found,), _warnings(subject, plan, before, after, len(data), most))


def _as_in_training(subject: Subject, count: int | None) -> ImageData | None:
    images = subject.training_images(count)
    return None if images is None else as_in_training(subject.model, images, seed=subject.seed)


def accuracy_of(plan: DropPlan, index: int) -> float:
    """A point's accuracy on the images kept apart, as the model would be used."""
    point = plan.points[index]
    return point.accuracy if point.recalibrated is None else point.recalibrated


def _timed(subject: Subject, plan: DropPlan, options: Options) -> tuple[Latency, Latency]:
    """The whole model and the chosen one, one after the other, with quartiles."""
    x, _ = subject.batch(plan.batch)
    smaller = drop_blocks(subject.net, list(plan.point.dropped))
    before = measure_latency(subject.model, x, seconds=4 * options["seconds"])
    return before, measure_latency(smaller, x, seconds=4 * options["seconds"])


def _found(plan: DropPlan, before: Latency, after: Latency) -> str:
    point, whole = plan.point, plan.points[0]
    if not point.dropped:
        return "No block can be dropped within the tolerance on the images on which blocks were chosen."
    return (
        f"Recommended: drop {counted(len(point.dropped), 'block')}. Latency goes to "
        f"{percent(after.median / before.median)}, parameters to {percent(point.parameters / whole.parameters)}, "
        f"accuracy from {percent(whole.accuracy)} to {percent(accuracy_of(plan, plan.chosen))} on images kept apart."
    )


def _details(plan: DropPlan, before: Latency, after: Latency, trained: bool) -> list[str]:
    point, whole = plan.point, plan.points[0]
    low, high = point.recalibrated_interval or point.accuracy_interval
    where = "training images" if trained else "one half of the images"
    details = [
        f"Blocks were searched on {where}, and these accuracies are on others: the chosen model's 95 % interval is "
        f"{percent(low)} to {percent(high)}, a change of "
        f"{points(accuracy_of(plan, plan.chosen) - whole.accuracy)}. The recommended "
        "point is the last whose accuracy on the search images stays within the tolerance."
    ]
    if point.dropped:
        details.append(
            f"Dropped: {listed(point.names, most=12)}. One pass of {before.batch} images takes "
            f"{seconds(before.median)} before and {seconds(after.median)} after (medians, {before.device}, "
            f"{counted(before.threads, 'thread')})."
        )
    if point.recalibrated is not None and point.dropped:
        details.append(
            "Measuring the batch-norm statistics again after dropping changes the accuracy by "
            f"{points(point.recalibrated - point.accuracy)}."
        )
    return details


def _code(subject: Subject, plan: DropPlan) -> str:
    if not plan.point.dropped:
        return ""
    dropped = list(plan.point.dropped)
    if plan.point.recalibrated is None:
        return subject.code(f"smaller = drop_blocks({subject.model_code}, {dropped})")
    lines = [
        "from resnet_paths.tradeoff import as_in_training, norms_before",
        "",
        f"net = unroll({subject.model_code})",
        f"smaller = drop_blocks(net, {dropped})",
        f"keep = norms_before(net, {dropped})",
        f"images = as_in_training(net.model, {subject.training_code})",
        "recalibrate_batchnorm(smaller, images.batches(100), keep=keep)",
    ]
    return subject.code("\n".join(lines))


def _warnings(
    subject: Subject, plan: DropPlan, before: Latency, after: Latency, images: int, most: int
) -> tuple[str, ...]:
    found = []
    fall = plan.points[0].accuracy - accuracy_of(plan, plan.chosen)
    if fall > subject.tolerance:
        found.append(
            f"On the images kept apart the recommended drop costs {points(fall).lstrip('+')} of accuracy, more than "
            f"the tolerance of {points(subject.tolerance).lstrip('+')} that it keeps on the search images: too few of "
            "those. --budget full searches on more; a smaller --tolerance drops less."
        )
    spread = max((side.high - side.low) / side.median for side in (before, after))
    if spread > 0.1:
        found.append(
            f"Latency is unsteady: the middle half of the timings spreads over {percent(spread)} of the median. Other "
            "work on this machine, or too short a run."
        )
    if before.runs < 10 or after.runs < 10:
        found.append(f"Latency rests on {min(before.runs, after.runs)} timings only: too short a run.")
    if subject.training is None:
        found.append(f"Blocks were chosen and judged on halves of {counted(images, 'image')}.")
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
