"""What is done to a network after blocks were dropped: nothing, recalibration, refit, distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import nn

from ..arguments import ELSEWHERE, checked
from ..data import ImageData, ImageSource
from ..graph.private_copy import private_copy
from ..network import UnrolledNetwork, unroll
from ..network.norms import tracking_norms
from ..statistics import fall_at_most
from ..surgery import RefitSettings, Refitter, batch_statistics, drop_blocks, norms_before, recalibrate_batchnorm
from .distil import Distillation
from .measures import answers
from .search import Set


@dataclass(frozen=True)
class Repaired:
    """A smaller network, repaired.

    Attributes:
        model: the model.
        repair: ``none``, ``recalibrated`` or ``refitted``: what was done to it in the end.
        reason: why, in a line.
    """

    model: nn.Module
    repair: str
    reason: str = ""


Repairer = Callable[[Set], Repaired]


@dataclass(frozen=True)
class NoRepair:
    """Blocks are dropped, and that is all."""

    needs_images: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """The network whose gates stand for dropped blocks with this repair; None where only repairing tells."""
        return net

    def repairer(self, net: UnrolledNetwork, images: ImageData | None) -> Repairer:
        """What makes the smaller network of a set."""
        return lambda dropped: Repaired(dropped_copy(net, dropped), "none")


@dataclass(frozen=True)
class Recalibrate:
    """Batch-norm statistics are measured again behind the first dropped block.

    The search sees each set with the statistics of the batch at hand, which recalibration approaches. Give images as
    the network saw them in training: :func:`~resnet_paths.tradeoff.as_in_training`.
    """

    needs_images: ClassVar[bool] = True
    learns: ClassVar[bool] = False

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """See :class:`NoRepair`."""
        return batch_statistics(net) if tracking_norms(net.model) else net

    def repairer(self, net: UnrolledNetwork, images: ImageData | None) -> Repairer:
        """See :class:`NoRepair`."""

        def repaired(dropped: Set) -> Repaired:
            smaller = dropped_copy(net, dropped)
            if not dropped or images is None or not tracking_norms(smaller):
                return Repaired(smaller, "none", "no batch norms keep statistics" if dropped else "")
            recalibrate_batchnorm(smaller, images, keep=norms_before(net, dropped))
            return Repaired(smaller, "recalibrated")

        return repaired


@checked
@dataclass(frozen=True)
class Refit:
    """Kept branches are fitted again by least squares: see :func:`~resnet_paths.surgery.refit_blocks`.

    How far, and whether at all, is chosen on a part of the repair images that the fit does not see: never worse there
    than plain or recalibrated. Needs no labels.

    Attributes:
        settings: steps, ridge, and the share of the repair images on which the step is chosen.
    """

    settings: RefitSettings = field(default_factory=RefitSettings)

    needs_images: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def gated(self, net: UnrolledNetwork) -> UnrolledNetwork | None:
        """See :class:`NoRepair`."""
        return None

    def repairer(self, net: UnrolledNetwork, images: ImageData | None) -> Repairer:
        """See :class:`NoRepair`."""
        if images is None:
            raise ValueError("expected images to refit on, got none; give some as ImageSplit(repair=...)")
        return Refits(Refitter(net, images, settings=self.settings))


class Refits:
    """Refits of one network, and their outputs on other images, for which nothing has to be built.

    Args:
        refitter: it keeps the full network's targets.
    """

    def __init__(self, refitter: Refitter) -> None:
        self._refitter = refitter
        self._on: dict[str, Callable[[Set], torch.Tensor]] = {}

    def __call__(self, dropped: Set) -> Repaired:
        """The smaller network of a set."""
        if not dropped:
            return Repaired(dropped_copy(self._refitter.net, dropped), "none")
        made = self._refitter(dropped)
        return Repaired(made.model, made.repair, made.reason)

    def logits(self, dropped: Set, data: ImageData) -> torch.Tensor:
        """What the refitted network makes of images, on the CPU."""
        if data.fingerprint not in self._on:
            self._on[data.fingerprint] = self._refitter.on(data)
        return self._on[data.fingerprint](dropped).cpu()


Closed = NoRepair | Recalibrate | Refit
"""Repairs that take no training."""


@checked
@dataclass(frozen=True)
class Distil:
    """The chosen network is fine-tuned with the full one as teacher, after a repair by which sets are compared.

    A tenth of the images is held out; the best state there, that before the first step among them, stays.

    Attributes:
        settings: epochs, rate and so on.
        after: the repair before it.
        images: training images; None: those to search and to repair on together.
    """

    settings: Distillation = field(default_factory=Distillation)
    after: Closed = field(default_factory=Recalibrate)
    images: Annotated[ImageSource | None, ELSEWHERE] = field(default=None, compare=False)

    needs_images: ClassVar[bool] = True

    @property
    def learns(self) -> bool:
        """Whether its search images must not be those that repair."""
        return self.after.learns


Repair = NoRepair | Recalibrate | Refit | Distil


def closed(repair: Repair) -> Closed:
    """The repair by which sets are compared."""
    return repair.after if isinstance(repair, Distil) else repair


def dropped_copy(net: UnrolledNetwork, dropped: Set) -> nn.Module:
    """A model of its own without some blocks, or with all."""
    return drop_blocks(net, list(dropped)) if dropped else private_copy(net.model)


def adapted(net: UnrolledNetwork, repair: ImageData, search: ImageData) -> UnrolledNetwork | None:
    """The full network with its batch-norm statistics measured again, where that alone makes it surely better.

    Otherwise what a new domain's statistics bring would be credited to dropping. Surely: on the images to search on,
    the one-sided 95 % bound of the rise of accuracy is above 0.

    Returns:
        The network of a copy; None where it is not.
    """
    if not tracking_norms(net.model):
        return None
    model = private_copy(net.model)
    recalibrate_batchnorm(model, repair)
    before, after = (answers(one, search, net.followed).right for one in (net.model, model))
    if np.mean(after) <= np.mean(before) or fall_at_most(before, after) >= 0:
        return None
    return unroll(model, net._example, output=net.output)
