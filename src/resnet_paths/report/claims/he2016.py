"""He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks."""

from __future__ import annotations

import numpy as np
import torch

from ...models import cifar_resnet
from ...network import UnrolledNetwork, unroll
from ..words import number
from .claim import Claim, Measured, Paper
from .comparison import compared_errors
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
        f"the input of the last block differs from an earlier input plus the branches in between by {gaps[True]:.1e} "
        f"relative with pre-activation, {number(gaps[False])} with the original block"
    )
    return Measured(text, gaps[True] < 1e-12 < gaps[False], {"preactivation": gaps[True], "original": gaps[False]})


def _gap(net: UnrolledNetwork, x: torch.Tensor) -> float:
    """``|x_L - x_l - sum F| / |x_L|`` from the second block of the last stage to the last block's entry."""
    start = max(block.index for block in net if block.shortcut != "identity") + 1
    with torch.no_grad():
        state = net.prefix(x, start)
        total = state.value.clone()
        while state.index < len(net) - 1:
            total += net.branch(state)
            state = net.step(state)
        return float((state.value - total).norm() / state.value.norm())


def _trains(evidence: Evidence) -> Measured:
    """The mean error over the short training run, because the paper's curves differ early."""
    changed, original = (
        np.array(
            [
                sum(row["train_error"] for row in run.rows) / _EPOCHS
                for run in evidence.several_trained(_DEPTH, epochs=_EPOCHS, **kind)
            ]
        )
        for kind in ({"preactivation": True}, {})
    )
    what = f"mean training error of {_DEPTH} layers over {_EPOCHS} epochs"
    return compared_errors(evidence, ("with pre-activation", changed), ("original", original), what)


PAPER = Paper(
    "he2016",
    "He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks",
    (
        Claim(
            "additive",
            "section 2, equation 4",
            "With identity shortcuts and nothing after the addition, any block's input is an earlier one plus a sum of "
            "branches",
            "equal up to rounding with pre-activation, but not with an activation after the addition",
            _additive,
            kind="check",
        ),
        Claim(
            "preactivation",
            "section 4.2, figure 1",
            "Pre-activation eases the optimisation of very deep networks (1001 layers; with 164, the original "
            "suffers slightly, and only at the beginning)",
            f"lower training error early in training, significant over training runs, here with {_DEPTH} layers",
            _trains,
        ),
    ),
)
