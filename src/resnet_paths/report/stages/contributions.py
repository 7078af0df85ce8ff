"""What each block adds to the prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ...paths import LogitLens, block_contributions, logit_lens
from ...plot import plot_logit_lens, plot_mean_contributions
from ..effort import Effort, passes
from ..joining import joined
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, number, percent


def run(subject: Subject, options: Options) -> Section:
    """Direct contributions to the true class's logit, and the logit lens."""
    x, labels = subject.batch(options["images"])
    at_once = subject.together(_bytes(subject))
    parts = list(zip(x.split(at_once), labels.split(at_once), strict=True))
    record = joined([block_contributions(subject.fast, *part) for part in parts], ("of_target",), worst=("residual",))
    of_target = record.of_target
    if of_target is None:
        raise RuntimeError("expected contributions to the targets")
    values = of_target.double().cpu().numpy()
    frame = pd.DataFrame(
        {
            "source": record.sources,
            "mean": values.mean(1),
            "standard_error": values.std(1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else np.nan,
        }
    )
    blocks = frame.iloc[3:]
    total = float(frame["mean"].sum())
    order = blocks.sort_values("mean", ascending=False, kind="stable")
    top, against = order["source"].tolist(), blocks[blocks["mean"] < 0]
    found = (
        f"The true class's logit is {number(total)} on average. {top[0]} adds most to it directly "
        f"({number(float(order['mean'].iloc[0]))})."
    )
    reading = (
        found,
        f"Stem and biases contribute {number(float(frame['mean'].iloc[:2].sum()))}, the blocks together "
        f"{number(float(blocks['mean'].sum()))}; the remainder, not explained by the linear decomposition, is "
        f"{number(float(frame['mean'].iloc[2]))}. "
        + (
            f"On average {counted(len(against), 'block')} lower{'s' if len(against) == 1 else ''} that logit: "
            f"{listed(against['source'].tolist())}."
            if len(against)
            else "On average no block lowers that logit."
        ),
        "A direct contribution is the block's output, carried to the head by shortcuts alone. A block that only "
        "prepares the input of later blocks adds nothing directly; the sections on deletion show its importance. The "
        f"parts sum to the logits (relative difference {record.residual:.1e}).",
    )
    alt = (
        f"Mean direct contribution of stem, constants and {len(blocks)} blocks to the true class's logit: largest "
        f"{top[0]} ({number(float(order['mean'].iloc[0]))}), smallest {top[-1]} "
        f"({number(float(order['mean'].iloc[-1]))})."
    )
    table = Table.of("contributions", f"Logits of the true class, {counted(len(x), 'image')}", frame)
    tips = marks(
        table,
        lambda row: f"{row['source']}: {number(row['mean'])}{_error(row['standard_error'])}",
        y="mean",
    )
    drawn = picture(lambda ax: plot_mean_contributions(record, ax), alt, tips)
    part = Part("Direct contributions", reading, drawn, (table,))
    lens = _lens(_logit_lens(subject, x.split(at_once)), labels.cpu())
    return Section((part, lens), (found,), _warnings(record.residual, record.curved))


def _error(value: float) -> str:
    """The standard error in brackets; a single image has none."""
    return f" (standard error {number(value)})" if math.isfinite(value) else ""


def _logit_lens(subject: Subject, parts: Sequence[torch.Tensor]) -> LogitLens:
    records = [logit_lens(subject.fast, part) for part in parts]
    return replace(records[0], logits=torch.cat([record.logits for record in records], 1))


def _lens(record: LogitLens, target: torch.Tensor) -> Part:
    probability = record.probabilities.double().cpu()[:, torch.arange(len(target), device="cpu"), target].numpy()
    accuracy = record.accuracy(target.to(record.logits.device)).cpu().numpy()
    frame = pd.DataFrame({"after": record.blocks, "probability": probability.mean(1), "accuracy": accuracy})
    enough = np.flatnonzero(accuracy >= 0.9 * accuracy[-1])
    first = int(enough[0])
    reading = (
        f"After {record.blocks[first]} ({first} of {len(record.blocks) - 1} blocks) the prediction first reaches "
        f"{percent(0.9)} of the final accuracy, which is {percent(float(accuracy[-1]))} on these "
        f"{counted(len(target), 'image')}.",
        "What would the model predict without all later branches? The value after each block goes to the model's own "
        "head through the shortcuts alone. Each thin line is one image.",
    )
    alt = (
        f"Probability of the true class and accuracy, read from the stream after each block: accuracy "
        f"{percent(float(accuracy[0]))} after the stem, {percent(float(accuracy[-1]))} at the end."
    )
    table = Table.of("logit_lens", "After each block", frame)
    tips = marks(
        table,
        lambda row: (
            f"after {row['after']}: probability {percent(row['probability'])}, accuracy {percent(row['accuracy'])}"
        ),
        y="probability",
    )
    drawn = picture(lambda ax: plot_logit_lens(record, target, ax), alt, tips)
    return Part("Logit lens", reading, drawn, (table,))


def _warnings(residual: float, curved: object) -> tuple[str, ...]:
    found = []
    if not residual < 1e-3:
        found.append(f"The contributions differ from the logits by {percent(residual)} of the largest logit.")
    if curved:
        found.append(
            "Shortcuts or joins of this model are not piecewise linear. Contributions are linearised, and the rest "
            "is listed as remainder."
        )
    return tuple(found)


def _bytes(subject: Subject) -> float:
    """Per image: the values of all blocks, and a row for each source."""
    return 4 * subject.footprint.entries + 2 * (len(subject.net) + 3) * subject.footprint.entry


def effort(subject: Subject, options: Options) -> Effort:
    """Two passes, and products of shortcuts and joins, which are cheap but n²/2 in number."""
    n, images = len(subject.net), subject.count(options["images"])
    return passes(2 + n / 4, images, subject.together(_bytes(subject))) + Effort(seconds=1.5, bytes=_bytes(subject))


STAGE = Stage(
    name="contributions",
    title="Contributions to the prediction",
    question="What does each block add to the true class's logit, and after which block is the prediction final?",
    run=run,
    quick={"images": 48},
    full={"images": 256},
    weight=2,
    least={"images": 3},
    effort=effort,
)
