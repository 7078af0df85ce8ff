"""Which path lengths matter: the number of paths times the gradient of one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ...nouns import counted
from ...paths import EffectivePaths, effective_paths, sample_path_gradients
from ...plot import plot_effective_lengths, plot_path_norms
from ..effort import Effort, gradients, passes
from ..joining import joined
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number, percent
from .gradient import no_gradient


def run(subject: Subject, options: Options) -> Section:
    """Veit's sampling of single paths and the effective lengths that follow."""
    n = len(subject.net)
    if n < 2:
        raise NotApplicableError(f"a network of {counted(n, 'block')} has too few path lengths")
    loss, count = subject.loss, subject.count(options["images"])
    if loss is None:
        raise NotApplicableError(subject.why_no_loss)
    parts = subject.batches(count, subject.together(_bytes(subject, options)))
    common: dict[str, Any] = {"draws": options["draws"], "at": subject.start}
    drawn = joined(
        [
            sample_path_gradients(subject.fast, x, targets, loss=loss.total(mask), seed=subject.seed + place, **common)
            for place, (x, targets, mask) in enumerate(parts)
        ],
        ("norms", "mean", "standard_error"),
    )
    if not drawn.norms.any():
        raise NotApplicableError(no_gradient(subject))
    record = effective_paths(drawn)
    finding = (
        f"Paths of {record.low} to {record.high} branches, {percent(record.path_share)} of all paths, carry "
        f"{percent(record.mass)} of the gradient. Weighted by gradient, the mean length is "
        f"{number(record.mean_length)}; over all paths it is {number(n / 2)}."
    )
    table = Table.of("effective_paths", f"By length, {subject.counted(count)}", record.to_pandas())
    values = marks(table, lambda row: f"length {row['length']}: norm {number(row['norm'])}", y="norm", x="length")

    def draw_norms(ax: Axes) -> None:
        plot_path_norms(record, ax)
        ax.set_ylabel(f"gradient norm {subject.start_words}")

    norms = Part(
        "Gradient of single paths",
        _decay(record),
        picture(draw_norms, _alt_norms(record), [mark for mark in values if mark.value > 0]),
    )
    shares = Part(
        "Effective paths",
        (
            finding,
            "Each bar is the number of paths of that length times the mean gradient norm of one such path, as a "
            "share of the sum over all lengths (Veit et al. 2016, figure 6 c). When paths are added up they partly "
            "cancel; this is ignored here but included in the previous section.",
        ),
        picture(
            lambda ax: plot_effective_lengths(record, ax),
            f"Share of each length in the gradient carried by single paths, mostly {record.low} to {record.high}, "
            f"beside the share of all paths, which is centred at {number(n / 2)}.",
            marks(
                table,
                lambda row: (
                    f"length {row['length']}: {percent(row['share'])} of the gradient, "
                    f"{percent(row['count_share'])} of the paths"
                ),
                y="share",
                x="length",
            ),
        ),
        (table,),
    )
    return Section((norms, shares), (finding,), _warnings(record, options["draws"], subject.noun))


def _decay(record: EffectivePaths) -> tuple[str, ...]:
    if not np.isfinite(record.decay):
        return ("Too few lengths carry any gradient to measure the decay.",)
    trend = "falls" if record.decay < 1 else "does not fall"
    return (
        f"The gradient of one path {trend} with length: each further branch multiplies it by {number(record.decay)}.",
        "Each point is the mean gradient norm of paths drawn at random, the dashed line an exponential (R² of the fit "
        f"{record.decay_fit:.3f}). Veit et al. (2016, figure 6 b) found an exponential decay too.",
    )


def _alt_norms(record: EffectivePaths) -> str:
    return (
        f"Gradient norm of one path by length, log scale, from {number(record.norm[0])} at length 0 to "
        f"{number(record.norm[-1])} at length {record.lengths[-1]}; error bars and the best exponential fit."
    )


def _warnings(record: EffectivePaths, samples: int, noun: str) -> tuple[str, ...]:
    warnings = []
    inside = slice(record.low, record.high + 1)
    relative = record.standard_error[inside] / np.maximum(record.norm[inside], np.finfo(float).tiny)
    if relative.max() > 0.2:
        warnings.append(
            f"Path sampling is noisy: with {samples} paths per length and {noun} the standard error reaches "
            f"{percent(float(relative.max()))} of the value within the effective range. A longer --budget draws more."
        )
    if np.isfinite(record.decay_fit) and record.decay_fit < 0.9:
        warnings.append(f"An exponential fits the decay poorly (R² {record.decay_fit:.2f}).")
    return tuple(warnings)


def _bytes(subject: Subject, options: Options) -> float:
    """Per image: the pass, and the rows of all draws at the entry and the sum of a block."""
    return float(subject.footprint.backward) + 4 * int(options["draws"]) * subject.footprint.entry


def effort(subject: Subject, options: Options) -> Effort:
    """One backward pass, about as expensive as a forward pass, for every length and draw."""
    if subject.loss is None:
        return Effort()
    images, each = subject.count(options["images"]), _bytes(subject, options)
    pulled = passes((len(subject.net) + 1) * options["draws"], images, subject.together(each) * options["draws"])
    return pulled + gradients(1, images, images) + Effort(seconds=1.5, bytes=each)


STAGE = Stage(
    name="effective",
    title="Effective paths",
    question="Which path lengths carry the gradient, taking the number of paths into account?",
    run=run,
    quick={"images": 24, "draws": 32},
    full={"images": 64, "draws": 64},
    weight=6,
    least={"images": 2, "draws": 2},
    effort=effort,
)
