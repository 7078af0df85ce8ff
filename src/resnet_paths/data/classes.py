"""One class numbering for several sets of images.

Folders number their classes alphabetically, each set separately. If one set lacks a class, the same number means
different classes in the two sets, and accuracies are wrong without any error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .images import ImageData


def renamed(data: ImageData, classes: Sequence[str]) -> ImageData:
    """Images with their classes numbered as in a list: matched by name, or by number if they have no names.

    Raises:
        ValueError: a class is not in the list.
    """
    names = tuple(classes)
    if _only_numbers(data) and not set(data.classes) <= set(names) and int(data.labels.max()) < len(names):
        return replace(data, classes=names)
    return data.numbered(names)


def numbered_alike(data: ImageData, *others: ImageData | None) -> list[ImageData]:
    """These images, and others renumbered to match them; None stands for the first images.

    Classes take the numbers that they have in the first images. Classes without names keep their numbers.

    Raises:
        ValueError: other images have a class that the first lack.
    """
    data_sets = [data, *(data if other is None else other for other in others)]
    if not all(data_set.labelled for data_set in data_sets):
        return _with_the_labelled(data_sets)
    if all(_only_numbers(data_set) for data_set in data_sets):
        names = max((data_set.classes for data_set in data_sets), key=len)
        return [data_set if data_set.classes == names else replace(data_set, classes=names) for data_set in data_sets]
    return [data, *(renamed(data_set, data.classes) for data_set in data_sets[1:])]


def _with_the_labelled(given: list[ImageData]) -> list[ImageData]:
    """Number the labelled images alike; unlabelled ones take their class names."""
    renumbered = iter(
        numbered_alike(*labelled) if (labelled := [data_set for data_set in given if data_set.labelled]) else []
    )
    numbered = [next(renumbered) if data_set.labelled else data_set for data_set in given]
    classes = next((data_set.classes for data_set in numbered if data_set.labelled), None)
    return [
        data_set if classes is None or data_set.labelled else replace(data_set, classes=classes)
        for data_set in numbered
    ]


def _only_numbers(data: ImageData) -> bool:
    return data.classes == tuple(map(str, range(len(data.classes))))
