"""What the commands that drop blocks share: goals, searches and repairs by name, images by role, the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from ..data import ImageData
from ..network import UnrolledNetwork
from ..network.norms import tracking_norms
from ..plot import plot_plan, save
from ..tradeoff import (
    AccuracyDrop,
    Beam,
    Clock,
    Closed,
    Count,
    Disagreement,
    Distil,
    Distillation,
    DropPlan,
    Exact,
    Goal,
    Greedy,
    ImageSplit,
    Latency,
    NoRepair,
    Recalibrate,
    Refit,
    Repair,
    Search,
    as_in_training,
    plan_drop,
)
from ..tradeoff.split import check_apart
from ._common import Source, model_and_source, unrolled
from ._tables import show, table

LatencyOption = Annotated[float | None, typer.Option(help="Share of the full network's time to reach, such as 0.8.")]
AccuracyDropOption = Annotated[float | None, typer.Option(help="Fall of accuracy allowed, such as 0.01.")]
DisagreementOption = Annotated[float | None, typer.Option(help="Share of answers that may change; needs no labels.")]
CountOption = Annotated[int | None, typer.Option(help="Number of blocks to drop.")]
ConfidenceOption = Annotated[float, typer.Option(help="With which the goal is shown to be reached.")]
SearchOption = Annotated[str, typer.Option(help="greedy, beam, or exact (at most 16 blocks).")]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="What the search minimises: soft_error (default), error or loss; without labels soft_disagreement, "
        "disagreement or divergence."
    ),
]
MostOption = Annotated[int | None, typer.Option(help="Drop at most this many blocks.")]
RepairOption = Annotated[
    str,
    typer.Option(
        help="refit: fit the last layers of the kept blocks again by least squares; recalibrate: measure batch-norm "
        "statistics again; none."
    ),
]
EpochsOption = Annotated[
    int, typer.Option(help="Fine-tune the chosen network so many epochs, the full one as teacher.", min=0)
]
RateOption = Annotated[float | None, typer.Option(help="Learning rate of fine-tuning.", show_default="0.01")]
FinetuneLimitOption = Annotated[
    int | None, typer.Option(help="Fine-tune on at most so many training images (default: all).")
]
RuntimeOption = Annotated[
    str, typer.Option(help="In which latency is measured: eager, compile, export, onnx (ONNX Runtime) or openvino.")
]
LatencyBatchOption = Annotated[int, typer.Option(help="Images in the input on which latency is measured.", min=1)]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads for that (default: as torch is set).", min=1)]
SecondsOption = Annotated[float, typer.Option(help="How long each network is timed, at least.")]

_SEARCHES = {"greedy": Greedy, "beam": Beam, "exact": Exact}
_REPAIRS = {"refit": Refit, "recalibrate": Recalibrate, "none": NoRepair}


def goal_of(
    latency: float | None,
    accuracy_drop: float | None,
    disagreement: float | None,
    count: int | None,
    confidence: float,
) -> Goal:
    """The one goal that was given; a fall of accuracy of 1 % where none was.

    Raises:
        ValueError: more than one.
    """
    given = {
        "--latency": latency,
        "--accuracy-drop": accuracy_drop,
        "--disagreement": disagreement,
        "--count": count,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"expected one of {', '.join(given)}, got {' and '.join(named)}")
    if latency is not None:
        return Latency(latency, confidence)
    if disagreement is not None:
        return Disagreement(disagreement, confidence)
    if count is not None:
        return Count(count)
    return AccuracyDrop(0.01 if accuracy_drop is None else accuracy_drop, confidence)


def search_of(name: str, metric: str | None, most: int | None) -> Search:
    """A search by name.

    Raises:
        ValueError: unknown.
    """
    made: Search = _named("--search", name, _SEARCHES)(metric=metric, most=most)
    return made


def repair_of(name: str) -> Closed:
    """A repair by name.

    Raises:
        ValueError: unknown.
    """
    made: Closed = _named("--repair", name, _REPAIRS)()
    return made


def _named(option: str, name: str, kinds: Mapping[str, Any]) -> Any:
    if name not in kinds:
        raise ValueError(f"expected {option} as one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]


@dataclass(frozen=True)
class PlanImages:
    """The images of a plan on the command line.

    Attributes:
        training: of the source, as they are.
        used: the same as the network saw them in training, as far as its batch norms tell.
        test: those that certify.
    """

    training: ImageData
    used: ImageData
    test: ImageData

    @classmethod
    def of(cls, network: nn.Module, source: Source, limit: int | None, repair: Repair) -> PlanImages:
        """Read them."""
        test, training = source.images("test"), source.images("train", limit)
        try:
            check_apart({"certify": test, "search": training}, "certify", ("search",))
        except ValueError as error:
            raise ValueError(
                f"expected --data whose training and test images differ: {error}".partition(";")[0]
                + "; give a folder with train and test (or val) in it"
            ) from None
        fitted = repair.needs_images and bool(tracking_norms(network))
        return cls(training, as_in_training(network, training) if fitted else training, test)

    def split(self, repair: Repair, seed: int = 0) -> ImageSplit:
        """Test images certify; the training images are divided where a repair must not see those searched on."""
        if repair.learns:
            return ImageSplit(search=1.0, repair=1.0, certify=self.test, seed=seed)
        return ImageSplit(search=self.used, repair=self.used, certify=self.test, seed=seed)


def distilled(repair: Closed, images: ImageData, epochs: int, rate: float) -> Repair:
    """The repair with fine-tuning after it; images move and mirror as `images` may."""
    how = Distillation(epochs=epochs, lr=rate, shift=images.images.shape[-1] // 8, flip=images.images.shape[1] > 1)
    return Distil(how, repair, images)


def repair_said(repair: Closed, network: nn.Module, images: ImageData) -> str:
    """One line on what the repair was done with."""
    if isinstance(repair, Recalibrate) and not tracking_norms(network):
        return "The model has no batch norms that keep statistics: nothing was recalibrated"
    done = {"Recalibrate": "Searched and recalibrated", "Refit": "Searched and refitted"}
    return f"{done.get(type(repair).__name__, 'Searched')} on {images.name}"


def check_enough(goal: Goal, images: ImageData) -> None:
    """Refuse before a long search what no set could be shown to reach.

    Raises:
        ValueError: fewer images than a certificate needs.
    """
    if isinstance(goal, AccuracyDrop | Disagreement) and len(images) < goal.least_images:
        raise ValueError(
            f"expected at least {goal.least_images} test images to show that {goal}, got {len(images)}; give more, "
            "allow more, or ask for less confidence"
        )


def clock_of(runtime: str, batch: int, threads: int | None, seconds: float) -> Clock:
    """How latency is measured."""
    return Clock(batch=batch, threads=threads, runtime=runtime, seconds=seconds)  # type: ignore[arg-type]


def show_plan(plan: DropPlan, screen: Console) -> None:
    """The table, what is known of the choice, and what a reader should know."""
    show(screen, plan_table(plan))
    screen.print(plan.said)
    if plan.adapted:
        screen.print(
            "The full network's batch-norm statistics were measured again first: that alone makes it better on these "
            "images, so it is what the smaller ones are compared with"
        )
    for note in plan.notes:
        screen.print(f"Note: {note}")
    if plan.finetuned is not None:
        kept = "" if plan.keeps_finetuned else "; it is not used"
        screen.print(f"Fine-tuned: {plan.finetuned.accuracy:.2%} ({plan.finetuned.reason}){kept}")


def plan_table(plan: DropPlan) -> Table:
    """A row for each point; at most 80 columns wide with names of up to 25 letters, which are never cut."""
    clock = plan.clock
    rows = table(
        f"Time of {clock.batch} images, {clock.runtime}; accuracy on {plan.images['certify'].count} images", []
    )
    for name, justify in (("", "left"), ("gone", "right"), ("latest block", "left")):
        rows.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("plain", "repaired", "95 % interval", "time", "MACs", "param."):
        rows.add_column(name, justify="right", no_wrap=True)
    whole, before = plan.points[0], set[str]()
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
            f"{point.macs / max(1, whole.macs):.2f}",
            f"{point.parameters / max(1, whole.parameters):.2f}",
        )
    return rows


@dataclass(frozen=True)
class Where:
    """Where a model and its images come from, as the options say; ``drop --plan`` reads it back from the plan."""

    model: str
    data: str
    size: int | None
    mean: str | None
    std: str | None
    limit: int | None
    device: str


@dataclass(frozen=True)
class Finetuning:
    """How the chosen network is fine-tuned: epochs (0: not at all), learning rate (None: 0.01), images at most.

    Raises:
        ValueError: a rate or a limit of what is not done.
    """

    epochs: int
    rate: float | None
    limit: int | None

    def __post_init__(self) -> None:
        """Refuse what would be passed over."""
        given = {"--finetune-rate": self.rate, "--finetune-limit": self.limit}
        if not self.epochs and (named := [name for name, value in given.items() if value is not None]):
            raise ValueError(
                f"expected --finetune-epochs beside {' and '.join(named)}, got none, and so no fine-tuning; give both"
            )


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan that was made on the command line, what it was made from, and the files that hold it."""

    plan: DropPlan
    net: UnrolledNetwork
    images: PlanImages
    split: ImageSplit
    repair: Closed
    files: dict[str, Path]

    def show(self, screen: Console) -> None:
        """The table, and what was repaired with."""
        show_plan(self.plan, screen)
        screen.print(repair_said(self.repair, self.net.model, self.images.used))


def planned(
    where: Where, goal: Goal, search: Search, repair: Closed, clock: Clock, finetuning: Finetuning, seed: int,
    batch_size: int, out: Path,
) -> Planned:  # fmt: skip
    """Make a plan and write it, with its picture and its journal, into a folder."""
    network, source = model_and_source(where.model, where.data, where.size, where.device, where.mean, where.std)
    images = PlanImages.of(network, source, where.limit, repair)
    check_enough(goal, images.test)
    net = unrolled(network, images.test)
    how: Repair = repair
    if finetuning.epochs:
        how = distilled(repair, source.images("train", finetuning.limit), finetuning.epochs, finetuning.rate or 0.01)
    split = replace(images.split(how, seed), batch_size=batch_size)
    out.mkdir(parents=True, exist_ok=True)
    journal = out / "journal.sqlite"
    plan = plan_drop(net, images.used, goal=goal, search=search, repair=how, split=split, clock=clock, journal=journal)
    plan = replace(plan, source={**asdict(where), "finetune_limit": finetuning.limit})
    files = {"plan": plan.save(out / "plan.json"), "picture": save(plot_plan(plan), out / "plan.png")}
    return Planned(plan, net, images, split, repair, files)
