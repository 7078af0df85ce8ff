"""A plan: the sets of blocks that were measured, the one chosen, and all that is needed to make it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageData, ImageSource, as_data
from ..graph.model_fingerprint import fingerprint
from ..graph.private_copy import private_copy
from ..network import UnrolledNetwork, unroll
from ..records import Record
from ..tables import data_frame
from .distil import distil_best
from .goals import AccuracyDrop, Disagreement, Goal, Latency
from .plan_files import read_plan, write_plan
from .points import PlanPoint
from .repairs import Distil, Repair, adapted, closed
from .runtimes import Clock
from .search import Search
from .split import ImageSplit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ImagesUsed:
    """Which images had a role.

    Attributes:
        name: where they came from.
        count: how many.
        fingerprint: of pixels and labels.
    """

    name: str
    count: int
    fingerprint: str


@dataclass(frozen=True)
class DropPlan(Record):
    """The sets of blocks measured, the one chosen, and all that decided them.

    Attributes:
        points: the full network, then sets in the order in which they save time.
        chosen: index of the chosen point.
        goal: what was to be reached.
        search: how sets were found.
        repair: what is done to a dropped network.
        split: how the images were divided (a weight of 0 for those that were given for a role).
        clock: how latency was measured.
        images: of each role.
        adapted: whether the full network's batch-norm statistics were measured again first, as that alone made it
            surely better; the first point is then that network.
        model_fingerprint: of the full model as it was given.
        metric: the name of what the search minimised.
        search_losses: that, for each point.
        greedy_losses: of the greedy search at the same numbers of blocks; empty where the search was greedy.
        random_losses: of random sets of as many blocks, (points, draws).
        judge_losses: of each point on the images that judged; empty without them.
        finetuned: the chosen network, fine-tuned; None where that was not asked for.
        keeps_finetuned: whether that is the network to use.
        beyond: the fine-tuned network of the next size, of which it was not shown that it reaches the goal; None where
            none was tested.
        notes: what a reader should know: doubtful timings, certificates that could not be had.
        source: what a caller noted of where model and images came from.
        made: the fine-tuned network, in the process that planned: it need not be trained again to be used there.
    """

    DIMENSIONS: ClassVar = {
        "search_losses": "point",
        "greedy_losses": "point",
        "random_losses": "point draw",
        "judge_losses": "point",
    }

    points: tuple[PlanPoint, ...]
    chosen: int
    goal: Goal
    search: Search
    repair: Repair
    split: ImageSplit = field(compare=False)
    clock: Clock
    images: Mapping[str, ImagesUsed]
    adapted: bool
    model_fingerprint: str
    metric: str
    search_losses: tuple[float, ...] = ()
    greedy_losses: tuple[float, ...] = ()
    random_losses: tuple[tuple[float, ...], ...] = ()
    judge_losses: tuple[float, ...] = ()
    finetuned: PlanPoint | None = None
    keeps_finetuned: bool = False
    beyond: PlanPoint | None = None
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    made: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def point(self) -> PlanPoint:
        """The network to use: the chosen point, fine-tuned where that is better."""
        return self.finetuned if self.finetuned is not None and self.keeps_finetuned else self.points[self.chosen]

    @property
    def said(self) -> str:
        """What is known of the choice, in a sentence."""
        count, point, goal = self.images["certify"].count, self.point, self.goal
        gone = f"{len(point.dropped)} block{'s' * (len(point.dropped) != 1)}"
        if isinstance(goal, Latency):
            low, high = self.points[self.chosen].share_interval
            return (
                f"Chosen: {gone} dropped, {point.share:.2f} of the full network's time ({low:.2f} "
                f"to {high:.2f}, timed anew); {_lost(point)} ({count} images that chose nothing)"
            )
        if not isinstance(goal, AccuracyDrop | Disagreement):
            return f"Chosen: {goal}, as asked"
        if point.dropped:
            said = f"Chosen: {gone} dropped; shown on {count} images that chose nothing: {goal}"
        else:
            said = f"No blocks dropped: of no set is it shown on {count} images that {goal}"
        return said + self._why_no_more(goal)

    def _why_no_more(self, goal: AccuracyDrop | Disagreement) -> str:
        """What the first set that failed lacks: too much is lost, or too few images show that it is not."""
        first = self.beyond or (self.points[self.chosen + 1] if self.chosen + 1 < len(self.points) else None)
        if first is None:
            return ""
        count = self.images["certify"].count
        if isinstance(goal, AccuracyDrop):
            seen, bound, allowed, what = first.fall, first.fall_at_most or 1.0, goal.drop, "accuracy falls by"
        else:
            seen, bound, allowed = first.disagreement, first.disagreement_at_most or 1.0, goal.share
            what = "answers change:"
        how = ", fine-tuned" if first.repair == "fine-tuned" else ""
        said = (
            f". With {len(first.dropped)} dropped{how}, {what} {seen:.2%}, and by this confidence at most {bound:.2%}"
        )
        if seen >= allowed:
            return said
        needed = math.ceil(count * ((bound - seen) / (allowed - seen)) ** 2)
        return f"{said}: too few images to tell; about {needed:,} would do if that stayed the same"

    def apply(
        self,
        model: nn.Module | UnrolledNetwork,
        images: ImageSource,
        *,
        split: ImageSplit | None = None,
        example_input: Any = None,
    ) -> nn.Module:
        """The network that the plan measured, made again from the same model and images.

        Args:
            model: the full model that was planned for, or its network.
            images: those that :func:`plan_drop` was given.
            split: the plan's, where it holds images of its own.
            example_input: see :func:`resnet_paths.unroll`.

        Raises:
            ValueError: another model, or other images than the plan's for repair.

        Cost: one repair; the training where the plan fine-tunes.
        """
        net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
        if fingerprint(net.model) != self.model_fingerprint:
            raise ValueError(
                "expected the model that was planned for, got one with other weights; load the same, or plan again"
            )
        if self.made is not None and self.keeps_finetuned:
            return private_copy(self.made)
        roles: dict[str, ImageData] = {}
        if "repair" in self.images:
            roles = (split or self.split).roles(images, needed=())
            self._check_images(roles, ("repair", "search") if self._learns_from_search else ("repair",))
        if self.adapted:
            net = adapted(net, roles["repair"], roles["search"]) or net
        smaller = (
            closed(self.repair).repairer(net, roles.get("repair"))(tuple(net.indices(list(self.point.names)))).model
        )
        if isinstance(self.repair, Distil) and self.keeps_finetuned:
            distil_best(smaller, net, training_images(self.repair, roles), settings=self.repair.settings)
        return smaller

    @property
    def _learns_from_search(self) -> bool:
        return self.adapted or (isinstance(self.repair, Distil) and self.repair.images is None)

    def _check_images(self, roles: Mapping[str, ImageData], needed: tuple[str, ...]) -> None:
        for role in needed:
            planned = self.images[role]
            if role not in roles or roles[role].fingerprint != planned.fingerprint:
                got = f"{len(roles[role])} of {roles[role].name}" if role in roles else "none"
                raise ValueError(
                    f"expected the images to {role} that the plan used, {planned.count} of {planned.name}, got {got}; "
                    "give the same images (and split=, where it held images of its own)"
                )

    def to_pandas(self) -> pd.DataFrame:
        """One row a point."""
        table = data_frame([asdict(point) for point in self.points])
        table.insert(0, "count", [len(point.dropped) for point in self.points])
        table["chosen"] = [index == self.chosen for index in range(len(self.points))]
        return table

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON."""
        return write_plan(self, path, _KINDS)

    @classmethod
    def load(cls, path: str | Path) -> DropPlan:
        """Read a plan that was saved; see :func:`load_plan`."""
        return load_plan(path)


_KINDS = (DropPlan, ImagesUsed)


@checked
def load_plan(path: str | Path) -> DropPlan:
    """Read a plan that was saved.

    Raises:
        ValueError: not a plan.
    """
    plan: DropPlan = read_plan(path, _KINDS)
    return plan


def _lost(point: PlanPoint) -> str:
    """What dropping costs, and how much at most: accuracy, or answers where there are no labels."""
    if math.isnan(point.accuracy):
        return (
            f"{point.disagreement:.2%} of answers change, with 95% confidence at most "
            f"{point.disagreement_at_most or 0:.2%}"
        )
    return f"accuracy falls by {point.fall:.2%}, with 95% confidence by at most {point.fall_at_most or 0:.2%}"


def training_images(repair: Distil, roles: Mapping[str, ImageData]) -> ImageData:
    """What a plan fine-tunes on."""
    if repair.images is not None:
        return as_data(repair.images, labelled=False)
    search, other = roles["search"], roles.get("repair")
    if other is None:
        return search
    images, labels = (torch.cat([getattr(part, name) for part in (search, other)]) for name in ("images", "labels"))
    return replace(search, images=images, labels=labels, name=f"{search.name}, all but those that certify")
