"""Images of npz files.

The form in which people share small data sets. It has no standard layout, so arrays are recognised by their names and
shapes. An npz is a zip file: a small one may inflate beyond memory, so sizes are checked before anything is read, and
arrays of objects, which would run code, are refused.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..arguments import checked
from ..choices import Split
from ._files import check_inflated, drawn_part, spread
from ._normalisation import CIFAR10_CLASSES, existing, normalisation
from ._pictures import Damaged
from .arrays import image_tensor, label_tensor
from .classes import renamed
from .images import ImageData

_MOST_RATIO, _FREE = (
    200,
    1 << 30,
)  # largest inflation ratio of arrays above 1 GiB; blank images compress far more, but are small
_UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, RuntimeError, NotImplementedError)


@checked
def npz(
    path: str | Path,
    split: Split | None = None,
    *,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> ImageData:
    """Arrays ``test_images`` and ``test_labels`` (or ``train_``, ``val_``, or ``images``, ``labels``) of an npz file.

    Class names come from an array ``classes``, or are those of CIFAR-10 if the file name begins with ``cifar10``.
    Otherwise they are the label numbers, up to the largest in any of the arrays.

    Args:
        path: the npz file. Images are (count, height, width, channels), (count, channels, height, width) or
            (count, height, width), uint8 or float in [0, 1]; labels are (count,) or (count, 1) integers, or one-hot.
        split: which arrays to read; ``val`` serves as ``test`` if there is no other. If the file has only ``images``
            and ``labels``, a split is drawn as in :func:`folder`. None: the test images, or all images without parts.
        limit: maximum number of images: the first ones, or spread evenly if they are sorted by class.
        classes: class names in the order of their numbers, such as those of a checkpoint.
        seed: seed of a split drawn at random.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an npz file, or lacks such arrays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.npz"
        ...     np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, 1]))
        ...     npz(path).x.shape
        torch.Size([2, 3, 4, 4])
    """
    source = existing(path)
    pixels, raw_labels, other_labels, names, prefix = _arrays(source, split)
    images, labels = _images(pixels, source.name), _labels(raw_labels, source.name)
    largest = max([int(labels.max()), *(int(_labels(other, source.name).max()) for other in other_labels)])
    if names is not None:
        class_names = tuple(str(name) for name in names)
    elif source.name.lower().startswith("cifar10") and largest < 10:
        class_names = CIFAR10_CLASSES
    else:
        class_names = tuple(str(label) for label in range(largest + 1))
    mean, std = normalisation(images.shape[1], source.name)
    data_name = f"{source.name} ({prefix.rstrip('_') or split or 'test'})"
    data = ImageData(images, labels, class_names, mean, std, data_name)
    if not prefix and split is not None:
        data = drawn(data, split, source.name, seed)
    if limit is not None and limit < len(data):
        data = data.subset(limited(data.labels, limit))
    return data if classes is None else renamed(data, classes)


def drawn(data: ImageData, split: Split, name: str, seed: int) -> ImageData:
    """A split drawn at random from images without given parts; a warning says so."""
    indices, part_name = drawn_part(data.labels.tolist(), split, name, seed)
    return replace(data.subset(indices), name=part_name)


def limited(labels: torch.Tensor, limit: int) -> torch.Tensor:
    """Indices of the first images, or of images spread evenly if they are sorted by class."""
    sorted_by_class = bool((labels.diff() >= 0).all())
    return (
        torch.tensor(spread(len(labels), limit), device="cpu") if sorted_by_class else torch.arange(limit, device="cpu")
    )


def npz_parts(source: Path) -> list[str]:
    """The parts that a file contains, among ``train``, ``val`` and ``test``."""
    with _opened(source) as file:
        return [part for part in ("train", "val", "test") if f"{part}_images" in file.files]


def _arrays(
    source: Path, split: Split | None
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray | None, str]:
    """Images and labels of a split, labels of the other parts, class names, and the prefix of the array names."""
    with _opened(source) as file:
        parts = {"train": ["train_"], "val": ["val_"]}.get(split or "test", ["test_", "val_"])
        prefix = next((part for part in [*parts, ""] if f"{part}images" in file.files), None)
        if prefix is None or f"{prefix}labels" not in file.files:
            raise ValueError(
                f"expected arrays {parts[0]}images and {parts[0]}labels, or images and labels, in {source.name}; got "
                f"{file.files}"
            )
        try:
            names = file["classes"] if "classes" in file.files else None
            others = [f"{part}_labels" for part in ("train", "val", "test")]
            others = [name for name in others if name in file.files and name != f"{prefix}labels"]
            images, labels = file[f"{prefix}images"], file[f"{prefix}labels"]
            return images, labels, [file[name] for name in others], names, prefix
        except _UNREADABLE as error:
            raise ValueError(f"expected arrays of numbers in {source.name}, which cannot be read: {error}") from error


def _opened(source: Path) -> Any:
    """Open the file after checking the size of each of its arrays."""
    try:
        file = np.load(source, allow_pickle=False)
        if isinstance(file, np.lib.npyio.NpzFile):
            with zipfile.ZipFile(source) as members:
                for info in members.infolist():
                    _check_member(members, info)
            return file
    except _UNREADABLE as error:
        raise ValueError(f"expected an npz file, got {source.name}, which cannot be read: {error}") from error
    raise ValueError(f"expected an npz file of several arrays, got one array in {source.name}; use numpy.savez")


def _check_member(members: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Check the headers before anything is inflated: a small file may claim terabytes."""
    check_inflated(info, 1 << 50, _MOST_RATIO, _FREE)
    with members.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > info.file_size:
        raise Damaged(f"{info.filename} claims {shape} numbers, but has {info.file_size:,} bytes")


def _images(pixels: np.ndarray, name: str) -> torch.Tensor:
    """Images as (count, channels, height, width), from arrays with channels first, last or absent."""
    floating = pixels.dtype.kind == "f" and bool(((pixels >= 0) & (pixels <= 1)).all())  # False for NaN
    if not (pixels.dtype == np.uint8 or floating) or pixels.ndim not in (3, 4) or not pixels.size:
        span = f" from {pixels.min()} to {pixels.max()}" if pixels.size and pixels.dtype.kind in "iuf" else ""
        raise ValueError(
            f"expected images of 3 or 4 dimensions, uint8 or float in [0, 1], in {name}; got {pixels.dtype} "
            f"{pixels.shape}{span}; divide by the largest value, or store uint8"
        )
    return image_tensor(pixels, name)


def _labels(labels: np.ndarray, name: str) -> torch.Tensor:
    try:
        return label_tensor(labels, name)
    except TypeError as error:
        raise ValueError(f"{error}; name the classes in an array 'classes'") from error
