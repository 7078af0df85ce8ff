"""Images of npz files.

The form in which people share small data sets; it has no layout of its own, so that arrays are recognised by their
names and shapes. It is a zip file: a small one may inflate to more than there is memory, which is checked before
anything is read, and arrays of objects, which would run code, are refused.
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

_MOST_RATIO, _FREE = 200, 1 << 30  # inflated to packed, of arrays of more bytes than this
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

    Class names are those of an array ``classes``; a file whose name begins with ``cifar10`` has those of
    CIFAR-10; otherwise they are the labels' numbers, up to the largest in any of the arrays.

    Args:
        path: the file. Images are (count, height, width, channels), (count, channels, height, width) or
            (count, height, width), uint8 or float in [0, 1]; labels are (count,) or (count, 1) integers, or one-hot.
        split: which of the arrays; ``val`` serves as test images where there are no others. Of a file with ``images``
            and ``labels`` alone a split is drawn, as in :func:`folder`; None: test images, or all without parts.
        limit: at most this many, the first; spread evenly where they are sorted by class.
        classes: the names in the order of their numbers, such as those of a checkpoint.
        seed: of a split that is drawn.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an npz file, or not with such arrays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.npz"
        ...     np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, 1]))
        ...     npz(path).x.shape
        torch.Size([2, 3, 4, 4])
    """
    source = existing(path)
    pixels, numbers, others, names, prefix = _arrays(source, split)
    images, labels = _images(pixels, source.name), _labels(numbers, source.name)
    largest = max([int(labels.max()), *(int(_labels(other, source.name).max()) for other in others)])
    if names is not None:
        own = tuple(str(name) for name in names)
    elif source.name.lower().startswith("cifar10") and largest < 10:
        own = CIFAR10_CLASSES
    else:
        own = tuple(str(label) for label in range(largest + 1))
    mean, std = normalisation(images.shape[1], source.name)
    told = f"{source.name} ({prefix.rstrip('_') or split or 'test'})"
    data = ImageData(images, labels, own, mean, std, told)
    if not prefix and split is not None:
        data = drawn(data, split, source.name, seed)
    if limit is not None and limit < len(data):
        data = data.subset(limited(data.labels, limit))
    return data if classes is None else renamed(data, classes)


def drawn(data: ImageData, split: Split, name: str, seed: int) -> ImageData:
    """The part of images of which nothing says which part they are; a warning says so."""
    places, told = drawn_part(data.labels.tolist(), split, name, seed)
    return replace(data.subset(places), name=told)


def limited(labels: torch.Tensor, limit: int) -> torch.Tensor:
    """The first images; where they are sorted by class, evenly spread from the first to the last."""
    in_order = bool((labels.diff() >= 0).all())
    return torch.tensor(spread(len(labels), limit), device="cpu") if in_order else torch.arange(limit, device="cpu")


def npz_parts(source: Path) -> list[str]:
    """The parts of a file: ``train``, ``val`` and ``test``, as far as they are there."""
    with _opened(source) as file:
        return [part for part in ("train", "val", "test") if f"{part}_images" in file.files]


def _arrays(
    source: Path, split: Split | None
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray | None, str]:
    """Images and labels of a split, labels of the others, names of the classes, and how the arrays' names begin."""
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
    """The file, once it is known that none of its arrays is more than it should be."""
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
    """From the headers, before anything is inflated: a small file may say that it holds terabytes."""
    check_inflated(info, 1 << 50, _MOST_RATIO, _FREE)
    with members.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > info.file_size:
        raise Damaged(f"{info.filename} says that it holds {shape} numbers, but has {info.file_size:,} bytes")


def _images(pixels: np.ndarray, name: str) -> torch.Tensor:
    """(count, channels, height, width) of what may have its channels last, or none."""
    floating = pixels.dtype.kind == "f" and bool(((pixels >= 0) & (pixels <= 1)).all())  # NaN is not
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
