"""Ranges of numbers by argument name: the same name has the same range in every function.

By name rather than by annotation, because almost every count, share and seed of the library means the same thing
everywhere; the few exceptions pass their range to `checked`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST = 10**9
"""The largest count: a run with more of anything would not finish, so a larger value is a typo."""


@dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
        low: the lower bound.
        high: the upper bound.
        above: exclude the lower bound itself.
        below: exclude the upper bound itself.
        nan: allow NaN and infinities.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    nan: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number is in the range.

        Example:
            >>> INSIDE.holds(1), SHARE.holds(1), SHARE.holds(math.nan), COUNT.holds(math.inf), ANY.holds(math.nan)
            (False, True, False, False, True)
        """
        if isinstance(value, float | np.floating) and not math.isfinite(value):
            return self.nan
        above_low = value > self.low if self.above else value >= self.low
        return bool(above_low and (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'of at least'} {_number(self.low)}"
        high = f"{'below' if self.below else 'of at most'} {_number(self.high)}"
        if self.low == -math.inf:
            return "" if self.high == math.inf else high
        if self.high == math.inf:
            return low
        if self.high == MOST:
            return f"{low} and at most {MOST:,}"
        if self.above == self.below:
            first, then = ("between", "and") if self.above else ("from", "to")
            return f"{first} {_number(self.low)} {then} {_number(self.high)}"
        return f"{low} and {high.removeprefix('of ')}"


def _number(value: float) -> str:
    if value == 2**63 - 1:
        return "2^63 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


FINITE = Range()
ANY = Range(nan=True)
COUNT = Range(1, MOST)
NONE_OR_MORE = Range(0, MOST)
SEED = Range(0, 2**63 - 1)
BYTES = Range(1, 2**63 - 1)
INSIDE = Range(0, 1, above=True, below=True)
SHARE = Range(0, 1)
SOME_SHARE = Range(0, 1, above=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)

_COUNTED = """
    basis batch_size bins chunk columns copies count depth draws epochs every group_width in_channels
    max_batches max_restarts max_permutations num_classes points products samples size steps stride
    threads widths limit among finetune_limit
"""
_COUNTED_FROM_NONE = """
    batch budget cka_images images length max_blocks max_length n network shift step workers
    finetune_epochs
"""

RANGES: Mapping[str, Range] = {
    **dict.fromkeys(_COUNTED.split(), COUNT),
    **dict.fromkeys(_COUNTED_FROM_NONE.split(), NONE_OR_MORE),
    "seed": SEED,
    "max_bytes": BYTES,
    **dict.fromkeys(("confidence", "mass"), INSIDE),
    **dict.fromkeys(("accuracy_drop", "chance", "disagreement", "keep", "label_smoothing", "last", "momentum"), SHARE),
    "latency": SOME_SHARE,
    "keep_last": SOME_SHARE,
    **dict.fromkeys(("finetune_rate", "white", "temperature", "width"), POSITIVE),
    **dict.fromkeys(("alpha", "learning_rate", "lr", "mixup", "tolerance", "warmup", "weight_decay"), NOT_NEGATIVE),
    **dict.fromkeys(
        ("latency_seconds", "seconds"), Range(0, 10**6)
    ),  # eleven days: anything longer is a mistake of units
}
"""Ranges by argument name; other arguments may be any finite number."""
