"""The goal of a plan: a latency, a fall in accuracy, a rise of any metric, a disagreement, or a number of blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arguments import checked
from ..arguments.ranges import INSIDE, NONE_OR_MORE, SHARE, Range
from ..choices import MetricName
from ..data.metrics import Metric, bound_of, metric_named
from ..nouns import counted
from ..statistics import share_at_most
from ..statistics.proportions import least_images

_CONFIDENCE = Range(0.5, 1, above=True, below=True)
_ANY_RISE = Range(0, math.inf)


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


@checked(by=_ANY_RISE, confidence=_CONFIDENCE)
@dataclass(frozen=True)
class Rise:
    """The last set before the first one whose rise of a metric is not shown to be within this.

    It is shown on held-out examples by :func:`~resnet_paths.statistics.rise_at_most`: where the metric is 0 or 1 on
    each example, by a score test; otherwise by Student's interval and the bootstrap-t, the wider of the two. These are
    approximate: if a few examples in a thousand determine the mean, they are too optimistic. With `distribution_free`,
    the bound holds for any distribution (Maurer and Pontil 2009), but needs thousands of examples; it exists only for
    metrics that have a maximum and are means over examples.

    Attributes:
        metric: a name, see :func:`~resnet_paths.lesion.metric_named`, or a function.
        by: rise of the metric from the full network, which gets the same repair.
        confidence: confidence with which it is shown.
        distribution_free: whether the bound must hold for any distribution.
    """

    metric: MetricName | Metric
    by: float
    confidence: float = 0.95
    distribution_free: bool = False

    @property
    def name(self) -> str:
        """The metric's name."""
        return metric_named(self.metric)[0]

    @property
    def least_images(self) -> int:
        """The minimum number of examples for a certificate, if it is known; otherwise 0."""
        if not self.distribution_free or self.by <= 0:
            return 0
        bound = bound_of(self.name) or math.inf
        return math.ceil(14 * bound * math.log(2 / (1 - self.confidence)) / (3 * self.by)) + 1

    def __str__(self) -> str:
        how = "" if self.distribution_free else " (approximate)"
        return f"{self.name} rises by at most {self.by:g}, with {self.confidence:.0%} confidence{how}"


@checked(count=NONE_OR_MORE)
@dataclass(frozen=True)
class Count:
    """A number of blocks to drop.

    Attributes:
        count: number of blocks.
    """

    count: int

    def __str__(self) -> str:
        return f"{counted(self.count, 'block')} dropped"


Goal = Latency | AccuracyDrop | Disagreement | Rise | Count
