"""The gradient split exactly by path length."""

from __future__ import annotations

import numpy as np

from ...paths import gradient_by_length
from ...plot import plot_gradient_by_length
from ..pictures import picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, number, percent


def run(subject: Subject, options: Options) -> Section:
    """Which lengths carry the gradient of the loss at the input, cancellation included."""
    x, labels = subject.batch(options["images"])
    record = gradient_by_length(subject.fast, x, labels)
    norms = record.norms.double().cpu().numpy().mean(1)
    share = record.share.double().cpu().numpy().mean(1)
    top, total = int(norms.argmax()), float(record.total_norm.double().mean())
    n = len(subject.net)
    short = float(share[: n // 2].sum())
    found = (
        f"The gradient's largest part comes through paths of length {top}, of {n}; paths shorter than {n // 2} give "
        f"{percent(short)} of it."
    )
    reading = (
        f"{found} The mean norm of that part is {number(norms[top])}, of the whole gradient {number(total)}"
        + (": parts of different lengths cancel." if norms[top] > total else "."),
        f"The parts of all lengths sum to the ordinary gradient to {record.residual:.1e} relative: this is a split, "
        "not an estimate.",
        _signs(share),
    )
    alt = (
        f"Norm of the gradient at the input by path length, log scale: largest ({number(norms[top])}) at length {top}, "
        f"{number(norms[0])} at length 0, {number(norms[-1])} at length {n}."
    )
    drawn = picture(lambda ax: plot_gradient_by_length(record, ax), alt)
    frame = record.to_pandas()
    table = Table.of("gradient_by_length", f"Norm, share and cosine, {counted(len(x), 'image')}", frame)
    return Section(
        (Part("Gradient by path length", reading, drawn, (table,)),),
        (found,),
        _warnings(record.residual, record.looped),
    )


def _signs(share: np.ndarray) -> str:
    against = [str(length) for length in np.flatnonzero(share < -0.01)]
    if not against:
        return "No length points against the whole gradient by more than 1 % of it, in the mean over the images."
    return f"Lengths {listed(against)} point against the whole gradient, by {percent(-share.min())} of it at most."


def _warnings(residual: float | None, looped: object) -> tuple[str, ...]:
    found = []
    if residual is not None and not residual < 1e-3:
        found.append(
            f"The parts by length miss the ordinary gradient by {percent(residual)}: run in float64, or distrust "
            "this section."
        )
    return tuple(found)


STAGE = Stage(
    name="gradient",
    title="Gradient by path length",
    question="Through how many branches does the training signal come back?",
    run=run,
    quick={"images": 16},
    full={"images": 128},
    weight=4,
)
