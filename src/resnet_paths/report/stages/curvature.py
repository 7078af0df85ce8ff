"""How sharp the minimum is: extreme eigenvalues and spectral density of the Hessian."""

from __future__ import annotations

import pandas as pd

from ...data import ExampleMetric
from ...landscape import (
    CurvatureOperator,
    ExtremeEigenvalues,
    SpectralDensity,
    curvature_operator,
    extreme_eigenvalues,
    spectral_density,
)
from ...nouns import counted
from ...plot.curvature import plot_spectrum
from ...tradeoff import count_parameters
from ..effort import Effort, gradients
from ..pictures import Mark, marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number, percent


def run(subject: Subject, options: Options) -> Section:
    """The largest and the smallest eigenvalue of the Hessian, and the spectral density."""
    part, extremes = _measured(subject, options)
    finding = (
        f"The largest eigenvalue of the loss's Hessian is {number(extremes.largest)}, the smallest "
        f"{number(extremes.smallest)}; the ratio of their magnitudes is {number(extremes.ratio)} (a convex loss has "
        "no negative eigenvalue)."
    )
    return Section((part,), (finding,), _warnings(extremes, options, subject.noun))


def _measured(subject: Subject, options: Options) -> tuple[Part, ExtremeEigenvalues]:
    if subject.loss is None:
        raise NotApplicableError(subject.why_no_loss)
    try:
        operator = _operator(subject, subject.count(options["images"]), subject.together(_bytes(subject)))
    except ImportError as reason:
        raise NotApplicableError(str(reason).rstrip(".")) from None
    try:
        extremes = extreme_eigenvalues(
            operator, tolerance=options["tolerance"], basis=options["basis"], seed=subject.seed
        )
    except RuntimeError as reason:
        if "is not implemented" not in str(reason):
            raise
        raise NotApplicableError(f"PyTorch has no second derivative of an operation of this model ({reason})") from None
    density = spectral_density(operator, steps=options["steps"], draws=options["draws"], seed=subject.seed)
    below, error = density.share_below(-1e-2 * extremes.largest)
    reading = (
        f"The largest eigenvalue is {number(extremes.largest)}, the smallest {number(extremes.smallest)}. "
        f"{_convex(extremes, subject.data.nouns)}",
        "The Hessian holds the second derivatives of the loss with respect to all weights. An eigenvalue is the "
        f"curvature of the loss along one direction. It has {counted(extremes.size, 'eigenvalue')}, here on "
        f"{subject.counted(extremes.samples)}.",
        f"About {percent(below)} of the eigenvalues (standard error {percent(error)}) are below minus one hundredth "
        "of the largest. In the plot, each eigenvalue is smoothed into a Gaussian.",
    )
    alt = (
        f"Density of the Hessian's eigenvalues, log scale: nearly all close to 0, the largest at "
        f"{number(extremes.largest)}, the smallest at {number(extremes.smallest)}."
    )
    tables = _tables(extremes, density)
    drawn = picture(lambda ax: plot_spectrum(density, ax), alt, _tips(tables[1]))
    return Part("The model", reading, drawn, tables), extremes


def _operator(subject: Subject, count: int, at_once: int) -> CurvatureOperator:
    """The Hessian of the mean loss, of tokens and pixels over all that count, as the loss surface has it."""
    loss = subject.loss
    assert loss is not None
    if subject.has_pictures:
        return curvature_operator(subject.model, subject.images(count), batch_size=at_once)
    if isinstance(loss.metric, ExampleMetric):
        return curvature_operator(subject.model, subject.images(count), loss=loss.metric, batch_size=at_once)
    parts = [(x, (targets, mask)) for x, targets, mask in subject.batches(count, at_once)]
    return curvature_operator(subject.model, parts, loss=lambda outputs, target: loss(outputs, *target))


def _tips(table: Table, most: int = 60) -> list[Mark]:
    """Where the density is drawn: every few points of its fine grid."""
    tips = marks(
        table,
        lambda row: f"eigenvalue {number(row['eigenvalue'])}: density {number(row['density'])}",
        y="density",
        x="eigenvalue",
    )
    return tips[:: -(-len(tips) // most)]


def _tables(extremes: ExtremeEigenvalues, density: SpectralDensity) -> tuple[Table, Table]:
    facts = pd.DataFrame(
        [{"smallest": extremes.smallest, "largest": extremes.largest, "ratio": extremes.ratio,
          "products": extremes.products, "samples": extremes.samples, "parameters": extremes.size}]
    )  # fmt: skip
    return (
        Table.of("curvature_extremes", "Extreme eigenvalues", facts),
        Table.of("curvature_density", "Density of the eigenvalues", density.to_pandas()),
    )


def _convex(extremes: ExtremeEigenvalues, nouns: str) -> str:
    if extremes.smallest >= -1e-3 * extremes.largest:
        return "None is negative beyond a thousandth of the largest: the loss is locally convex."
    return f"Along some directions the curvature is negative: for these {nouns} the weights are not at a minimum."


def _warnings(extremes: ExtremeEigenvalues, options: Options, noun: str) -> tuple[str, ...]:
    warnings = []
    if float(extremes.residuals.max()) > options["tolerance"]:
        warnings.append(f"The extreme eigenvalues have errors of up to {percent(float(extremes.residuals.max()))}.")
    if extremes.samples < 200:
        warnings.append(
            f"The Hessian is computed on only {counted(extremes.samples, noun)}; its eigenvalues vary with them."
        )
    return tuple(warnings)


_PRODUCT = 3.5  # gradients of the data for one product of several batches
_OF_ONE_GRAPH = 2.5  # for one product of a single batch
_RESTARTS = 1  # of Lanczos, to the loose tolerances of a quick report


def _bytes(subject: Subject) -> float:
    """Per image: the graph of a second derivative."""
    return 3 * subject.footprint.backward


def effort(subject: Subject, options: Options) -> Effort:
    """Products of the Hessian with vectors, and the vectors themselves, in float64."""
    if subject.loss is None:
        return Effort()
    products = options["basis"] + _RESTARTS * (options["basis"] - 2) + options["steps"] * options["draws"]
    images, vectors = subject.count(options["images"]), max(options["basis"] + 4, options["steps"] + 2)
    at_once = subject.together(_bytes(subject))
    product = _OF_ONE_GRAPH if images <= at_once else _PRODUCT
    return gradients(product * products, images, at_once) + Effort(
        seconds=1.0,
        bytes=_bytes(subject) + 8 * vectors * count_parameters(subject.model),
    )


STAGE = Stage(
    name="curvature",
    title="Curvature",
    question="How strongly is the loss curved at the trained weights, and is the curvature negative anywhere?",
    run=run,
    quick={"images": 64, "tolerance": 1e-2, "basis": 20, "steps": 16, "draws": 2},
    full={"images": 512, "tolerance": 1e-3, "basis": 20, "steps": 60, "draws": 8},
    weight=15,
    least={"images": 8, "tolerance": 5e-2, "basis": 8, "steps": 8},
    effort=effort,
)
