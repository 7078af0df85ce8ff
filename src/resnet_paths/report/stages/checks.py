"""What was examined, and reasons for caution."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from ...data import ImageData, InMemory, right
from ...data.metrics import metric_named
from ...graph.inputs import placed
from ...graph.preserve import preserved
from ...lesion.evaluate import deletion_gates, evaluate_gates
from ...nouns import counted
from ...statistics import interval, share_interval
from ...tradeoff import count_parameters
from ..effort import Effort, passes
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import listed, percent, points


def run(subject: Subject, options: Options) -> Section:
    """How good the model is on what; overlap of the examples, repeatability of the model."""
    data = subject.images(options["images"])
    part, warnings = _of_classes(subject, data) if subject.has_classes else _of_metric(subject, data)
    warnings += [*_overlap(subject), *_repeats(subject, options["repeat_images"])]
    return Section((part,), (part.reading[0],), tuple(warnings))


def _of_classes(subject: Subject, data: InMemory) -> tuple[Part, list[str]]:
    """Accuracy, classes and their counts."""
    right = _right(subject, data)
    low, high = interval(right)
    classes = _by_class(data, right)
    warnings = [*_sample(right, subject), *_classes(classes, subject.data.nouns), *_accuracy(subject, right)]
    accuracy = float(right.mean())
    finding = (
        f"{_model(subject)} classifies {percent(accuracy)} of {subject.counted(len(data))} of {data.name} correctly "
        f"(95 % interval {percent(low)} to {percent(high)})."
    )
    worst = classes.sort_values("accuracy", kind="stable").iloc[0]
    reading = (
        finding,
        f"Guessing the most frequent class would reach {percent(1 - subject.chance)}. The class with the lowest "
        f"accuracy is {worst['class']}: {percent(float(worst['accuracy']))} of its "
        f"{subject.counted(int(worst.iloc[1]))}.",
        _precision(accuracy, len(data), subject),
    )
    table = Table.of("classes", "Accuracy by class", classes)
    return Part("What was examined", reading, tables=(table,)), warnings


def _of_metric(subject: Subject, data: InMemory) -> tuple[Part, list[str]]:
    """The metric, with that of the best answer that does not look at the inputs."""
    measure, constant, value = subject.measure, subject.constant, subject.measure.value
    gates = deletion_gates([[]], len(subject.net))
    values = evaluate_gates(subject.net, data, gates, metric_named(subject.metric)[1], **subject.study)[0]
    mean, (low, high) = float(values.mean()), interval(values) if len(values) > 1 else (math.nan, math.nan)
    examples = subject.counted(len(data))
    finding = (
        f"The {measure.words} of {_model(subject)} is {value(mean)} on {examples} of {data.name} (95 % interval "
        f"{value(low)} to {value(high)})."
    )
    reading = [finding, f"{measure.meaning} Lower is better."]
    if constant is not None:
        reading.append(f"The best answer that is the same for all {data.nouns} would reach {value(constant)}.")
    reading.append(
        f"Intervals are over {data.nouns}. Small effects only show in paired comparisons on the same {data.nouns}, as "
        f"in the sections below, or with more {data.nouns}."
    )
    warnings = []
    if len(values) < 200:
        warnings.append(
            f"Small sample: {examples}. The 95 % interval of the {measure.words} is {measure.amount(high - low)} wide."
        )
    if constant is not None and not high < constant:
        warnings.append(
            f"The model is not reliably better than a constant answer ({measure.words} {value(mean)}; "
            f"{value(constant)} for the best answer that is the same for all {data.nouns}). Is it trained, and do "
            "--model and --data belong together? Deletions cannot be interpreted for such a model."
        )
    facts = {measure.name: mean, "low": low, "high": high, "examples": len(values), "constant_answer": constant}
    table = Table.of("whole", f"{measure.title} of the full network", pd.DataFrame([facts]))
    return Part("What was examined", tuple(reading), tables=(table,)), warnings


def _model(subject: Subject) -> str:
    return f"{type(subject.model).__name__} with {counted(count_parameters(subject.model), 'parameter')}"


def _right(subject: Subject, data: InMemory) -> np.ndarray:
    correct = []
    with torch.inference_mode():
        for start in range(0, len(data), subject.at_once):
            part = data.subset(slice(start, min(start + subject.at_once, len(data))))
            logits = subject.net(placed(part.x, subject.model)).cpu()
            correct.append(right(logits, _labels(part)).double())
    return torch.cat(correct).numpy()


def _labels(data: InMemory) -> torch.Tensor:
    if data.targets is None:
        raise ValueError(f"expected {data.nouns} of one class each, got some without")
    return data.targets.cpu()


def _by_class(data: InMemory, right: np.ndarray) -> pd.DataFrame:
    labels = _labels(data).numpy()
    classes = data.classes if isinstance(data, ImageData) else tuple(map(str, range(int(labels.max()) + 1)))
    count = "images" if isinstance(data, ImageData) else "examples"
    rows = []
    for index, name in enumerate(classes):
        own = right[labels == index]
        low, high = interval(own) if len(own) else (math.nan, math.nan)
        accuracy = float(own.mean()) if len(own) else math.nan
        rows.append({"class": name, count: len(own), "accuracy": accuracy, "low": low, "high": high})
    return pd.DataFrame(rows)


def _precision(accuracy: float, count: int, subject: Subject) -> str:
    low, high = share_interval(accuracy, count)
    spread, nouns = (high - low) / 2, subject.data.nouns
    return (
        f"With {subject.counted(count)} the accuracy is known to about {points(spread).lstrip('+')} either way. "
        f"Smaller effects only show in paired comparisons on the same {nouns}, as in the sections below, or with more "
        f"{nouns}."
    )


def _sample(right: np.ndarray, subject: Subject) -> list[str]:
    low, high = interval(right)
    if len(right) >= 1000 and high - low <= 0.03:
        return []
    return [
        f"Small sample: {subject.counted(len(right))}. The 95 % interval of the accuracy is "
        f"{points(high - low).lstrip('+')} wide."
    ]


def _classes(classes: pd.DataFrame, nouns: str) -> list[str]:
    missing = classes.loc[classes.iloc[:, 1] == 0, "class"].astype(str).tolist()
    return [f"No {nouns} of {counted(len(missing), 'class', 'classes')}: {listed(missing)}."] if missing else []


def _accuracy(subject: Subject, right: np.ndarray) -> list[str]:
    low, _ = interval(right)
    if low > 1 - subject.chance:
        return []
    return [
        f"The model is not reliably better than guessing ({percent(float(right.mean()))} right, "
        f"{percent(1 - subject.chance)} by guessing). Is it trained, and do --model and --data belong together? "
        "Deletions cannot be interpreted for such a model."
    ]


def _overlap(subject: Subject) -> list[str]:
    """Examples that were used for training or for choosing blocks are not test examples."""
    warnings, nouns = [], subject.data.nouns
    own = list(subject.data.digests())
    inside = len(own) - len(set(own))
    if inside:
        warnings.append(f"{subject.counted(inside)} of {subject.data.name} occur more than once.")
    if subject.training is None:
        warnings.append(
            f"No training {nouns} were given. Blocks to drop are chosen on one half of the {nouns} and reported on the "
            f"other. Whether the model was trained on these {nouns} cannot be checked."
        )
        return warnings
    known = set(subject.training.digests())
    shared = sum(digest in known for digest in own)
    if shared:
        effect = "accuracies are too high, damages too low" if subject.has_classes else "damages may be too low"
        warnings.append(
            f"{counted(shared, f'test {subject.noun}')} of {len(subject.data)} ({percent(shared / len(subject.data))}) "
            f"are also among the training {nouns}: {effect}."
        )
    return warnings


def _repeats(subject: Subject, count: int) -> list[str]:
    """Compare two runs on the same examples, and runs one example at a time."""
    some, noun, nouns = subject.images(count), subject.noun, subject.data.nouns
    x = placed(some.x, subject.model)
    output = "logits" if subject.has_classes else "outputs"
    with preserved(subject.model), torch.no_grad():
        first, again = subject.net(x), subject.net(x)
        each = [some.subset(slice(place, place + 1)).x for place in range(len(some))]
        alone = torch.cat([subject.net(placed(one, subject.model)) for one in each])
    scale = float(first.abs().max()) or 1.0
    warnings = []
    if float((first - again).abs().max()) > 1e-6 * scale:
        warnings.append(
            f"Non-deterministic: the same {nouns} give different {output} when run twice (by up to "
            f"{float((first - again).abs().max()):.2g}). Differences between deletions include this noise."
        )
    gap = float((first - alone).abs().max()) / scale
    if not gap <= 1e-3:
        article = "An" if noun[0] in "aeiou" else "A"
        warnings.append(
            f"{article} {noun}'s {output} depend on the other {nouns} in its batch (by up to {percent(gap)} of the "
            f"largest {output.removesuffix('s')}). Results therefore depend on the batch size and the order of the "
            f"{nouns}."
        )
    return warnings


def effort(subject: Subject, options: Options) -> Effort:
    """One pass over the images (two for a metric that may compare with it), and a few of them twice and one by one."""
    few = subject.count(options["repeat_images"])
    once = passes(1 if subject.has_classes else 2, subject.count(options["images"]), subject.at_once)
    return once + passes(2, few, few) + passes(few, 1, 1) + Effort(seconds=0.2)


STAGE = Stage(
    name="checks",
    title="Model and data",
    question="What is examined here, and how reliable are the numbers below?",
    run=run,
    quick={"images": 10_000, "repeat_images": 8},
    full={"images": None, "repeat_images": 32},
    weight=4,
    least={"images": 20, "repeat_images": 2},
    effort=effort,
)
