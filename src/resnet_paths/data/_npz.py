"""Images of npz files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from ._normalisation import CIFAR10_CLASSES, Split, existing, normalisation
from .images import ImageData


def npz(path: str | Path, split: Split = "test") -> ImageData:
    """Arrays ``test_images`` and ``test_labels`` (or ``train_``, or ``images`` and ``labels``) of an npz file.

    Class names are those of an array ``classes``; a file whose name begins with ``cifar10`` has those of
    CIFAR-10; otherwise they are the labels' numbers.

    Args:
        path: the file. Images are (count, height, width, channels), (count, channels, height, width) or
            (count, height, width), uint8 or float in [0, 1]; labels are (count,) integers.
        split: which of the arrays.

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
    pixels, numbers, names = _arrays(source, split)
    images, labels = _images(pixels, source.name), _labels(numbers, source.name)
    if names is not None:
        classes = tuple(str(name) for name in names)
    elif source.name.lower().startswith("cifar10") and int(labels.max()) < 10:
        classes = CIFAR10_CLASSES
    else:
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    mean, std = normalisation(images.shape[1], source.name)
    return ImageData(images, labels, classes, mean, std, f"{source.name} ({split})")


def _arrays(source: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    try:
        file = np.load(source, allow_pickle=False)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"expected an npz file, got {source.name}, which cannot be read: {error}") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"expected an npz file of several arrays, got one array in {source.name}; use numpy.savez")
    with file:
        prefix = f"{split}_" if f"{split}_images" in file.files else ""
        if f"{prefix}images" not in file.files or f"{prefix}labels" not in file.files:
            raise ValueError(
                f"expected arrays {split}_images and {split}_labels, or images and labels, in {source.name}; got "
                f"{file.files}"
            )
        try:
            names = file["classes"] if "classes" in file.files else None
            return file[f"{prefix}images"], file[f"{prefix}labels"], names
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"expected arrays of numbers in {source.name}, which cannot be read: {error}") from error


def _images(pixels: np.ndarray, name: str) -> torch.Tensor:
    """(count, channels, height, width) of what may have its channels last, or none."""
    if pixels.dtype == np.uint8:
        usable = True
    else:
        usable = pixels.dtype.kind == "f" and bool(((pixels >= 0) & (pixels <= 1)).all())  # NaN is not
    if not usable or pixels.ndim not in (3, 4) or not pixels.size:
        span = f" from {pixels.min()} to {pixels.max()}" if pixels.size and pixels.dtype.kind in "iuf" else ""
        raise ValueError(
            f"expected images of 3 or 4 dimensions, uint8 or float in [0, 1], in {name}; got {pixels.dtype} "
            f"{pixels.shape}{span}; divide by the largest value, or store uint8"
        )
    images = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[:, None])
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2).contiguous()
    return images


def _labels(labels: np.ndarray, name: str) -> torch.Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(
            f"expected labels (count,) of integers in {name}, got {labels.dtype} {labels.shape}; number the classes "
            "from 0, and name them in an array 'classes'"
        )
    return torch.from_numpy(labels.astype(np.int64))
