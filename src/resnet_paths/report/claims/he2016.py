"""He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks."""

from __future__ import annotations

import torch

from ...models import cifar_resnet
from ...network import UnrolledNetwork, unroll
from ..words import number, percent
from .claim import Claim, Measured, Paper
from .evidence import Evidence

_DEPTH, _EPOCHS = 110, 2


def _additive(evidence: Evidence) -> Measured:
    """Equation 4 within the last stage, at random weights, in float64."""
    gaps = {}
    for preactivation in (True, False):
        channels = evidence.training.images.shape[1]
        model = cifar_resnet(20, in_channels=channels, preactivation=preactivation, seed=evidence.seed).eval().double()
        x = evidence.subject.images(8).x.double()
        gaps[preactivation] = _gap(unroll(model, x), x)
    text = (
        f"what enters the last unit differs from an earlier entry plus the branches between by {gaps[True]:.1e} "
        f"relative with pre-activation, {number(gaps[False])} with the original unit"
    )
    return Measured(text, gaps[True] < 1e-12 < gaps[False], {"preactivation": gaps[True], "original": gaps[False]})


def _gap(net: UnrolledNetwork, x: torch.Tensor) -> float:
    """``|x_L - x_l - sum F| / |x_L|`` from the second unit of the last stage to the last unit's entry."""
    start = max(unit.index for unit in net if unit.shortcut != "identity") + 1
    with torch.no_grad():
        state = net.prefix(x, start)
        total = state.value.clone()
        while state.index < len(net) - 1:
            total += net.branch(state)
            state = net.step(state)
        return float((state.value - total).norm() / state.value.norm())


def _trains(evidence: Evidence) -> Measured:
    original = evidence.trained(_DEPTH, epochs=_EPOCHS)
    changed = evidence.trained(_DEPTH, epochs=_EPOCHS, preactivation=True)
    before, after = (sum(row["train_error"] for row in run.rows) / _EPOCHS for run in (original, changed))
    text = (
        f"mean training error of {_DEPTH} layers over {_EPOCHS} epochs: {percent(before)} original, {percent(after)} "
        "with pre-activation"
    )
    numbers = {"original": before, "preactivation": after}
    if min(before, after) > 0.75 * evidence.subject.chance:
        return Measured(f"{text}; neither has learnt enough in so short a training", None, numbers)
    return Measured(text, after < before, numbers)


PAPER = Paper(
    "he2016",
    "He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks",
    (
        Claim(
            "additive",
            "section 2, equation 4",
            "With identity shortcuts and nothing after the addition, any unit's input is an earlier one plus a sum of "
            "branches",
            "equal to rounding with pre-activation, not so with an activation after the addition",
            _additive,
        ),
        Claim(
            "preactivation",
            "section 4.2, figure 6",
            "Pre-activation eases the training of very deep networks",
            f"lower training error early in training, {_DEPTH} layers",
            _trains,
        ),
    ),
)
