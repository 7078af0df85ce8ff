"""The gradient split exactly by path length."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...nouns import counted
from ...paths import GradientByLength, gradient_by_length
from ...plot import plot_gradient_by_length, plot_gradient_share
from ..effort import Effort, gradients, passes
from ..joining import joined
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import listed, number, percent


def run(subject: Subject, options: Options) -> Section:
    """Which lengths carry the gradient of the loss at the input, including cancellation."""
    loss, count = subject.loss, subject.count(options["images"])
    if loss is None:
        raise NotApplicableError(subject.why_no_loss)
    record = joined(
        [
            gradient_by_length(subject.fast, x, targets, at=subject.start, loss=loss.total(mask))
            for x, targets, mask in subject.batches(count, subject.together(_bytes(subject)))
        ],
        ("norms", "total_norm", "share", "cosine", "entry_norms"),
        worst=("residual",),
    )
    if not record.total_norm.any() and not record.norms.any():
        raise NotApplicableError(no_gradient(subject))
    examples = subject.counted(count)
    norms = np.median(record.norms.double().cpu().numpy(), 1)  # as drawn; a few images have much larger gradients
    share = record.share.double().cpu().numpy()
    share = share[:, np.isfinite(share).all(0)].mean(1)  # an example without a gradient has no shares
    top, total = int(norms.argmax()), float(np.median(record.total_norm.double().cpu().numpy()))
    n = int(record.lengths[-1])
    short = float(share[: n // 2].sum())
    finding = (
        f"Paths through {counted(top, 'branch', 'branches')} (of {n}) carry the largest part of the gradient; all "
        f"paths shorter than {n // 2} together make up {percent(short)} of it."
    )
    reading = (
        finding,
        f"The median norm over {examples} is {number(norms[top])} at length {top} and "
        f"{number(total)} for the full gradient"
        + (
            ". The full gradient is smaller than this part because parts of different lengths cancel."
            if norms[top] > total
            else "."
        ),
        "This is an exact split of the gradient, not an estimate: the parts of all lengths sum to the ordinary "
        f"gradient (relative difference {record.residual:.1e}).",
        _signs(share, subject.data.nouns),
    )
    alt = (
        f"Norm of the gradient {subject.start_words} by path length, log scale: largest ({number(norms[top])}) at "
        f"length {top}, {number(norms[0])} at length 0, {number(norms[-1])} at length {n}."
    )
    frame = pd.DataFrame(
        {"length": record.lengths.numpy(), "median_norm": norms, "share": share, "share_up_to": share.cumsum()}
    )
    by_length = Table.of("gradient_shares", f"By length: median and means over {examples}", frame)
    tips = marks(
        by_length, lambda row: f"length {row['length']}: norm {number(row['median_norm'])}", y="median_norm", x="length"
    )
    drawn = picture(lambda ax: plot_gradient_by_length(record, ax), alt, tips)
    table = Table.of("gradient_by_length", f"Norm, share and cosine, {examples}", record.to_pandas())
    return Section(
        (Part("Norm by length", reading[1:], drawn, (table,)), _shares(record, by_length, (reading[0], reading[-1]))),
        (finding,),
        _warnings(record.residual),
    )


def _shares(record: GradientByLength, table: Table, reading: tuple[str, ...]) -> Part:
    frame = table.frame()
    tips = marks(
        table,
        lambda row: (
            f"length {row['length']}: {percent(row['share'])} of the gradient; up to it {percent(row['share_up_to'])}"
        ),
        y="share",
        x="length",
    )
    half = int((frame["share_up_to"] >= 0.5).to_numpy().argmax())
    alt = (
        f"Share of the gradient by path length, and running sum: largest at length {int(frame['share'].argmax())}; "
        f"half of the gradient is reached at length {half}."
    )
    drawn = picture(lambda ax: plot_gradient_share(record, ax), alt, tips)
    return Part("Share by length", reading, drawn, (table,))


def _signs(share: np.ndarray, nouns: str) -> str:
    against = [str(length) for length in np.flatnonzero(share < -0.01)]
    if not against:
        return f"On average over the {nouns}, no length opposes the full gradient by more than 1 %."
    return f"Lengths {listed(against)} oppose the full gradient, by at most {percent(-share.min())} of it."


def _warnings(residual: float | None) -> tuple[str, ...]:
    warnings = []
    if residual is not None and not residual < 1e-3:
        warnings.append(
            f"The sum over lengths differs from the ordinary gradient by {percent(residual)}: run in float64, or "
            "distrust this section."
        )
    return tuple(warnings)


def no_gradient(subject: Subject) -> str:
    """Why there is nothing to split where all gradients are zero."""
    zero = f"the gradient of the loss {subject.start_words} is zero for all {subject.data.nouns}"
    return f"{zero}: there is nothing to split"


def _bytes(subject: Subject) -> float:
    """Per image: the pass, and two copies of the parts of all lengths."""
    return subject.footprint.backward + 2 * (len(subject.net) + 1) * max(subject.footprint.entry, 1)


def effort(subject: Subject, options: Options) -> Effort:
    """One backward pass per length, over half of the blocks on average; branches are pulled back without autograd."""
    if subject.loss is None:
        return Effort()
    n, images = len(subject.net), subject.count(options["images"])
    pulled = passes((n + 1) / 2, images, subject.together(_bytes(subject)))
    return pulled + gradients(1, images, images) + Effort(seconds=1.0, bytes=_bytes(subject))


STAGE = Stage(
    name="gradient",
    title="Gradient by path length",
    question="Through how many branches does the gradient flow?",
    run=run,
    quick={"images": 16},
    full={"images": 128},
    weight=4,
    least={"images": 2},
    effort=effort,
)
