"""What each block adds to the prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from ...data.metrics import metric_named
from ...lesion.evaluate import evaluate_gates
from ...nouns import counted
from ...paths import LogitLens, block_contributions, logit_lens
from ...plot import plot_logit_lens, plot_mean_contributions
from ..effort import Effort, passes
from ..explained import Explained
from ..joining import joined
from ..pictures import marks, picture
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import block_name, listed, number, percent


def run(subject: Subject, options: Options) -> Section:
    """Direct contributions to the true class's logit, or to its counterpart for other outputs, and the logit lens."""
    count = subject.count(options["images"])
    goal = Explained.of(subject)
    parts = list(subject.batches(count, subject.together(_bytes(subject))))
    records = []
    for x, targets, mask in parts:
        one = block_contributions(subject.fast, x, targets if subject.has_classes else None)
        records.append(one if subject.has_classes else goal.summed(one, targets, mask))
    record = joined(records, ("of_target",), worst=("residual",))
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
    top, against = [block_name(name) for name in order["source"]], blocks[blocks["mean"] < 0]
    finding = (
        f"{goal.title} is {number(total)} on average. {block_name(order['source'].iloc[0], begins=True)} adds most to "
        f"it directly ({number(float(order['mean'].iloc[0]))})."
    )
    reading = (
        finding,
        f"Stem and biases contribute {number(float(frame['mean'].iloc[:2].sum()))}, the blocks together "
        f"{number(float(blocks['mean'].sum()))}; the remainder, not explained by the linear decomposition, is "
        f"{number(float(frame['mean'].iloc[2]))}. "
        + (
            f"On average {counted(len(against), 'block')} lower{'s' if len(against) == 1 else ''} {goal.it}: "
            f"{listed([block_name(name) for name in against['source']])}."
            if len(against)
            else f"On average no block lowers {goal.it}."
        ),
        "A direct contribution is the block's output, carried to the head by shortcuts alone. A block that only "
        "prepares the input of later blocks adds nothing directly; the sections on deletion show its importance. The "
        f"parts sum to the {goal.outputs} (relative difference {record.residual:.1e}).",
    )
    alt = (
        f"Mean direct contribution of stem, constants and {counted(len(blocks), 'block')} to {goal.words}: largest "
        f"{top[0]} ({number(float(order['mean'].iloc[0]))}), smallest {top[-1]} "
        f"({number(float(order['mean'].iloc[-1]))})."
    )
    table = Table.of("contributions", f"{goal.table}, {subject.counted(count)}", frame)
    tips = marks(
        table,
        lambda row: f"{row['source']}: {number(row['mean'])}{_error(row['standard_error'])}",
        y="mean",
    )

    def draw(ax: Axes) -> None:
        plot_mean_contributions(record, ax)
        if not goal.are_logits:
            ax.set_ylabel("direct contribution")

    part = Part("Direct contributions", reading, picture(draw, alt, tips), (table,))
    if subject.has_classes:
        targets = torch.cat([labels for _, labels, _ in parts])
        lens = _lens(_logit_lens(subject, [x for x, _, _ in parts]), targets.cpu(), subject)
    else:
        lens = _metric_lens(subject, count)
    return Section((part, lens), (finding,), _warnings(record.residual, bool(record.curved), goal.outputs))


def _error(value: float) -> str:
    """The standard error in brackets; a single example has none."""
    return f" (standard error {number(value)})" if math.isfinite(value) else ""


def _logit_lens(subject: Subject, parts: Sequence[torch.Tensor]) -> LogitLens:
    records = [logit_lens(subject.fast, part) for part in parts]
    return replace(records[0], logits=torch.cat([record.logits for record in records], 1))


def _metric_lens(subject: Subject, count: int) -> Part:
    """The metric of the network without all later branches."""
    net, measure = subject.fast, subject.measure
    stairs = torch.ones(len(net) + 1, len(net), device="cpu").tril(-1)
    metric = metric_named(subject.metric)[1]
    values = evaluate_gates(net, subject.images(count), stairs, metric, **subject.study).mean(1)
    names = ["the stem", *(block_name(block.name) for block in net)]
    frame = pd.DataFrame({"after": ["stem", *(block.name for block in net)], measure.name: values})
    span = values[0] - values[-1]
    close = np.flatnonzero(values <= values[-1] + 0.1 * max(span, 0.0))
    reached = (
        f"After {names[close[0]]} ({close[0]} of {counted(len(net), 'block')}) the {measure.words} has first come "
        f"nine tenths of the way from {measure.value(values[0])} after the stem to {measure.value(values[-1])} at the "
        "end."
        if span > 0
        else f"The {measure.words} is {measure.value(values[0])} after the stem already, and "
        f"{measure.value(values[-1])} at the end."
    )
    reading = (
        reached,
        "What would the model predict without all later branches? The value after each block goes to the model's own "
        "head through the shortcuts alone.",
    )
    return Part(
        "Read after each block", reading, tables=(Table.of("lens", f"{measure.title} after each block", frame),)
    )


def _lens(record: LogitLens, target: torch.Tensor, subject: Subject) -> Part:
    every = record.logits.double().softmax(-1).cpu()
    probability = every[:, torch.arange(len(target), device="cpu"), target].numpy()
    accuracy = record.accuracy(target.to(record.logits.device)).cpu().numpy()
    frame = pd.DataFrame({"after": record.blocks, "probability": probability.mean(1), "accuracy": accuracy})
    enough = np.flatnonzero(accuracy >= 0.9 * accuracy[-1])
    first = int(enough[0])
    reading = (
        f"After {record.blocks[first]} ({first} of {len(record.blocks) - 1} blocks) the prediction first reaches "
        f"{percent(0.9)} of the final accuracy, which is {percent(float(accuracy[-1]))} on these "
        f"{subject.counted(len(target))}.",
        "What would the model predict without all later branches? The value after each block goes to the model's own "
        f"head through the shortcuts alone. Each thin line is one {subject.noun}.",
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


def _warnings(residual: float, curved: bool, outputs: str) -> tuple[str, ...]:
    warnings = []
    if not residual < 1e-3:
        warnings.append(f"The contributions differ from the {outputs} by {percent(residual)} of the largest.")
    if curved:
        warnings.append(
            "Shortcuts or joins of this model are not piecewise linear. Contributions are linearised, and the rest "
            "is listed as remainder."
        )
    return tuple(warnings)


def _bytes(subject: Subject) -> float:
    """Per image: the values of all blocks, and a row for each source, also of the output."""
    rows, footprint = len(subject.net) + 3, subject.footprint
    return 4 * footprint.entries + 2 * rows * (footprint.entry + footprint.output)


def effort(subject: Subject, options: Options) -> Effort:
    """Two passes, and products of shortcuts and joins, which are cheap but n²/2 in number."""
    n, images = len(subject.net), subject.count(options["images"])
    return passes(
        2 + n / 4 + (0 if subject.has_classes else n / 2), images, subject.together(_bytes(subject))
    ) + Effort(seconds=1.5, bytes=_bytes(subject))


def _worded(subject: Subject) -> tuple[str, str]:
    if subject.has_classes:
        return STAGE.title, STAGE.question
    return STAGE.title, (
        f"What does each block add to {Explained.of(subject).words.removesuffix(',')}, and after which block is the "
        "prediction final?"
    )


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
    worded=_worded,
)
