"""What was examined, and reasons for caution."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from ...data import ImageData, right
from ...graph.inputs import placed
from ...graph.preserve import preserved
from ...statistics import interval, share_interval
from ...tradeoff import count_parameters
from ..effort import Effort, passes
from ..section import Part, Section, Table
from ..stage import Options, Stage
from ..subject import Subject
from ..words import counted, listed, percent, points


def run(subject: Subject, options: Options) -> Section:
    """Accuracy, classes and their counts; overlap of the images, repeatability of the model."""
    data = subject.images(options["images"])
    right = _right(subject, data)
    low, high = interval(right)
    classes = _by_class(data, right)
    warnings = [
        *_sample(right),
        *_classes(classes),
        *_accuracy(subject, right),
        *_overlap(subject),
        *_repeats(subject, options["repeat_images"]),
    ]
    accuracy = float(right.mean())
    parameters = count_parameters(subject.model)
    found = (
        f"{type(subject.model).__name__} with {counted(parameters, 'parameter')} classifies {percent(accuracy)} of "
        f"{counted(len(data), 'image')} of {data.name} correctly (95 % interval {percent(low)} to {percent(high)})."
    )
    worst = classes.sort_values("accuracy", kind="stable").iloc[0]
    reading = (
        found,
        f"Guessing the most frequent class would reach {percent(1 - subject.chance)}. The class with the lowest "
        f"accuracy is {worst['class']}: {percent(float(worst['accuracy']))} of its "
        f"{counted(int(worst['images']), 'image')}.",
        _what_can_be_told(accuracy, len(data)),
    )
    table = Table.of("classes", "Accuracy by class", classes)
    return Section((Part("What was examined", reading, tables=(table,)),), (found,), tuple(warnings))


def _right(subject: Subject, data: ImageData) -> np.ndarray:
    found = []
    with torch.inference_mode():
        for x, labels in data.batches(subject.at_once):
            logits = subject.net(placed(x, subject.model)).cpu()
            found.append(right(logits, labels.cpu()).double())
    return torch.cat(found).numpy()


def _by_class(data: ImageData, right: np.ndarray) -> pd.DataFrame:
    labels = data.labels.cpu().numpy()
    rows = []
    for index, name in enumerate(data.classes):
        own = right[labels == index]
        low, high = interval(own) if len(own) else (math.nan, math.nan)
        accuracy = float(own.mean()) if len(own) else math.nan
        rows.append({"class": name, "images": len(own), "accuracy": accuracy, "low": low, "high": high})
    return pd.DataFrame(rows)


def _what_can_be_told(accuracy: float, count: int) -> str:
    low, high = share_interval(accuracy, count)
    spread = (high - low) / 2
    return (
        f"With {counted(count, 'image')} the accuracy is known to about {points(spread).lstrip('+')} either way. "
        "Smaller effects only show in paired comparisons on the same images, as in the sections below, or with more "
        "images."
    )


def _sample(right: np.ndarray) -> list[str]:
    low, high = interval(right)
    if len(right) >= 1000 and high - low <= 0.03:
        return []
    return [
        f"Small sample: {counted(len(right), 'image')}. The 95 % interval of the accuracy is "
        f"{points(high - low).lstrip('+')} wide."
    ]


def _classes(classes: pd.DataFrame) -> list[str]:
    missing = classes.loc[classes["images"] == 0, "class"].astype(str).tolist()
    return [f"No images of {counted(len(missing), 'class', 'classes')}: {listed(missing)}."] if missing else []


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
    """Images that were used for training or for choosing blocks are not test images."""
    found = []
    own = list(subject.data.digests())
    inside = len(own) - len(set(own))
    if inside:
        found.append(f"{counted(inside, 'image')} of {subject.data.name} occur more than once.")
    if subject.training is None:
        found.append(
            "No training images were given. Blocks to drop are chosen on one half of the images and reported on the "
            "other. Whether the model was trained on these images cannot be checked."
        )
        return found
    known = set(subject.training.digests())
    shared = sum(digest in known for digest in own)
    if shared:
        found.append(
            f"{counted(shared, 'test image')} of {len(subject.data)} ({percent(shared / len(subject.data))}) are "
            "also among the training images: accuracies are too high, damages too low."
        )
    return found


def _repeats(subject: Subject, count: int) -> list[str]:
    """Compare two runs on the same images, and runs one image at a time."""
    x, _ = subject.batch(count)
    with preserved(subject.model), torch.no_grad():
        first, again = subject.net(x), subject.net(x)
        alone = torch.cat([subject.net(x[place : place + 1]) for place in range(len(x))])
    scale = float(first.abs().max()) or 1.0
    found = []
    if float((first - again).abs().max()) > 1e-6 * scale:
        found.append(
            "Non-deterministic: the same images give different logits when run twice (by up to "
            f"{float((first - again).abs().max()):.2g}). Differences between deletions include this noise."
        )
    gap = float((first - alone).abs().max()) / scale
    if not gap <= 1e-3:
        found.append(
            f"An image's logits depend on the other images in its batch (by up to {percent(gap)} of the largest "
            "logit). Results therefore depend on the batch size and the order of the images."
        )
    return found


def effort(subject: Subject, options: Options) -> Effort:
    """One pass over the images, and a few of them twice and one by one."""
    few = subject.count(options["repeat_images"])
    once = passes(1, subject.count(options["images"]), subject.at_once)
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
