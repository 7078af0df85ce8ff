"""He, Zhang, Ren and Sun (2015), Deep Residual Learning for Image Recognition."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...graph.preserve import preserved
from ...graph.private_copy import private_use
from ...models import cifar_resnet
from ...tradeoff import count_parameters
from ..words import listed, number, percent
from .claim import Claim, Measured, Paper
from .evidence import Evidence

_TABLE6 = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
_EPOCHS, _SHALLOW, _DEEP = 5, 14, 56


def _parameters(evidence: Evidence) -> Measured:
    found = {depth: count_parameters(cifar_resnet(depth, seed=0)) / 1e6 for depth in _TABLE6}
    text = listed([f"{depth} layers {value:.3g} M" for depth, value in found.items()])
    agrees = all(abs(found[depth] - value) <= (0.005 if value < 1 else 0.05) for depth, value in _TABLE6.items())
    return Measured(text, agrees, {f"depth_{depth}": value for depth, value in found.items()})


def _degradation(evidence: Evidence) -> Measured:
    shallow, deep = (evidence.trained(depth, epochs=_EPOCHS, residual=False) for depth in (_SHALLOW, _DEEP))
    numbers = {"shallow": shallow.train_error, "deep": deep.train_error}
    text = (
        f"training error after {_EPOCHS} epochs: {percent(shallow.train_error)} with {_SHALLOW} layers, "
        f"{percent(deep.train_error)} with {_DEEP}"
    )
    return Measured(text, deep.train_error > shallow.train_error, numbers)


def _residual(evidence: Evidence) -> Measured:
    plain, residual = (evidence.trained(_DEEP, epochs=_EPOCHS, **kind) for kind in ({"residual": False}, {}))
    text = (
        f"training error of {_DEEP} layers after {_EPOCHS} epochs: {percent(plain.train_error)} plain, "
        f"{percent(residual.train_error)} residual"
    )
    numbers = {"plain": plain.train_error, "residual": residual.train_error}
    return Measured(text, residual.train_error < plain.train_error, numbers)


def _responses(evidence: Evidence) -> Measured:
    plain, residual = (
        _spread(evidence, evidence.trained(_SHALLOW, epochs=12, **kind).model) for kind in ({"residual": False}, {})
    )
    smaller = float((residual < plain).mean())
    text = (
        f"mean standard deviation of the {len(plain)} norms' outputs: {number(float(plain.mean()))} plain, "
        f"{number(float(residual.mean()))} residual; smaller in {percent(smaller)} of the layers"
    )
    return Measured(text, bool(residual.mean() < plain.mean()), {"plain": plain.mean(), "residual": residual.mean()})


def _spread(evidence: Evidence, model: nn.Module) -> np.ndarray:
    """The standard deviation of what each batch norm gives, before any activation and addition."""
    found: list[float] = []
    with private_use(model) as own, preserved(own), torch.no_grad():
        for module in own.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda _, __, out: found.append(float(out.std())))
        own(evidence.subject.images(100).x)
    return np.array(found)


PAPER = Paper(
    "he2015",
    "He, Zhang, Ren and Sun (2015), Deep Residual Learning for Image Recognition",
    (
        Claim(
            "parameters",
            "table 6",
            "Sizes of the CIFAR-10 networks",
            "0.27, 0.46, 0.66, 0.85 and 1.7 M parameters for 20, 32, 44, 56 and 110 layers",
            _parameters,
        ),
        Claim(
            "degradation",
            "section 4.2, figure 6 left",
            "Deeper plain networks have a higher training error",
            f"training error higher with {_DEEP} layers than with {_SHALLOW}",
            _degradation,
        ),
        Claim(
            "residual",
            "section 4.2, figure 6 middle",
            "Shortcuts let deep networks train",
            f"training error of {_DEEP} layers lower with shortcuts",
            _residual,
        ),
        Claim(
            "responses",
            "section 4.2, figure 7",
            "Layers of residual networks respond less than those of plain ones",
            "smaller mean standard deviation of the norms' outputs",
            _responses,
        ),
    ),
)
