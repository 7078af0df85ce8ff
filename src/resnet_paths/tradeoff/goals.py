"""What a plan is to reach: a latency, a fall of accuracy, a disagreement, or a number of blocks."""

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
    """The first set that is as fast as this, shown by a measurement of its own.

    A set whose median is fast enough is timed once more, four times as long, in turn with the full network; the upper
    end of that interval must reach the goal, not the luckiest median of many.

    Attributes:
        share: of the full network's time.
        confidence: of the interval, over all sets that are timed once more (the k-th has ``1 - (1 - confidence)/2^k``).
    """

    share: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"latency at most {self.share:.0%} of the full network's"


@checked(drop=SHARE, confidence=_CONFIDENCE)
@dataclass(frozen=True)
class AccuracyDrop:
    """The last set before the first whose fall of accuracy is not shown to be within this.

    Shown on images that chose nothing, by :func:`~resnet_paths.lesion.fall_at_most`. The sets are tested in an order
    that those images did not decide, up to the first failure, so no correction for their number is needed.

    Attributes:
        drop: fall of accuracy from the full network, which got the same repair.
        confidence: with which it is shown.
    """

    drop: float
    confidence: float = 0.95

    @property
    def least_images(self) -> int:
        """The least number of images for a certificate: that for which none may be lost; 0 where none would do.

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
    """The same for the share of images that the full network answers otherwise; needs no labels.

    Bounded exactly (Clopper and Pearson), see :func:`~resnet_paths.statistics.share_at_most`.

    Attributes:
        share: of images.
        confidence: with which it is shown.
    """

    share: float
    confidence: float = 0.95

    @property
    def least_images(self) -> int:
        """The least number of images for a certificate: that of which none may be answered otherwise.

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
    """A number of blocks dropped.

    Attributes:
        count: of blocks.
    """

    count: int

    def __str__(self) -> str:
        return f"{self.count} block{'s' * (self.count != 1)} dropped"


Goal = Latency | AccuracyDrop | Disagreement | Count
