"""The loss around the trained weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...data import ExampleMetric
from ...landscape import CellSettings, Roughness, Surface, loss_surface, random_direction, roughness
from ...landscape.cell_inputs import HELD_BYTES
from ...landscape.cell_metrics import Loss
from ...nouns import counted
from ...plot import plot_surface_heat
from ...tradeoff import count_parameters
from ..effort import Effort, passes
from ..losses import ExampleLoss
from ..pictures import picture
from ..relief import ONE_PLANE, cell_text, relief_data, surface_marks
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number, percent


def run(subject: Subject, options: Options) -> Section:
    """A plane of filter-normalised random directions."""
    if subject.loss is None:
        raise NotApplicableError(subject.why_no_loss)
    parts, rough = _measured(subject, options, subject.loss)
    finding = (
        f"On a random plane through the trained weights, the logarithm of the loss is convex at "
        f"{percent(rough.convex)} of the inner points."
    )
    return Section(parts, (finding,), _warnings(subject, subject.count(options["images"]), rough))


def _measured(subject: Subject, options: Options, loss_of: ExampleLoss) -> tuple[tuple[Part, Part], Roughness]:
    steps = options["steps"] - (options["steps"] + 1) % 2  # an even number would miss the trained weights
    coordinates = np.linspace(-options["reach"], options["reach"], steps)
    plane = [random_direction(subject.model, seed=2 * subject.seed + place) for place in (1, 2)]
    record = loss_surface(
        subject.model,
        subject.images(options["images"]),
        directions=plane,
        x=coordinates,
        y=coordinates,
        loss=None if subject.has_pictures else _as_metric(loss_of),
        settings=CellSettings(batch_size=subject.at_once),
        progress=False,
    )
    try:
        rough = roughness(record, scale="log")
    except ValueError as reason:
        raise NotApplicableError(f"the logarithm of the loss has no roughness on this plane ({reason})") from None
    loss = record.values["loss"]
    middle = float(loss[steps // 2, steps // 2])
    lost = int((~np.isfinite(loss)).sum())
    coarse = f" With only {counted(loss.size, 'cell')}, finer details are unknown." if loss.size < 900 else ""
    reading = (
        f"The cross marks the trained weights, the lines have equal loss.{coarse}",
        "Both axes move all weights along a random direction; a step of 1 moves each filter by its own norm (Li et al. "
        "2018, section 4).",
        f"The loss there is {number(middle)}; on the plane it lies between {number(float(np.nanmin(loss)))} and "
        f"{number(float(np.nanmax(loss)))}{_lowest(record)}.{_usable(record)}",
        f"On its logarithmic scale the surface is convex (bends upwards in both directions of the plane) at "
        f"{percent(rough.convex)} of {counted(rough.cells, 'inner point')}; its deviation from the best quadratic "
        f"fit is {percent(rough.deviation)} of its spread.",
        *([f"{counted(lost, 'cell')} have no finite loss."] if lost else []),
    )
    alt = (
        f"Loss over a plane of two random filter-normalised directions, from -{options['reach']:g} to "
        f"{options['reach']:g}: {number(middle)} in the middle, up to {number(float(np.nanmax(loss)))}."
    )

    def draw(ax: Axes) -> None:
        plot_surface_heat(record, ax=ax, log=True, levels=6)
        ax.set_xlabel("step along random direction 1 (filter norms)")
        ax.set_ylabel("step along random direction 2")

    cells = Table.of("surface", f"Every cell, with standard errors over {subject.data.nouns}", record.to_pandas())
    roughness_table = Table.of(
        "surface_roughness", "Roughness of the logarithm of the loss", pd.DataFrame([vars(rough)])
    )
    drawn = picture(draw, alt, surface_marks(cells), size=(4.4, 3.4))
    flat = Part("The model", reading[:2], drawn, (cells,))
    relief = Part(
        "In three dimensions", reading[2:], tables=(roughness_table,),
        surface=relief_data(cells, cell_text, x="x", y="y", value="loss"),
    )  # fmt: skip
    return (flat, relief), rough


def _as_metric(loss: ExampleLoss) -> Loss:
    """A metric of the library by itself: it knows which positions count."""
    return loss.metric if isinstance(loss.metric, ExampleMetric) else loss


def _lowest(record: Surface) -> str:
    loss = np.where(np.isfinite(record.values["loss"]), record.values["loss"], np.inf)
    row, column = np.unravel_index(int(loss.argmin()), loss.shape)
    if record.y is None or (record.x[column] == 0 and record.y[row] == 0):
        return ", lowest at the trained weights"
    return f", lowest at ({number(float(record.x[column]))}, {number(float(record.y[row]))})"


def _usable(record: Surface) -> str:
    if "error" not in record.values:
        return ""
    error = record.values["error"]
    row, column = (size // 2 for size in error.shape)
    good = float((error <= error[row, column] + 0.05).mean())
    return f" At {percent(good)} of the points the error is within 5 percentage points of the model's own."


def _warnings(subject: Subject, examples: int, rough: Roughness) -> tuple[str, ...]:
    warnings = [f"{ONE_PLANE} To compare models, use several planes (roughness_study)."]
    if rough.left_out:
        warnings.append(
            f"{counted(rough.left_out, 'inner point')} without finite neighbours are excluded from the roughness."
        )
    if examples < 200:
        warnings.append(f"The loss is computed on only {subject.counted(examples)}.")
    return tuple(warnings)


_COPY = 2e-9  # seconds to move one weight along two directions
_COPIES = 6  # of the weights: two directions, the moved ones, the folded ones, and what becomes of them


def effort(subject: Subject, options: Options) -> Effort:
    """A pass over the examples per cell, and a new set of weights."""
    if subject.loss is None:
        return Effort()
    cells, weights = options["steps"] ** 2, count_parameters(subject.model)
    count = subject.count(options["images"])
    held = 0.0 if subject.has_pictures else min(HELD_BYTES, count * subject.footprint.output)
    once = passes(cells, count, subject.at_once)
    return once + Effort(seconds=1.0 + cells * weights * _COPY, bytes=_COPIES * 4 * weights + held)


STAGE = Stage(
    name="surface",
    title="Loss surface",
    question="How does the loss change around the trained weights, and is it convex there?",
    run=run,
    quick={"images": 100, "steps": 13, "reach": 1.0},
    full={"images": 500, "steps": 31, "reach": 1.0},
    weight=6,
    least={"images": 4, "steps": 5},
    effort=effort,
)
