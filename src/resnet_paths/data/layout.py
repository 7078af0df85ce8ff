"""The class and the part of each image of a folder or a zip file, from file names alone.

From names alone, so that folders and zip files follow the same rules, and skipped files are reported without decoding
anything.
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
"""Suffixes of the files that are read, the same as in torchvision's ``ImageFolder``."""

_OTHER_PICTURES = {
    ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".dcm", ".tga", ".exr", ".hdr", ".psd", ".npy", ".nii",
}  # fmt: skip
_PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "val_set", "validation_set", "dev"),
    "test": ("test", "testing", "test_set"),
}
_HELD_OUT_SHARE = 0.2  # share of each class held out if there are no parts: an 80/20 split, as is usual


@dataclass
class Layout:
    """The images of a tree of folders.

    Attributes:
        parts: (class, file) of each image, by part: ``train``, ``val`` and ``test``, or ``""`` if there are no parts.
        folders: folder name of each part.
        left_out: skipped files, by reason.
    """

    parts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_parted(self) -> bool:
        """Whether the class folders are grouped into training and other images."""
        return "" not in self.parts

    def part(self, split: Split | None) -> str | None:
        """The part that serves as a split, with ``val`` in place of a missing ``test``; None if there is none."""
        if not self.is_parted:
            return ""
        candidates = {"train": ("train",), "val": ("val",)}.get(split or "test", ("test", "val"))
        return next((part for part in candidates if part in self.parts), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their numbers: those of the training images if there are any."""
        part = self.parts.get("train") or self.parts.get("") or [e for part in self.parts.values() for e in part]
        return tuple(sorted({label for label, _ in part}))


def part_of_name(name: str) -> str | None:
    """The part that a folder name stands for, or None.

    Example:
        >>> part_of_name("Validation"), part_of_name("dogs")
        ('val', None)
    """
    return next((part for part, names in _PARTS.items() if name.lower() in names), None)


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and neither hidden nor in the folder that macOS adds to zip files."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def layout_of(names: Iterable[str], packed: bool = False) -> Layout:
    """The layout of a tree with these files.

    It is ``<class>/<anything>/<name>.jpg``, as for ``ImageFolder``, or the same below folders for the parts. A folder
    that contains images directly is a class, whatever its name.

    Args:
        names: paths of the files from the root, with slashes.
        packed: do not take a single folder around everything for a class (zip programs often add one).

    Raises:
        ValueError: two folders stand for the same part.

    Example:
        >>> layout_of(["train/cat/1.png", "val/cat/2.png", "train/dog/site/3.jpg"]).parts["train"]
        [('cat', 'train/cat/1.png'), ('dog', 'train/dog/site/3.jpg')]
    """
    layout = Layout()
    images: list[tuple[str, ...]] = []
    for name in sorted(names):
        path = PurePosixPath(name)
        if is_image(name) and not path.is_absolute() and ".." not in path.parts:
            images.append(path.parts)
        elif path.suffix.lower() in _OTHER_PICTURES and not _is_hidden(name):
            layout.left_out[f"of other kinds ({path.suffix.lower()})"].append(name)
    depth = _wrapping_depth(images) if packed else 0

    files_by_top: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for parts in images:
        if len(parts) < depth + 2:
            layout.left_out["in no class's folder"].append("/".join(parts))
        else:
            files_by_top[parts[depth]].append(parts)
    part_folders = [
        top for top, files in files_by_top.items() if part_of_name(top) and all(len(f) >= depth + 3 for f in files)
    ]
    for top, files in files_by_top.items():
        part = part_of_name(top) or "" if top in part_folders else ""
        if part_folders and not part:
            layout.left_out[f"beside {part_folders[0]}"] += ["/".join(file) for file in files]
            continue
        if part and part in layout.folders:
            raise ValueError(f"expected one folder of {part} images, got {layout.folders[part]} and {top}; rename one")
        if part:
            layout.folders[part] = top
        class_depth = depth + bool(part)
        layout.parts.setdefault(part, []).extend((file[class_depth], "/".join(file)) for file in files)
    if not layout.parts:
        layout.parts[""] = []
    return layout


def _wrapping_depth(images: Sequence[tuple[str, ...]]) -> int:
    """The number of folders around everything, above the classes or the parts."""
    depth = 0
    while images and len({parts[depth] for parts in images}) == 1 and all(len(p) >= depth + 3 for p in images):
        if part_of_name(images[0][depth]) is not None:
            break
        depth += 1
    return depth


def held_out(labels: Sequence[str] | Sequence[int], seed: int = 0) -> list[bool]:
    """Which images to hold out: a random fifth of every class that has at least two images.

    Example:
        >>> sum(held_out(["cat"] * 10 + ["dog"] * 5)), held_out(["cat"])
        (3, [False])
    """
    members: dict[Any, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    is_held_out = [False] * len(labels)
    rng = random.Random(seed)
    for label in sorted(members, key=str):
        indices = members[label]
        count = max(1, round(_HELD_OUT_SHARE * len(indices))) if len(indices) > 1 else 0
        for index in rng.sample(indices, count):
            is_held_out[index] = True
    return is_held_out
