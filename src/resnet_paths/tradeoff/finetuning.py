"""Fine-tuned networks of a plan: that of one set, or those of successive sets while they reach the goal.

Fine-tuning takes far longer than anything else in a plan. So it is postponed as long as a repair alone is enough, and
which networks are tested, and in which order, is decided without the images that certify.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from ..data import InMemory
from ..nouns import counted
from .bench import Bench
from .distillation import distil_best
from .measures import answers
from .plan import training_data
from .points import Measured, PlanPoint, with_answers
from .repairs import Distil
from .search import Set


@dataclass(frozen=True, eq=False)
class Tuned:
    """The repaired and fine-tuned network of a set.

    Attributes:
        point: the set, with this network's measurements on the images that certify.
        model: the network.
        kept: the epoch whose state was kept; 0 is the repaired network before fine-tuning.
    """

    point: PlanPoint
    model: nn.Module
    kept: int


@dataclass(frozen=True, eq=False)
class Tuner:
    """Fine-tunes the network of a set, and measures it.

    Attributes:
        bench: repairs the network first, and holds the data that certify and the metric measured on them.
        repair: how to fine-tune.
        roles: the data by role.
        full: the full network's measurements.
        confidence: confidence of the bounds.
        say: called with progress messages.
        distribution_free: see :func:`~resnet_paths.statistics.rise_at_most`.
    """

    bench: Bench
    repair: Distil
    roles: Mapping[str, InMemory]
    full: Measured
    confidence: float
    say: Callable[[str], None]
    distribution_free: bool = False

    def __call__(self, point: PlanPoint) -> Tuned:
        """The fine-tuned network of a point's set."""
        bench, settings = self.bench, self.repair.settings
        net = bench.net
        gone, epochs = counted(len(point.dropped), "block"), counted(settings.epochs, "epoch")
        self.say(f"fine-tuning with {gone} dropped, for {epochs}")
        model = bench.workshop.repairer(point.dropped).model
        best = distil_best(model, net, training_data(self.repair, self.roles, net.model), settings=settings)
        now = answers(model, bench.data, net.followed, bench.batch_size)
        each = now.right if bench.metric is None else now.values(bench.metric, bench.full)
        of_set = replace(
            point,
            repair="fine-tuned" if best.kept else point.repair,  # the state before the first step may be the best
            reason=f"best on held-out {bench.data.nouns}: the state after {best.kept} of {settings.epochs} epochs",
        )
        agrees = now.agree(bench.full)
        measured = with_answers(
            of_set, now.right, agrees, each, self.full, self.confidence, self.distribution_free
        ).point
        return Tuned(measured, model, best.kept)


@dataclass(eq=False)
class TunedInTurn:
    """Successive sets, tested as they would be deployed: repaired, and from some set on also fine-tuned.

    As long as the search images already show that a repaired network reaches the goal, that network is tested, since
    fine-tuning would take long and is not needed. From the first set for which they do not, networks are fine-tuned
    before they are tested, starting with the previous set. The images that certify play no part in this order, so no
    correction is needed for the number of tests up to the first failure.

    Attributes:
        tuner: fine-tunes a set.
        shown: whether the search images show that a repaired set reaches the goal.
        passes: whether a point shows it on the images that certify.
        tuned: the last network that was fine-tuned and passed.
        failed: the measurements of the one that failed.
        tests: number of networks that were fine-tuned and tested.
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
        """Whether the next set passes; always False after a failure."""
        self._over = self._over or not self._passes(point)
        return not self._over

    def last(self) -> None:
        """Finish after the last set: the one that passed without fine-tuning is fine-tuned too."""
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
