"""He, Zhang, Ren and Sun (2015), Deep Residual Learning for Image Recognition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...graph.preserve import preserved
from ...graph.private_copy import private_use
from ...models import cifar_resnet
from ...nouns import counted
from ...tradeoff import count_parameters
from ..words import listed, number
from .claim import Claim, Measured, Paper
from .comparison import compared_errors, not_learnt
from .evidence import Evidence
from .rules import above

_TABLE6 = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
_EPOCHS, _SHALLOW, _DEEP = 10, 14, 26


def _parameters(evidence: Evidence) -> Measured:
    counts = {depth: count_parameters(cifar_resnet(depth, seed=0)) / 1e6 for depth in _TABLE6}
    text = listed([f"{depth} layers {value:.3g} M" for depth, value in counts.items()])
    agrees = all(abs(counts[depth] - value) <= (0.005 if value < 1 else 0.05) for depth, value in _TABLE6.items())
    return Measured(text, agrees, {f"depth_{depth}": value for depth, value in counts.items()})


def _degradation(evidence: Evidence) -> Measured:
    shallow, deep = (_errors(evidence, depth, residual=False) for depth in (_SHALLOW, _DEEP))
    return compared_errors(
        evidence,
        (f"{_SHALLOW} plain layers", shallow),
        (f"{_DEEP} plain layers", deep),
        f"training error after {_EPOCHS} epochs",
    )


def _residual(evidence: Evidence) -> Measured:
    plain, residual = (_errors(evidence, _DEEP, **kind) for kind in ({"residual": False}, {}))
    return compared_errors(
        evidence,
        ("residual", residual),
        ("plain", plain),
        f"training error of {_DEEP} layers after {_EPOCHS} epochs",
    )


def _errors(evidence: Evidence, depth: int, **options: Any) -> np.ndarray:
    return np.array([run.train_error for run in evidence.several_trained(depth, epochs=_EPOCHS, **options)])


def _responses(evidence: Evidence) -> Measured:
    """One mean over layers per network, so that each training run counts once."""
    runs = [evidence.several_trained(_SHALLOW, epochs=12, **kind) for kind in ({"residual": False}, {})]
    plain, residual = (np.array([_mean_response(evidence, run.model) for run in several]) for several in runs)
    text = (
        f"mean standard deviation of the norms' outputs, {counted(evidence.seeds, 'training run')} each: "
        f"{number(float(plain.mean()))} plain, {number(float(residual.mean()))} residual"
    )
    numbers = {"plain": plain.mean(), "residual": residual.mean()}
    unlearnt = not_learnt(evidence, {"plain": np.array([run.train_error for run in runs[0]])})
    if unlearnt:
        return Measured(f"{text}; {unlearnt}", None, numbers)
    return Measured(text, above(plain - residual), numbers)


def _mean_response(evidence: Evidence, model: nn.Module) -> float:
    return float(responses(model, evidence.subject.images(100).x).mean())


def responses(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """The standard deviation of what each layer's batch norm gives, before any activation and addition.

    Norms on shortcuts are left out: plain networks have none.
    """
    spread: list[float] = []
    with private_use(model) as own, preserved(own), torch.no_grad():
        for name, module in own.named_modules():
            if isinstance(module, nn.BatchNorm2d) and "shortcut" not in name:
                module.register_forward_hook(lambda _, __, out: spread.append(float(out.std())))
        own(x)
    return np.array(spread)


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
            kind="check",
        ),
        Claim(
            "degradation",
            "section 4.2, figure 6 left",
            "Deeper plain networks have a higher training error",
            f"training error higher with {_DEEP} layers than with {_SHALLOW}, significant over training runs",
            _degradation,
        ),
        Claim(
            "residual",
            "section 4.2, figure 6 middle",
            "Shortcuts let deep networks train",
            f"training error of {_DEEP} layers lower with shortcuts, significant over training runs",
            _residual,
        ),
        Claim(
            "responses",
            "section 4.2, figure 7",
            "Layers of residual networks have weaker responses than those of plain ones",
            "smaller mean standard deviation of the norms' outputs, significant over training runs",
            _responses,
        ),
    ),
)
