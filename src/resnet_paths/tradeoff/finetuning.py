"""Fine-tuned networks of a plan: that of one set, or those of one set after the other while they reach the goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from ..data import ImageData
from ..statistics import share_at_most
from .bench import Workshop
from .distil import distil_best
from .measures import answers
from .plan import training_images
from .points import PlanPoint, bound_of_fall
from .repairs import Distil
from .search import Set


@dataclass(frozen=True, eq=False)
class Tuned:
    """The network of a set, repaired and fine-tuned.

    Attributes:
        point: the set, with what was measured of this network on the images that certify.
        model: the network.
        kept: the epoch whose state it has; 0 is the network as it was repaired.
    """

    point: PlanPoint
    model: nn.Module
    kept: int


@dataclass(frozen=True, eq=False)
class Tuner:
    """Fine-tunes the network of a set, and measures it.

    Attributes:
        workshop: repairs it first.
        repair: how to fine-tune.
        roles: the images.
        right: whether the full network is right, for each image that certifies.
        confidence: of the bounds.
        say: is told what is done.
    """

    workshop: Workshop
    repair: Distil
    roles: Mapping[str, ImageData]
    right: np.ndarray
    confidence: float
    say: Callable[[str], None]

    def __call__(self, point: PlanPoint) -> Tuned:
        """The network of a point's set."""
        net, certify, settings = self.workshop.net, self.roles["certify"], self.repair.settings
        self.say(f"fine-tuning, blocks dropped: {len(point.dropped)}; epochs: {settings.epochs}")
        model = self.workshop.repairer(point.dropped).model
        best = distil_best(model, net, training_images(self.repair, self.roles), settings=settings)
        now, full = (answers(one, certify, net.followed) for one in (model, net.model))
        after, changed = now.right, int(len(certify) - now.agree(full).sum())
        measured = replace(
            point,
            accuracy=float(after.mean()),
            fall=float(self.right.mean() - after.mean()),
            fall_at_most=bound_of_fall(self.right, after, self.confidence),
            disagreement=changed / len(after),
            disagreement_at_most=share_at_most(changed, len(after), self.confidence),
            repair="fine-tuned" if best.kept else point.repair,  # the state before the first step may be the best
            reason=f"best on images held out: the state after {best.kept} of {settings.epochs} epochs",
        )
        return Tuned(measured, model, best.kept)


@dataclass(eq=False)
class TunedInTurn:
    """Sets tested in turn as they would be shipped: repaired, and from some set on fine-tuned.

    While already the images searched on show that a repaired network reaches the goal, that network is tested, as
    fine-tuning would take long and is not needed. From the first set on of which they do not show it, networks are
    fine-tuned before they are tested, beginning with the set before it. The images that certify had no part in this
    order, so no correction is needed for how many are tested, up to the first failure.

    Attributes:
        tuner: fine-tunes.
        shown: whether the images searched on show it of a set, repaired.
        passes: whether a point shows it on the images that certify.
        tuned: the last network that was fine-tuned and passed.
        failed: what was measured of the one that did not.
        tests: networks that were fine-tuned and tested.
    """

    tuner: Callable[[PlanPoint], Tuned]
    shown: Callable[[Set], bool]
    passes: Callable[[PlanPoint], bool]
    tuned: Tuned | None = None
    failed: PlanPoint | None = None
    tests: int = 0
    _repaired: PlanPoint | None = field(default=None, init=False)
    _over: bool = field(default=False, init=False)

    def __call__(self, point: PlanPoint) -> bool:
        """Whether the next set passes; never after one that did not."""
        self._over = self._over or not self._passes(point)
        return not self._over

    def last(self) -> None:
        """There are no more sets: what passed without fine-tuning is fine-tuned too."""
        if not self._over and self._repaired is not None and not self.tests:
            self._test(self._repaired)

    def _passes(self, point: PlanPoint) -> bool:
        if not self.tests and self.shown(point.dropped):
            self._repaired = point if self.passes(point) else self._repaired
            return self._repaired is point
        begins = not self.tests and self._repaired is not None
        if begins and self._repaired is not None and not self._test(self._repaired):
            return False
        return self._test(point)

    def _test(self, point: PlanPoint) -> bool:
        tuned = self.tuner(point)
        self.tests += 1
        passed = self.passes(tuned.point)
        if passed:
            self.tuned = tuned
        else:
            self.failed = tuned.point
        return passed
