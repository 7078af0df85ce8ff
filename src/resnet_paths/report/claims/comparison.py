"""Compare two kinds of networks over several training runs.

Two of the papers compare training runs, and here the runs are short: early in training the network that learns faster
has the lower error, whichever ends up better. So a comparison counts only once both have learnt.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...nouns import counted
from ..words import listed, percent
from .claim import Measured
from .evidence import Evidence
from .rules import LEAST_SEEDS, above

LEARNT = 0.75
"""A network counts as trained once its error is at most this share of chance."""


def compared_errors(
    evidence: Evidence,
    lower: tuple[str, np.ndarray],
    higher: tuple[str, np.ndarray],
    what: str,
) -> Measured:
    """Whether the errors of the second kind are higher than those of the first, paired by seed.

    Args:
        evidence: for chance and the number of training runs.
        lower: name and errors of the kind that is better according to the claim.
        higher: name and errors of the other kind.
        what: the compared quantity. Both kinds must have learnt: otherwise the comparison only measures how long
            training takes.
    """
    text = f"{what}: " + listed([f"{name} {percent(float(errors.mean()))}" for name, errors in (lower, higher)])
    text += f", means of {counted(len(lower[1]), 'training run')} each"
    numbers = {name: float(errors.mean()) for name, errors in (lower, higher)}
    unlearnt = not_learnt(evidence, dict((lower, higher)))
    if unlearnt:
        return Measured(f"{text}; {unlearnt}", None, numbers)
    if len(lower[1]) < LEAST_SEEDS:
        return Measured(f"{text}; too few to be significant", None, numbers)
    return Measured(text, above(higher[1] - lower[1]), numbers)


def not_learnt(evidence: Evidence, errors: Mapping[str, np.ndarray], share: float = LEARNT) -> str:
    """Which kinds of networks have not learnt in this short training, in words; "" if all have.

    The error must be at most `share` of chance.
    """
    limit = share * evidence.subject.chance
    names = [name for name, several in errors.items() if several.mean() > limit]
    return f"{listed(names)}: insufficiently trained after so few epochs" if names else ""
