"""A plan: the sets of blocks measured, the one chosen, and everything needed to rebuild it.

A plan is kept apart from the planner because it outlives it: it is saved as JSON, and `apply` builds the same network
from the same model and images without searching again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ..arguments import checked
from ..data import ImageSource, InMemory, as_examples
from ..graph.model_fingerprint import fingerprint
from ..graph.private_copy import private_copy
from ..network import UnrolledNetwork, unroll
from ..nouns import counted, plural
from ..records import Record
from ..tables import data_frame
from .distillation import distil_best
from .goals import AccuracyDrop, Disagreement, Goal, Latency, Rise
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
    """The images used for one role.

    Attributes:
        name: their origin.
        count: number of images.
        fingerprint: fingerprint of inputs and targets.
        noun: what one of them is called, if they are not images.
    """

    name: str
    count: int
    fingerprint: str
    noun: str = "image"

    @property
    def nouns(self) -> str:
        """The plural of :attr:`noun`."""
        return plural(self.noun)


@dataclass(frozen=True)
class DropPlan(Record):
    """The sets of blocks measured, the one chosen, and everything that determined the choice.

    Attributes:
        points: the full network, then sets in order of the time that they save.
        chosen: index of the chosen point.
        goal: the goal of the plan.
        search: how sets were searched.
        repair: how dropped networks are repaired.
        split: how the images were divided (with weight 0 for roles that had their own images).
        clock: how latency was measured.
        images: the data of each role.
        adapted: whether the full network's batch-norm statistics were measured again first, because that alone made it
            significantly better; the first point is then that network.
        model_fingerprint: fingerprint of the full model as passed in.
        metric: name of the metric that the search minimised.
        search_losses: the metric of each point on the search images.
        greedy_losses: the metric of the greedy search at the same numbers of blocks; empty if the search was greedy.
        random_losses: the metric of random sets with as many blocks, (points, draws).
        judge_losses: the metric of each point on the judging images; empty without them.
        finetuned: the chosen network after fine-tuning; None if that was not requested.
        keeps_finetuned: whether the fine-tuned network is the one to use.
        next_finetuned: the fine-tuned network of the next size, which was not shown to reach the goal; None if none was
            tested.
        notes: remarks for the reader, such as doubtful timings or certificates that were not possible.
        source: the caller's notes on the origin of model and images.
        finetuned_model: the fine-tuned network, only in the process that planned, so that it need not be trained
            again there.

    Raises:
        ValueError: there is no such point, or no images that certify.
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
    next_finetuned: PlanPoint | None = None
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    finetuned_model: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that the chosen point and the images that certify are there."""
        if not 0 <= self.chosen < len(self.points):
            raise ValueError(f"expected chosen to be one of {len(self.points)} points, got {self.chosen}")
        if "certify" not in self.images:
            raise ValueError(f"expected the data that certify, got only {', '.join(self.images) or 'none'}")

    @property
    def point(self) -> PlanPoint:
        """The network to use: the chosen point, fine-tuned if that is better."""
        return self.finetuned if self.finetuned is not None and self.keeps_finetuned else self.points[self.chosen]

    @property
    def summary(self) -> str:
        """What is known about the choice, in a sentence."""
        certify, point, goal = self.images["certify"], self.point, self.goal
        held_out = f"{certify.count} held-out {certify.nouns}"
        gone = counted(len(point.dropped), "block")
        if isinstance(goal, Latency):
            low, high = self.points[self.chosen].share_interval
            return (
                f"Chosen: {gone} dropped, {point.share:.2f} of the full network's time ({low:.2f} "
                f"to {high:.2f}, in a separate timing); {_lost(point)} ({held_out})"
            )
        if not isinstance(goal, AccuracyDrop | Disagreement | Rise):
            return f"Chosen: {goal}, as requested"
        if point.dropped:
            sentence = f"Chosen: {gone} dropped; shown on {held_out}: {goal}"
        else:
            sentence = f"No blocks dropped: for no set do {held_out} show that {goal}"
        return sentence + self._why_no_more(goal)

    def _why_no_more(self, goal: AccuracyDrop | Disagreement | Rise) -> str:
        """Why the first set that failed did so: it loses too much, or too few examples show that it does not."""
        first = self.next_finetuned or (self.points[self.chosen + 1] if self.chosen + 1 < len(self.points) else None)
        if first is None:
            return ""
        certify = self.images["certify"]
        if isinstance(goal, Rise):
            seen, allowed = first.rise or 0.0, goal.by
            bound = math.inf if first.rise_at_most is None else first.rise_at_most
            change = _change(goal.name, ("rises", "falls"), seen, bound, ".4g", goal.confidence)
        elif isinstance(goal, AccuracyDrop):
            seen, bound, allowed = first.fall, first.fall_at_most or 1.0, goal.drop
            change = _change("accuracy", ("falls", "rises"), seen, bound, ".2%", goal.confidence)
        else:
            seen, bound, allowed = first.disagreement, first.disagreement_at_most or 1.0, goal.share
            change = f"{seen:.2%} of answers change, with {goal.confidence:.0%} confidence at most {bound:.2%}"
        suffix = ", fine-tuned" if first.repair == "fine-tuned" else ""
        sentence = f". With {len(first.dropped)} dropped{suffix}, {change}"
        if seen >= allowed or not math.isfinite(bound):
            return sentence
        needed = math.ceil(certify.count * ((bound - seen) / (allowed - seen)) ** 2)
        return f"{sentence}: too few {certify.nouns} to be conclusive; about {needed:,} would suffice at the same rate"

    def apply(
        self,
        model: nn.Module | UnrolledNetwork,
        images: ImageSource,
        *,
        split: ImageSplit | None = None,
        example_input: Any = None,
    ) -> nn.Module:
        """Rebuild the network that the plan measured, from the same model and images.

        Args:
            model: the full model of the plan, or its network.
            images: the images passed to :func:`plan_drop`.
            split: the plan's split, if it had its own images.
            example_input: see :func:`resnet_paths.unroll`.

        Raises:
            ValueError: the model, or the images for the repair, differ from the plan's.

        Cost: one repair, and the training if the plan fine-tunes.
        """
        net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
        if fingerprint(net.model) != self.model_fingerprint:
            raise ValueError(
                "expected the model of the plan, got one with other weights; load the same model, or plan again"
            )
        if self.finetuned_model is not None and self.keeps_finetuned:
            return private_copy(self.finetuned_model)
        roles: dict[str, InMemory] = {}
        if "repair" in self.images:
            roles = (split or self.split).roles(images, needed=(), model=net.model)
            self._check_images(roles, ("repair", "search") if self._learns_from_search else ("repair",))
        if self.adapted:
            net = adapted(net, roles["repair"], roles["search"]) or net
        smaller = (
            closed(self.repair).repairer(net, roles.get("repair"))(tuple(net.indices(list(self.point.names)))).model
        )
        if isinstance(self.repair, Distil) and self.keeps_finetuned:
            distil_best(smaller, net, training_data(self.repair, roles, net.model), settings=self.repair.settings)
        return smaller

    @property
    def _learns_from_search(self) -> bool:
        return self.adapted or (isinstance(self.repair, Distil) and self.repair.images is None)

    def _check_images(self, roles: Mapping[str, InMemory], needed: tuple[str, ...]) -> None:
        for role in needed:
            planned = self.images[role]
            if role not in roles or roles[role].fingerprint != planned.fingerprint:
                got = f"{len(roles[role])} of {roles[role].name}" if role in roles else "none"
                if got == f"{planned.count} of {planned.name}":
                    got = "as many of that name that differ from them"
                raise ValueError(
                    f"expected the {planned.nouns} to {role} that the plan used, {planned.count} of {planned.name}, "
                    f"got {got}; pass the same {planned.nouns} (and split=, if it had its own {planned.nouns})"
                )

    def to_pandas(self) -> pd.DataFrame:
        """One row per point."""
        table = data_frame([asdict(point) for point in self.points])
        table.insert(0, "count", [len(point.dropped) for point in self.points])
        table["chosen"] = [index == self.chosen for index in range(len(self.points))]
        return table

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON."""
        return write_plan(self, path, _KINDS)

    @classmethod
    def load(cls, path: str | Path) -> DropPlan:
        """Read a saved plan; see :func:`load_plan`."""
        return load_plan(path)


_KINDS = (DropPlan, ImagesUsed)


@checked
def load_plan(path: str | Path) -> DropPlan:
    """Read a saved plan.

    Raises:
        ValueError: the file is not a plan.
    """
    plan: DropPlan = read_plan(path, _KINDS)
    return plan


def _lost(point: PlanPoint) -> str:
    """The cost of dropping with its bound, in words: in accuracy, or without labels in changed answers."""
    if point.metric and point.metric != "disagreement":
        rise, most = point.rise or 0, point.rise_at_most or 0
        return _change(point.metric, ("rises", "falls"), rise, most, ".4g")
    if math.isnan(point.accuracy):
        return (
            f"{point.disagreement:.2%} of answers change, with 95% confidence at most "
            f"{point.disagreement_at_most or 0:.2%}"
        )
    return _change("accuracy", ("falls", "rises"), point.fall, point.fall_at_most or 0, ".2%")


def _change(
    subject: str, verbs: tuple[str, str], change: float, most: float, form: str, confidence: float = 0.95
) -> str:
    """A change for the worse and its upper bound; the second verb if the change is one for the better.

    Example:
        >>> _change("accuracy", ("falls", "rises"), 0.01, 0.02, ".0%")
        'accuracy falls by 1%, with 95% confidence by at most 2%'
        >>> _change("accuracy", ("falls", "rises"), -0.01, 0.02, ".0%")
        'accuracy rises by 1%; with 95% confidence it falls by at most 2%'
        >>> _change("loss", ("rises", "falls"), -0.5, -0.25, "g")
        'loss falls by 0.5, with 95% confidence by at least 0.25'
    """
    worse, better = verbs
    sure = f"with {confidence:.0%} confidence"
    if change >= 0:
        return f"{subject} {worse} by {change:{form}}, {sure} by at most {most:{form}}"
    if most < 0:
        return f"{subject} {better} by {-change:{form}}, {sure} by at least {-most:{form}}"
    return f"{subject} {better} by {-change:{form}}; {sure} it {worse} by at most {most:{form}}"


def training_data(repair: Distil, roles: Mapping[str, InMemory], model: nn.Module) -> InMemory:
    """The data that a plan fine-tunes on."""
    if repair.images is not None:
        return as_examples(repair.images, model, labelled=False)
    search, other = roles["search"], roles.get("repair")
    return search if other is None else search.joined(other, f"{search.name}, all but those that certify")
