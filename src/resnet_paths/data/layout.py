"""Which images of a folder or a zip file are of which class, and of which part, from their names alone.

Names alone, so that a folder and a zip file are read by one rule, and a report of what is left out costs no decoding.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..choices import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The files that are read: those that torchvision's ``ImageFolder`` reads."""

_OTHER_PICTURES = {
    ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".dcm", ".tga", ".exr", ".hdr", ".psd", ".npy", ".nii",
}  # fmt: skip
_PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "val_set", "validation_set", "dev"),
    "test": ("test", "testing", "test_set"),
}
_APART = 0.2  # share of a class that is kept apart where nothing else says which images are


@dataclass
class Layout:
    """The images of a tree of folders.

    Attributes:
        parts: (class, file) of each image by part: ``train``, ``val`` and ``test``, or ``""`` where there are none.
        folders: the name of each part's own folder.
        left_out: files that are not read, by the reason.
    """

    parts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_parted(self) -> bool:
        """Whether there are folders for training and other images."""
        return "" not in self.parts

    def part(self, split: Split | None) -> str | None:
        """The part that serves as a split: ``val`` as test images where there are no others; None where none does."""
        if not self.is_parted:
            return ""
        wanted = {"train": ("train",), "val": ("val",)}.get(split or "test", ("test", "val"))
        return next((part for part in wanted if part in self.parts), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers: those of the training images where there are any."""
        part = self.parts.get("train") or self.parts.get("") or [e for part in self.parts.values() for e in part]
        return tuple(sorted({label for label, _ in part}))


def part_of_name(name: str) -> str | None:
    """The part that a folder of this name holds.

    Example:
        >>> part_of_name("Validation"), part_of_name("dogs")
        ('val', None)
    """
    return next((part for part, names in _PARTS.items() if name.lower() in names), None)


def is_image(name: str) -> bool:
    """By its suffix; neither hidden nor in the folder that macOS adds to zip files."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def layout_of(names: Iterable[str], packed: bool = False) -> Layout:
    """How a tree with these files is laid out.

    ``<class>/<anything>/<name>.jpg``, as ``ImageFolder`` reads it, or the same below folders for the parts. A folder
    with images of its own is a class, whatever its name.

    Args:
        names: of the files, with slashes, from the root.
        packed: one folder around everything (as of a folder that was packed whole) is no class.

    Raises:
        ValueError: two folders for one part.

    Example:
        >>> layout_of(["train/cat/1.png", "val/cat/2.png", "train/dog/site/3.jpg"]).parts["train"]
        [('cat', 'train/cat/1.png'), ('dog', 'train/dog/site/3.jpg')]
    """
    found = Layout()
    images: list[tuple[str, ...]] = []
    for name in sorted(names):
        path = PurePosixPath(name)
        if is_image(name) and not path.is_absolute() and ".." not in path.parts:
            images.append(path.parts)
        elif path.suffix.lower() in _OTHER_PICTURES and not _is_hidden(name):
            found.left_out[f"of other kinds ({path.suffix.lower()})"].append(name)
    depth = _wrapping(images) if packed else 0

    inside: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for parts in images:
        if len(parts) < depth + 2:
            found.left_out["in no class's folder"].append("/".join(parts))
        else:
            inside[parts[depth]].append(parts)
    holders = [top for top, files in inside.items() if part_of_name(top) and all(len(f) >= depth + 3 for f in files)]
    for top, files in inside.items():
        part = part_of_name(top) or "" if top in holders else ""
        if holders and not part:
            found.left_out[f"beside {holders[0]}"] += ["/".join(file) for file in files]
            continue
        if part and part in found.folders:
            raise ValueError(f"expected one folder of {part} images, got {found.folders[part]} and {top}; rename one")
        if part:
            found.folders[part] = top
        step = depth + bool(part)
        found.parts.setdefault(part, []).extend((file[step], "/".join(file)) for file in files)
    if not found.parts:
        found.parts[""] = []
    return found


def _wrapping(images: Sequence[tuple[str, ...]]) -> int:
    """How many folders are around everything, before the classes or the parts begin."""
    depth = 0
    while images and len({parts[depth] for parts in images}) == 1 and all(len(p) >= depth + 3 for p in images):
        if part_of_name(images[0][depth]) is not None:
            break
        depth += 1
    return depth


def held_out(labels: Sequence[str] | Sequence[int], seed: int = 0) -> list[bool]:
    """A fifth of each class, drawn at random, of every class with two images at least: what is kept apart.

    Example:
        >>> sum(held_out(["cat"] * 10 + ["dog"] * 5)), held_out(["cat"])
        (3, [False])
    """
    members: dict[Any, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        members[label].append(place)
    apart = [False] * len(labels)
    draw = random.Random(seed)
    for label in sorted(members, key=str):
        places = members[label]
        count = max(1, round(_APART * len(places))) if len(places) > 1 else 0
        for place in draw.sample(places, count):
            apart[place] = True
    return apart
