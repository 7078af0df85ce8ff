"""The goal of a plan: a latency, a fall in accuracy, a disagreement, or a number of blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arguments import checked
from ..arguments.ranges import INSIDE, NONE_OR_MORE, SHARE, Range
from ..statistics import share_at_most
from ..statistics.proportions import least_images

_CONFIDENCE = Range(0.5, 1, above=True, below=True)


@checked(share=INSIDE, confidence=_CONFIDENCE)
@dataclass(frozen=True)
class Latency:
    """The first set that is shown to be this fast, by a separate measurement.

    A set whose median is fast enough is timed again, four times as long, in turn with the full network. The upper end
    of that interval must reach the goal; otherwise the luckiest of many medians would win.

    Attributes:
        share: share of the full network's time.
        confidence: confidence of the interval over all sets that are timed again (the k-th gets
            ``1 - (1 - confidence)/2^k``).
    """

    share: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"latency at most {self.share:.0%} of the full network's"


@checked(drop=SHARE, confidence=_CONFIDENCE)
@dataclass(frozen=True)
class AccuracyDrop:
    """The last set before the first one whose fall in accuracy is not shown to be within this.

    It is shown on held-out images by :func:`~resnet_paths.lesion.fall_at_most`. The sets are tested in an order that
    does not depend on those images, up to the first failure, so no correction for their number is needed.

    Attributes:
        drop: fall in accuracy from the full network, which gets the same repair.
        confidence: confidence with which it is shown.
    """

    drop: float
    confidence: float = 0.95

    @property
    def least_images(self) -> int:
        """The minimum number of images for a certificate, which suffices if no answer gets worse; 0 if no number does.

        Example:
            >>> AccuracyDrop(0.01).least_images
            268
        """
        return least_images(self.drop, self.confidence) if self.drop > 0 else 0

    def __str__(self) -> str:
        return f"accuracy falls by at most {self.drop:.2%}, with {self.confidence:.0%} confidence"


@checked(share=INSIDE, confidence=_CONFIDENCE)
@dataclass(frozen=True)
class Disagreement:
    """The last set before the first one whose disagreement with the full network is not shown to be within this.

    It needs no labels. The bound is exact (Clopper and Pearson), see :func:`~resnet_paths.statistics.share_at_most`.

    Attributes:
        share: share of images that may be answered differently.
        confidence: confidence with which it is shown.
    """

    share: float
    confidence: float = 0.95

    @property
    def least_images(self) -> int:
        """The minimum number of images for a certificate, which suffices if no answer changes.

        Example:
            >>> Disagreement(0.02).least_images
            149
        """
        count = math.ceil(math.log(1 - self.confidence) / math.log1p(-self.share))
        return count if share_at_most(0, count, self.confidence) <= self.share else count + 1

    def __str__(self) -> str:
        return f"at most {self.share:.2%} of answers change, with {self.confidence:.0%} confidence"


@checked(count=NONE_OR_MORE)
@dataclass(frozen=True)
class Count:
    """A number of blocks to drop.

    Attributes:
        count: number of blocks.
    """

    count: int

    def __str__(self) -> str:
        return f"{self.count} block{'s' * (self.count != 1)} dropped"


Goal = Latency | AccuracyDrop | Disagreement | Count
