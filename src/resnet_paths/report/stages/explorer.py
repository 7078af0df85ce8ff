"""The explorer: what the network predicts with any set of blocks deleted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from ...lesion import Exploration
from ...lesion.game import MOST_EXHAUSTIVE
from ...nouns import counted
from ..effort import Effort, passes
from ..explorer import explorer_data
from ..in_page import MOST_TEXT, PASSES, letters_of_weights
from ..section import Part, Section, Table
from ..stage import NotApplicableError, Options, Stage
from ..subject import Subject
from ..words import number, percent, points

_LEAST_IMAGES = 50  # on which all sets are measured rather than some sets on more images
_FEW = 6  # with so few blocks, there would be as many random sets


def run(subject: Subject, options: Options) -> Section:
    """Measure all sets of blocks, or many of them and estimate the others."""
    if not subject.has_pictures:
        raise NotApplicableError("the explorer shows right and wrong answers to images with one class each")
    droppable = sum(block.droppable for block in subject.net)
    if not droppable:
        raise NotApplicableError("none of the blocks can be dropped")
    plan = affordable(droppable, min(options["images"], len(subject.data)), options)
    record = subject.exploration(**plan)
    data = explorer_data(
        subject.net,
        subject.pictures(plan["images"]),
        record,
        model_code=subject.expressions.model,
        seconds=options["seconds"],
        batch=options["batch"],
    )
    table = Table.of("explorer", "Best measured set for each number of blocks", best_sets(record))
    reading = _reading(record, json.loads(data)["network"])
    part = Part("Take the network apart", reading, tables=(table,), explorer=data)
    return Section((part,), warnings=_warnings(record))


def affordable(n: int, images: int, options: Options) -> dict[str, Any]:
    """Which sets to measure, and on how many images, within the allowed work.

    Args:
        n: number of blocks that can be dropped.
        images: maximum number of images.
        options: of the stage; `passes` is the allowed number of passes of single images.

    Returns:
        The options of :meth:`Subject.exploration`.

    Example:
        >>> affordable(9, 300, STAGE.quick)
        {'images': 300, 'exhaustive': True}
        >>> affordable(16, 150, STAGE.quick)
        {'images': 61, 'exhaustive': True}
        >>> affordable(16, 150, STAGE.options(0.5))
        {'images': 150, 'exhaustive': False, 'draws': 49, 'held_out': 18, 'max_searched': 80}
    """
    least = min(images, _LEAST_IMAGES)
    if n <= MOST_EXHAUSTIVE:
        possible = min(images, int(options["passes"] / _passes_of_all(n)), 2**22 // 2**n)
        if possible >= least or n <= _FEW:
            return {"images": max(possible, least), "exhaustive": True}
    return {
        "images": images,
        "exhaustive": False,
        "draws": options["draws"],
        "held_out": options["held_out"],
        "max_searched": options["max_searched"],
    }


def _passes_of_all(n: int) -> float:
    """The passes that all sets take, since they share their first blocks."""
    return 2.0 ** (n + 1) / n


def best_sets(record: Exploration) -> pd.DataFrame:
    """One row per number of deleted blocks: the measured set with the fewest errors."""
    rows = []
    for deleted in np.unique((~record.kept).sum(1)).tolist():
        dropped = record.best(deleted)
        answer = record.answer(dropped)
        low, high = answer.interval
        row = {"deleted": deleted, "accuracy": answer.accuracy, "accuracy_low": low, "accuracy_high": high}
        rows.append(row | {"loss": answer.loss, "dropped": " ".join(map(str, dropped))})
    return pd.DataFrame(rows)


def _reading(record: Exploration, network: dict[str, Any] | None) -> tuple[str, ...]:
    n, images, estimate = len(record.names), counted(len(record.labels), "image"), record.estimate
    if estimate is None:
        return (
            f"All {2**n:,} sets were measured, on {images}. A set that is chosen because it is the best on these "
            "images is somewhat worse on others.",
        )
    mean, most = (points(error).lstrip("+") for error in (estimate.mean_error, estimate.error_of()))
    measured = f"{len(record.kept):,} of the {number(2**n)} sets of blocks were measured, on {images}."
    checked = f"On {len(estimate.held_out)} held-out random sets, the estimated accuracy is off by {mean} on average"
    if network is not None:
        shared = network["agreement"]
        return (
            f"{measured} The page computes any other set when you select it, with weights rounded to float16: on "
            f"{shared['sets']} measured sets, {shared['alike']:,} of {shared['answers']:,} answers are right or wrong "
            f"as without rounding. Until the answer is there, the page shows an estimate. {checked}.",
        )
    return (
        f"{measured} The others are estimated, and are marked as such. {checked} and by at most {most} for 95 % of "
        f"them; {percent(estimate.images_alike)} of the individual images are predicted correctly as right or wrong. "
        "Measure an estimated set before you rely on it.",
    )


def _warnings(record: Exploration) -> tuple[str, ...]:
    images = len(record.labels)
    return (f"The explorer measured only {counted(images, 'image')}.",) if images < 100 else ()


_CALLS = 25  # of a piece that is timed, however long it takes


def effort(subject: Subject, options: Options) -> Effort:
    """Half a pass for every set, and the time of every piece of the network."""
    n, images = sum(block.droppable for block in subject.net), min(options["images"], len(subject.data))
    if not n or not subject.has_pictures:
        return Effort()
    plan = affordable(n, images, options)
    pairs = n * (n - 1) / 2
    sets = n + plan.get("draws", 0) + plan.get("held_out", 0) + plan.get("max_searched", 0)
    sets += pairs if pairs <= plan.get("max_searched", 0) else 0
    compared = PASSES if letters_of_weights(subject.net) <= MOST_TEXT else 0
    times = _passes_of_all(n) if plan["exhaustive"] else sets / 2 + compared
    batch = min(options["batch"], images)
    timed = passes(2 * _CALLS, batch, batch) + Effort(seconds=3 * len(subject.net) * options["seconds"])
    return passes(times, plan["images"], subject.at_once) + timed + Effort(seconds=1.0)


STAGE = Stage(
    name="explorer",
    title="Take the network apart",
    question="What does the network predict without some of its blocks? A box is the branch of a block, and the "
    "line below it the shortcut. Switch blocks off: marks above the other blocks show what switching each of them "
    "off next would cost.",
    run=run,
    quick={
        "images": 120,
        "draws": 150,
        "held_out": 40,
        "max_searched": 400,
        "passes": 5e5,
        "seconds": 0.01,
        "batch": 32,
    },
    full={"images": 500, "draws": 800, "held_out": 200, "max_searched": 2000, "passes": 5e6, "seconds": 0.05},
    weight=12,
    least={"images": 8, "draws": 16, "held_out": 8, "max_searched": 16, "passes": 1.5e3, "batch": 1},
    effort=effort,
)
