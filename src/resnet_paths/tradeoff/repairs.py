"""Repairs of a network after blocks were dropped: none, recalibration, refit, distillation.

A repair says two things: how to repair one set, and whether gates of some network give the same losses without building
anything. The second makes a search over hundreds of sets affordable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import nn

from ..arguments import ELSEWHERE, checked
from ..data import ImageSource, InMemory
from ..graph.private_copy import private_copy
from ..network import UnrolledNetwork, unroll
from ..network.norms import tracking_norms
from ..statistics import fall_at_most
from ..surgery import RefitSettings, Refitter, batch_statistics, drop_blocks, norms_before, recalibrate_batchnorm
from .distillation import Distillation
from .measures import answers
from .search import Set


@dataclass(frozen=True)
class Repaired:
    """A repaired smaller network.

    Attributes:
        model: the model.
        repair: the repair that was kept: ``none``, ``recalibrated`` or ``refitted``.
        reason: why, in a line.
    """

    model: nn.Module
    repair: str
    reason: str = ""


class Repairer:
    """Drops sets of blocks from one network and repairs the rest; by itself, it repairs nothing.

    Args:
        net: the full network.
    """

    def __init__(self, net: UnrolledNetwork) -> None:
        self.net = net

    def __call__(self, dropped: Set) -> Repaired:
        """The smaller network of a set."""
        return self.after(dropped_copy(self.net, dropped), dropped)

    def after(self, smaller: nn.Module, dropped: Set) -> Repaired:
        """The same from a copy without the set's blocks, which may be changed: it need not be made twice."""
        return Repaired(smaller, "none")


@dataclass(frozen=True)
class NoRepair:
    """No repair after blocks are dropped."""

    needs_images: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """The network whose gates give the losses of repaired sets; None if each set has to be repaired."""
        return net

    def repairer(self, net: UnrolledNetwork, images: InMemory | None) -> Repairer:
        """The function that builds the smaller network of a set."""
        return Repairer(net)


@dataclass(frozen=True)
class Recalibrate:
    """Measure batch-norm statistics again after the first dropped block.

    The search evaluates each set with the statistics of the current batch, which recalibration approximates. Pass
    images as the network saw them in training: :func:`~resnet_paths.tradeoff.as_in_training`.
    """

    needs_images: ClassVar[bool] = True
    learns: ClassVar[bool] = False

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """See :class:`NoRepair`."""
        return batch_statistics(net) if tracking_norms(net.model) else net

    def repairer(self, net: UnrolledNetwork, images: InMemory | None) -> Repairer:
        """See :class:`NoRepair`."""
        return Recalibrates(net, images)


class Recalibrates(Repairer):
    """Recalibrations of one network.

    Args:
        net: the full network.
        images: those on which statistics are measured.
    """

    def __init__(self, net: UnrolledNetwork, images: InMemory | None) -> None:
        super().__init__(net)
        self._images = images

    def after(self, smaller: nn.Module, dropped: Set) -> Repaired:
        """See :class:`Repairer`."""
        if not dropped or self._images is None or not tracking_norms(smaller):
            return Repaired(smaller, "none", "no batch norm keeps statistics" if dropped else "")
        recalibrate_batchnorm(smaller, self._images, keep=norms_before(self.net, dropped))
        return Repaired(smaller, "recalibrated")


@checked
@dataclass(frozen=True)
class Refit:
    """Refit the remaining branches by least squares: see :func:`~resnet_paths.surgery.refit_blocks`.

    How far to refit, and whether at all, is chosen on held-out repair images, on which the result is never worse than
    plain or recalibrated. It needs no labels.

    Attributes:
        settings: steps, ridge, and the share of the repair images that is held out.
    """

    settings: RefitSettings = field(default_factory=RefitSettings)

    needs_images: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """See :class:`NoRepair`."""
        return None

    def repairer(self, net: UnrolledNetwork, images: InMemory | None) -> Repairer:
        """See :class:`NoRepair`."""
        if images is None:
            raise ValueError("expected data to refit on, got none; pass some as ImageSplit(repair=...)")
        return Refits(Refitter(net, images, settings=self.settings))


class Refits(Repairer):
    """Refits of one network, and their outputs on other images without building any model.

    Args:
        refitter: the refitter, which remembers the full network's targets.
    """

    def __init__(self, refitter: Refitter) -> None:
        super().__init__(refitter.net)
        self._refitter = refitter
        self._on: dict[str, Callable[[Set], torch.Tensor]] = {}
        self._lock = Lock()

    @property
    def on_cpu(self) -> bool:
        """Whether the network is on the CPU, where sets divide better among cores than operations do."""
        return all(parameter.device.type == "cpu" for parameter in self._refitter.net.model.parameters())

    def __call__(self, dropped: Set) -> Repaired:
        """The smaller network of a set."""
        return self._refitted(dropped) if dropped else super().__call__(dropped)

    def after(self, smaller: nn.Module, dropped: Set) -> Repaired:
        """See :class:`Repairer`; a refit makes its own copy."""
        return self._refitted(dropped) if dropped else Repaired(smaller, "none")

    def _refitted(self, dropped: Set) -> Repaired:
        result = self._refitter(dropped)
        return Repaired(result.model, result.repair, result.reason)

    def logits(self, dropped: Set, data: InMemory) -> torch.Tensor:
        """The refitted network's logits for images, on the CPU."""
        with self._lock:
            if data.fingerprint not in self._on:
                self._on[data.fingerprint] = self._refitter.on(data)
        return self._on[data.fingerprint](dropped).cpu()


Closed = NoRepair | Recalibrate | Refit
"""Repairs without training."""


@checked
@dataclass(frozen=True)
class Distil:
    """Fine-tune the chosen network with the full one as teacher, after a cheaper repair by which sets are compared.

    A tenth of the images is held out; the state that is best on them is kept, which may be the initial one.

    Attributes:
        settings: epochs, learning rate and so on.
        after: the repair before fine-tuning.
        images: training images; None: the search and repair images together.
    """

    settings: Distillation = field(default_factory=Distillation)
    after: Closed = field(default_factory=Recalibrate)
    images: Annotated[ImageSource | None, ELSEWHERE] = field(default=None, compare=False)

    needs_images: ClassVar[bool] = True

    @property
    def learns(self) -> bool:
        """Whether search and repair images must differ."""
        return self.after.learns


Repair = NoRepair | Recalibrate | Refit | Distil


def closed(repair: Repair) -> Closed:
    """The repair by which sets are compared."""
    return repair.after if isinstance(repair, Distil) else repair


def dropped_copy(net: UnrolledNetwork, dropped: Set) -> nn.Module:
    """A copy of the model without the given blocks."""
    return drop_blocks(net, list(dropped)) if dropped else private_copy(net.model)


def adapted(net: UnrolledNetwork, repair: InMemory, search: InMemory) -> UnrolledNetwork | None:
    """The full network with its batch-norm statistics measured again, if that alone makes it significantly better.

    Otherwise the benefit of a new domain's statistics would be credited to dropping. Significantly means that the
    one-sided 95 % bound of the gain in accuracy on the search images is above 0.

    Returns:
        The network over a copy of the model; None if it is not better.
    """
    if not tracking_norms(net.model):
        return None
    model = private_copy(net.model)
    recalibrate_batchnorm(model, repair)
    before, after = (answers(one, search, net.followed).right for one in (net.model, model))
    if np.mean(after) <= np.mean(before) or fall_at_most(before, after) >= 0:
        return None
    return net.on_copy(model) or unroll(model, net._example, output=net.output)
