"""Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...graph.private_copy import private_copy
from ...landscape import loss_surface, random_direction, roughness
from ...network.inference import foldable
from ..words import number, percent
from .claim import Claim, Measured, Paper
from .evidence import Evidence

_EPOCHS = 8


def _invariance(evidence: Evidence) -> Measured:
    """The same function with weights ten times as large: filter-normalised curves must not tell the two apart."""
    model = evidence.subject.model
    larger = _rescaled(evidence, 10.0)
    if larger is None:
        return Measured("this network has no convolution with a batch norm right after it", None)
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
    """A copy with larger convolutions whose norms take the factor out again."""
    pairs = foldable(evidence.net.segments.program)
    if not pairs:
        return None
    model = private_copy(evidence.subject.model)
    with torch.no_grad():
        for convolution, norm in pairs:
            layer, scale = model.get_submodule(convolution), model.get_submodule(norm)
            for tensor in layer.parameters():
                tensor.mul_(factor)
            scale.running_mean.mul_(factor)  # type: ignore[union-attr, operator]
            scale.running_var.mul_(factor**2)  # type: ignore[union-attr, operator]
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
    """Share of negative curvature over three planes each, twins of 56 layers trained alike."""
    found: dict[str, list[float]] = {"plain": [], "residual": []}
    errors = {}
    for name, options in (("plain", {"residual": False}), ("residual", {})):
        trained = evidence.trained(56, epochs=5, **options)
        errors[name] = trained.train_error
        for seed in range(3):
            plane = [random_direction(trained.model, seed=10 * evidence.seed + 2 * seed + place) for place in (1, 2)]
            axis = np.linspace(-1, 1, 9)
            surface = loss_surface(
                trained.model, evidence.subject.images(60), directions=plane, x=axis, y=axis, progress=False
            )
            found[name].append(roughness(surface).negative)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    spread = float(np.hypot(*(np.std(values, ddof=1) / np.sqrt(len(values)) for values in found.values())))
    text = (
        f"mean share of negative curvature over 3 planes: {number(means['plain'])} plain (training error "
        f"{percent(errors['plain'])}), {number(means['residual'])} residual ({percent(errors['residual'])}); standard "
        f"error of the difference {number(spread)}"
    )
    difference = means["plain"] - means["residual"]
    return Measured(text, None if abs(difference) < 2 * spread else difference > 0, means)


def _low_dimension(evidence: Evidence) -> Measured:
    """Principal components of the weights after each epoch, relative to the last."""
    steps = evidence.trained(20, epochs=_EPOCHS).steps
    moves = steps[:-1] - steps[-1]
    spectrum = np.linalg.svd(moves, compute_uv=False) ** 2
    share = float(spectrum[:2].sum() / spectrum.sum())
    generator = np.random.default_rng(evidence.seed)
    plane, _ = np.linalg.qr(generator.standard_normal((moves.shape[1], 2)))
    random = float(((moves @ plane) ** 2).sum() / (moves**2).sum())
    text = (
        f"two principal directions hold {percent(share)} of the path of {moves.shape[1]:,} weights over {_EPOCHS} "
        f"epochs, two random directions {percent(random)}"
    )
    return Measured(text, share >= 0.4 and random < 0.01, {"principal": share, "random": random})


PAPER = Paper(
    "li2018",
    "Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets",
    (
        Claim(
            "filter-normalisation",
            "section 4",
            "Filter-normalised directions do not see the scale of the weights",
            "the same curve within 5 % for a rescaled equal network; another one without normalisation",
            _invariance,
        ),
        Claim(
            "smoother",
            "section 5.2, figures 1 and 5",
            "Shortcuts make the surface of a deep network smoother",
            "less negative curvature than the plain twin's, by more than two standard errors",
            _smoother,
        ),
        Claim(
            "low-dimension",
            "section 7.2, figure 9",
            "The path of training lies in very few dimensions, which random directions miss",
            "two principal directions hold 40 % or more, two random ones almost nothing",
            _low_dimension,
        ),
    ),
)
