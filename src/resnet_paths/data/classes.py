"""One numbering of classes for several sets of images.

Folders number their classes alphabetically, each on its own. If one set lacks a class, the same number means different
classes in two sets, and accuracies become wrong without any error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .images import ImageData


def renamed(data: ImageData, classes: Sequence[str]) -> ImageData:
    """Images with their classes as in a list: by name, or by number where numbers are all the names that they have.

    Raises:
        ValueError: a class that is not in the list.
    """
    names = tuple(classes)
    if _only_numbers(data) and not set(data.classes) <= set(names) and int(data.labels.max()) < len(names):
        return replace(data, classes=names)
    return data.numbered(names)


def numbered_alike(data: ImageData, *others: ImageData | None) -> list[ImageData]:
    """These images, and others with their classes numbered in the same way; None stands for the first.

    Classes have the numbers of the first images. Where classes are mere numbers, they are what they are.

    Raises:
        ValueError: others have a class that the first have not.
    """
    given = [data, *(data if other is None else other for other in others)]
    if not all(one.labelled for one in given):
        return _with_the_labelled(given)
    if all(_only_numbers(one) for one in given):
        names = max((one.classes for one in given), key=len)
        return [one if one.classes == names else replace(one, classes=names) for one in given]
    return [data, *(renamed(one, data.classes) for one in given[1:])]


def _with_the_labelled(given: list[ImageData]) -> list[ImageData]:
    """Those that have labels numbered alike; the others take their classes."""
    alike = iter(numbered_alike(*labelled) if (labelled := [one for one in given if one.labelled]) else [])
    numbered = [next(alike) if one.labelled else one for one in given]
    classes = next((one.classes for one in numbered if one.labelled), None)
    return [one if classes is None or one.labelled else replace(one, classes=classes) for one in numbered]


def _only_numbers(data: ImageData) -> bool:
    return data.classes == tuple(map(str, range(len(data.classes))))
