"""Shared by the commands that drop blocks: goals, searches and repairs by name, images by role, the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import resnet_paths as rp

from ..text_tables import show, table
from ._inputs import Source, model_and_source, unrolled
from ._smaller import form_for
from .options import Planning, Repair, Subject

if TYPE_CHECKING:
    from torch import nn


def goal_of(options: Planning, data: rp.data.InMemory) -> rp.tradeoff.Goal:
    """The one goal that was given; by default, for images, a fall in accuracy of at most 1 %.

    Raises:
        ValueError: more than one goal, or none for data other than images.
    """
    from ..data.fitting import usual_metric

    names = ("latency", "accuracy_drop", "disagreement", "rise", "count")
    flags = {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
    given = [flag for flag, value in flags.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"expected one of {', '.join(flags)}, got {' and '.join(given)}")
    if options.latency is not None:
        return rp.tradeoff.Latency(options.latency, options.confidence)
    if options.disagreement is not None:
        return rp.tradeoff.Disagreement(options.disagreement, options.confidence)
    if options.count is not None:
        return rp.tradeoff.Count(options.count)
    if options.rise is not None:
        return rp.tradeoff.Rise(options.metric or usual_metric(data), options.rise, options.confidence)
    if not given and not isinstance(data, rp.ImageData):
        raise ValueError(
            f"expected one of {', '.join(flags)} for {data.nouns}, got none; such as --metric "
            f"{usual_metric(data)} --rise 0.1"
        )
    return rp.tradeoff.AccuracyDrop(
        0.01 if options.accuracy_drop is None else options.accuracy_drop, options.confidence
    )


def search_of(options: Planning) -> rp.tradeoff.Search:
    """The search, by name."""
    searches = {"greedy": rp.tradeoff.Greedy, "beam": rp.tradeoff.Beam, "exact": rp.tradeoff.Exact}
    metric = options.metric if options.rise is None else None  # then a smooth one of the same kind
    search: rp.tradeoff.Search = searches[options.search](metric=metric, max_blocks=options.max_blocks)
    return search


def repair_of(name: Repair) -> rp.tradeoff.Closed:
    """The repair, by name."""
    repairs = {"refit": rp.tradeoff.Refit, "recalibrate": rp.tradeoff.Recalibrate, "none": rp.tradeoff.NoRepair}
    repair: rp.tradeoff.Closed = repairs[name]()
    return repair


@dataclass(frozen=True)
class PlanImages:
    """The images of a plan on the command line.

    Attributes:
        training: those of the source, unchanged.
        used: the same, augmented as in training, as inferred from the batch norms.
        test: the images that certify.
    """

    training: rp.data.InMemory
    used: rp.data.InMemory
    test: rp.data.InMemory

    @classmethod
    def of(cls, network: nn.Module, source: Source, limit: int | None, repair: rp.tradeoff.Repair) -> PlanImages:
        """Read the images."""
        from ..data.classes import numbered_alike
        from ..network.norms import tracking_norms
        from ..tradeoff.split import check_apart

        test, training = source.examples(network, "test"), source.examples(network, "train", limit)
        if isinstance(test, rp.ImageData) and isinstance(training, rp.ImageData):
            training, test = numbered_alike(training, test)  # one of them may lack a class
        try:
            check_apart({"certify": test, "search": training}, "certify", ("search",))
        except ValueError as error:
            raise ValueError(
                f"expected --data whose training and test images differ: {error}".partition(";")[0]
                + "; give a folder with train and test (or val) in it"
            ) from None
        fitted = repair.needs_images and bool(tracking_norms(network)) and isinstance(training, rp.ImageData)
        return cls(training, rp.tradeoff.as_in_training(network, training) if fitted else training, test)

    def split(self, repair: rp.tradeoff.Repair, seed: int = 0) -> rp.tradeoff.ImageSplit:
        """Test images certify; training images are split if a repair must not see those searched on."""
        if repair.learns:
            return rp.tradeoff.ImageSplit(search=1.0, repair=1.0, certify=self.test, seed=seed)
        return rp.tradeoff.ImageSplit(search=self.used, repair=self.used, certify=self.test, seed=seed)


def distilled(repair: rp.tradeoff.Closed, data: rp.data.InMemory, epochs: int, rate: float) -> rp.tradeoff.Repair:
    """The repair, followed by fine-tuning, with the augmentation of images; other targets than classes are not used."""
    from ..data.fitting import target_kinds

    options: dict[str, Any] = {"shift": 0, "flip": False}
    if isinstance(data, rp.ImageData):
        channels, side = data.images.shape[1], data.images.shape[-1]
        options = {"shift": side // 8, "flip": channels > 1}
    if "class" not in target_kinds(data):
        options["weight"] = 1.0
    return rp.tradeoff.Distil(rp.tradeoff.Distillation(epochs=epochs, lr=rate, **options), repair, data)


def repair_said(repair: rp.tradeoff.Closed, network: nn.Module, images: rp.data.InMemory) -> str:
    """One line on which images the repair used."""
    from ..network.norms import tracking_norms

    if isinstance(repair, rp.tradeoff.Recalibrate) and not tracking_norms(network):
        return "The model has no batch norms that keep statistics: nothing was recalibrated"
    done = {"Recalibrate": "Searched and recalibrated", "Refit": "Searched and refitted"}
    return f"{done.get(type(repair).__name__, 'Searched')} on {images.name}"


def check_enough(goal: rp.tradeoff.Goal, images: rp.data.InMemory) -> None:
    """Refuse, before a long search, a goal that cannot be certified.

    Raises:
        ValueError: fewer images than a certificate needs.
    """
    if isinstance(goal, rp.tradeoff.Latency | rp.tradeoff.Count):
        return
    if len(images) < goal.least_images:
        raise ValueError(
            f"expected at least {goal.least_images} test {images.nouns} to show that {goal}, got {len(images)}; pass "
            f"more {images.nouns}, allow a larger fall, or ask for less confidence"
        )


def show_plan(plan: rp.tradeoff.DropPlan, screen: Console) -> None:
    """The table, and notes on the choice."""
    show(screen, plan_table(plan))
    screen.print(plan.summary)
    if plan.adapted:
        screen.print(
            "The full network was recalibrated first: this alone improves it on these "
            f"{plan.images['search'].nouns}, so the smaller networks are compared with the recalibrated network"
        )
    for note in plan.notes:
        screen.print(f"Note: {note}")
    if plan.finetuned is not None:
        kept, tuned = "" if plan.keeps_finetuned else "; it is not used", plan.finetuned
        reached = f"{tuned.accuracy:.2%}" if tuned.value is None else f"{tuned.metric} {tuned.value:.4g}"
        screen.print(f"Fine-tuned: {reached} ({tuned.reason}){kept}")


def plan_table(plan: rp.tradeoff.DropPlan) -> Table:
    """One row per point."""
    return _metric_table(plan) if plan.points[0].metric else _accuracy_table(plan)


def _certified(plan: rp.tradeoff.DropPlan) -> str:
    certify = plan.images["certify"]
    return f"{certify.count} {certify.nouns}"


def _metric_table(plan: rp.tradeoff.DropPlan) -> Table:
    """The metric of a goal instead of accuracies."""
    full, clock = plan.points[0], plan.clock
    nouns = plan.images["certify"].nouns
    rows = table(f"Time for {clock.batch} {nouns}, {clock.runtime}; {full.metric} on {_certified(plan)}")
    rows.add_column("", no_wrap=True)
    rows.add_column("gone", justify="right", no_wrap=True)
    rows.add_column("latest block", no_wrap=True)
    for name in (full.metric, "rise", "at most", "time", "param."):
        rows.add_column(name, justify="right", no_wrap=True)
    before = set[str]()
    for index, point in enumerate(plan.points):
        new, before = [name for name in point.names if name not in before], set(point.names)
        rows.add_row(
            "*" if index == plan.chosen else "",
            str(len(point.dropped)),
            "\n".join(new),
            f"{point.value or 0:.4g}",
            f"{point.rise or 0:+.4g}",
            "" if point.rise_at_most is None else f"{point.rise_at_most:+.4g}",
            f"{point.share:.2f}",
            f"{point.parameters / max(1, full.parameters):.2f}",
        )
    return rows


def _accuracy_table(plan: rp.tradeoff.DropPlan) -> Table:
    """One row per point; at most 80 columns wide with names of up to 25 letters, which are never cut."""
    clock = plan.clock
    nouns = plan.images["certify"].nouns
    rows = table(f"Time for {clock.batch} {nouns}, {clock.runtime}; accuracy on {_certified(plan)}")
    rows.add_column("", no_wrap=True)
    rows.add_column("gone", justify="right", no_wrap=True)
    rows.add_column("latest block", no_wrap=True)
    for name in ("plain", "repaired", "95 % interval", "time", "MACs", "param."):
        rows.add_column(name, justify="right", no_wrap=True)
    full, before = plan.points[0], set[str]()
    for index, point in enumerate(plan.points):
        new, before = [name for name in point.names if name not in before], set(point.names)
        low, high = point.accuracy_interval
        rows.add_row(
            "*" if index == plan.chosen else "",
            str(len(point.dropped)),
            "\n".join(new),
            f"{point.plain:.1%}",
            f"{point.accuracy:.1%}",
            f"{100 * low:.1f}-{100 * high:.1f}",
            f"{point.share:.2f}",
            f"{point.macs / max(1, full.macs):.2f}",
            f"{point.parameters / max(1, full.parameters):.2f}",
        )
    return rows


def source_of(subject: Subject, limit: int | None, finetune_limit: int | None = None) -> dict[str, Any]:
    """Where the plan's model and images come from; ``drop --plan`` reads it."""
    return {**asdict(subject), "limit": limit, "finetune_limit": finetune_limit}


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan made on the command line, what it was made from, and its files."""

    plan: rp.tradeoff.DropPlan
    net: rp.UnrolledNetwork
    images: PlanImages
    split: rp.tradeoff.ImageSplit
    repair: rp.tradeoff.Closed
    files: dict[str, Path]

    def show(self, screen: Console) -> None:
        """The table, and which images the repair used."""
        show_plan(self.plan, screen)
        screen.print(repair_said(self.repair, self.net.model, self.images.used))


def planned(subject: Subject, options: Planning, out: Path, *, packages: Sequence[str] = ()) -> Planned:
    """Make a plan, and write it with its plot and its journal to a folder.

    Args:
        subject: the model and the images.
        options: how to plan.
        out: the folder.
        packages: what the command needs of ONNX, checked before any long work and after all arguments.
    """
    from ..tradeoff.planner import check_goal, most_blocks

    search, repair = search_of(options), repair_of(options.repair)
    clock = rp.tradeoff.Clock(
        batch=options.latency_batch, threads=options.threads, runtime=options.runtime, seconds=options.latency_seconds
    )
    network, source = model_and_source(subject)
    images = PlanImages.of(network, source, options.limit, repair)
    form_for(images.test, network)
    goal = goal_of(options, images.test)
    check_goal(goal, search, {"search": images.used, "certify": images.test})
    check_enough(goal, images.test)
    net = unrolled(network, images.test)
    used: rp.tradeoff.Repair = repair
    if options.finetune_epochs:
        lessons = source.examples(network, "train", options.finetune_limit)
        used = distilled(repair, lessons, options.finetune_epochs, options.finetune_rate or 0.01)
    split = replace(images.split(used, options.seed), batch_size=options.batch_size)
    most_blocks(goal, search, len(net))
    rp.surgery.export.check_onnx(packages)
    out.mkdir(parents=True, exist_ok=True)
    plan = rp.plan_drop(
        net,
        images.used,
        goal=goal,
        search=search,
        repair=used,
        split=split,
        clock=clock,
        journal=out / "journal.sqlite",
    )
    plan = replace(plan, source=source_of(subject, options.limit, options.finetune_limit))
    picture = rp.plot.save(rp.plot.plot_plan(plan), out / "plan.png")
    return Planned(plan, net, images, split, repair, {"plan": plan.save(out / "plan.json"), "picture": picture})
