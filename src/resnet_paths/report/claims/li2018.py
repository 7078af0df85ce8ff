"""Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...graph.private_copy import private_copy
from ...landscape import loss_surface, random_direction, roughness
from ...network.inference import foldable
from ...nouns import counted
from ..words import listed, number, percent
from .claim import Claim, Measured, Paper
from .comparison import not_learnt
from .evidence import Evidence
from .rules import above, low_dimensional

_EPOCHS, _DEEP = 8, 26
_KINDS: dict[str, dict[str, bool]] = {"plain": {"residual": False}, "residual": {}}


def _invariance(evidence: Evidence) -> Measured:
    """The same function with weights ten times as large: filter-normalised curves must be the same."""
    model = evidence.subject.model
    larger = _rescaled(evidence, 10.0)
    if larger is None:
        return Measured("this network has no convolution directly followed by a batch norm", None)
    gaps = {}
    for normalise in ("filter", "none"):
        curves = [_curve(evidence, one, normalise) for one in (model, larger)]
        gaps[normalise] = float(np.abs(np.log(curves[0] / curves[1])).max())
    text = (
        f"with weights ten times as large and the same function, the loss curve changes by a factor of at most "
        f"{number(float(np.exp(gaps['filter'])))} with filter-normalised directions, "
        f"{number(float(np.exp(gaps['none'])))} without"
    )
    return Measured(text, gaps["filter"] < 0.05 < gaps["none"], {f"log_{name}": gap for name, gap in gaps.items()})


def _rescaled(evidence: Evidence, factor: float) -> nn.Module | None:
    """A copy with larger convolutions whose norms remove the factor again."""
    pairs = foldable(evidence.net.segments.program)
    if not pairs:
        return None
    model = private_copy(evidence.subject.model)
    with torch.no_grad():
        for convolution, norm in pairs:
            layer, scale = model.get_submodule(convolution), model.get_submodule(norm)
            for tensor in layer.parameters():
                tensor.mul_(factor)
            scale.running_mean.mul_(factor)  # type: ignore[operator]
            scale.running_var.mul_(factor**2)  # type: ignore[operator]
            scale.eps = scale.eps * factor**2  # type: ignore[assignment, operator]
    return model


def _curve(evidence: Evidence, model: nn.Module, normalise: str) -> np.ndarray:
    line = random_direction(model, seed=evidence.seed + 1, normalise=normalise)  # type: ignore[arg-type]
    reach = 0.5 if normalise == "filter" else 0.05
    surface = loss_surface(
        model, evidence.subject.images(100), directions=line, x=np.linspace(-reach, reach, 7), progress=False
    )
    return surface.values["loss"]


def _smoother(evidence: Evidence) -> Measured:
    """Share of negative curvature, averaged over two planes per run: planes of one network are not independent."""
    runs = {name: evidence.several_trained(_DEEP, epochs=10, **kind) for name, kind in _KINDS.items()}
    errors = {name: np.array([run.train_error for run in several]) for name, several in runs.items()}
    listed_errors = listed([f"{percent(float(values.mean()))} {name}" for name, values in errors.items()])
    unlearnt = not_learnt(evidence, errors)
    if unlearnt:
        return Measured(f"training errors of {_DEEP} layers {listed_errors}; {unlearnt}", None)
    negative = {
        name: np.array([_negative_curvature(evidence, run.model) for run in several]) for name, several in runs.items()
    }
    means = {name: float(values.mean()) for name, values in negative.items()}
    text = (
        f"mean share of negative curvature over {counted(evidence.seeds, 'training run')} with {_DEEP} layers: "
        f"{number(means['plain'])} plain, {number(means['residual'])} residual (training errors {listed_errors})"
    )
    return Measured(text, above(negative["plain"] - negative["residual"]), means)


def _negative_curvature(evidence: Evidence, model: nn.Module) -> float:
    axis = np.linspace(-1, 1, 9)
    found = []
    for seed in range(2):
        plane = [random_direction(model, seed=10 * evidence.seed + 2 * seed + place) for place in (1, 2)]
        surface = loss_surface(model, evidence.subject.images(60), directions=plane, x=axis, y=axis, progress=False)
        found.append(roughness(surface).negative)
    return float(np.mean(found))


def _low_dimension(evidence: Evidence) -> Measured:
    """Principal components of the weights after each epoch, centred as `project_trajectory` centres them."""
    steps = evidence.trained(20, epochs=_EPOCHS).steps
    holds, share, walk = low_dimensional(steps, seed=evidence.seed)
    generator = np.random.default_rng(evidence.seed)
    plane, _ = np.linalg.qr(generator.standard_normal((steps.shape[1], 2)))
    moves = steps - steps.mean(0)
    random = float(((moves @ plane) ** 2).sum() / (moves**2).sum())
    text = (
        f"two principal directions explain {percent(share)} of the trajectory of {moves.shape[1]:,} weights over "
        f"{_EPOCHS} epochs, two random directions {percent(random)}; for a random walk with steps of the same "
        f"lengths, two principal directions explain {percent(walk)}"
    )
    return Measured(text, holds, {"principal": share, "random": random, "walk": walk})


PAPER = Paper(
    "li2018",
    "Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets",
    (
        Claim(
            "filter-normalisation",
            "section 4",
            "Filter-normalised directions are invariant to the scale of the weights",
            "the same curve within 5 % for an equivalent rescaled network; a different curve without normalisation",
            _invariance,
            kind="check",
        ),
        Claim(
            "smoother",
            "section 6, figures 1 and 5",
            "Shortcuts make the surface of a deep network smoother",
            "less negative curvature than the plain twin, significant over training runs, once both have learnt",
            _smoother,
        ),
        Claim(
            "low-dimension",
            "section 7.2, figure 9",
            "The training trajectory lies in very few dimensions, which random directions miss",
            "two principal directions explain 40 % or more, and more than for 95 % of random walks",
            _low_dimension,
        ),
    ),
)
