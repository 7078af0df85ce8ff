"""Where images come from: digits, CIFAR-10, folders, zip files of JPEG, npz files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from .images import ImageData

Split = Literal["train", "test"]

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def digits(split: Split = "test") -> ImageData:
    """UCI handwritten digits: 1,797 grey images of 8 x 8 that ship inside scikit-learn.

    Every fourth image of each class, in the order of the file, is a test image (445 of 1,797).

    Example:
        >>> len(digits("train")), len(digits("test"))
        (1352, 445)
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.tensor(source.target, dtype=torch.int64)
    images = torch.tensor(source.images, dtype=torch.float32)[:, None] / 16
    rank = torch.zeros_like(labels)
    for label in range(10):
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    test = rank % 4 == 3
    chosen = test if split == "test" else ~test
    names = tuple(str(label) for label in range(10))
    return ImageData(images[chosen], labels[chosen], names, (0.3053,), (0.3764,), f"digits ({split})")


def cifar10(split: Split = "test", root: str | Path = "data", download: bool = False) -> ImageData:
    """CIFAR-10 through torchvision.

    Raises:
        FileNotFoundError: it is not under `root` and `download` is false.
    """
    from torchvision.datasets import CIFAR10

    try:
        source = CIFAR10(str(root), train=split == "train", download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"expected CIFAR-10 under {root}, got: {error}; pass download=True, or the folder that holds "
            "cifar-10-batches-py as root"
        ) from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(source.targets)
    return ImageData(images, labels, CIFAR10_CLASSES, IMAGENET_MEAN, IMAGENET_STD, f"CIFAR-10 ({split})")


def npz(path: str | Path, split: Split = "test") -> ImageData:
    """Arrays ``test_images`` and ``test_labels`` (or ``train_``, or ``images`` and ``labels``) of an npz file.

    Images are (count, height, width, channels) or (count, channels, height, width), uint8 or float in [0, 1].
    """
    with np.load(path, allow_pickle=False) as file:
        prefix = f"{split}_" if f"{split}_images" in file.files else ""
        if f"{prefix}images" not in file.files or f"{prefix}labels" not in file.files:
            raise ValueError(
                f"expected arrays {split}_images and {split}_labels, or images and labels, in {path}; got {file.files}"
            )
        array, labels = file[f"{prefix}images"], file[f"{prefix}labels"]
    images = torch.from_numpy(array if array.ndim == 4 else array[..., None])
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2).contiguous()
    return _named(images, torch.from_numpy(labels).long(), f"{Path(path).name} ({split})")


def _named(images: torch.Tensor, labels: torch.Tensor, name: str, classes: Iterable[str] | None = None) -> ImageData:
    count = int(labels.max()) + 1
    if classes is None:
        classes = CIFAR10_CLASSES if count == 10 else [str(label) for label in range(count)]
    three = images.shape[1] == 3
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if three else ((0.5,), (0.5,))
    return ImageData(images, labels, tuple(classes), mean, std, name)


def folder(path: str | Path, size: int | None = None, limit: int | None = None) -> ImageData:
    """Images of a folder with one folder for each class.

    Args:
        path: the folder.
        size: resize the shorter side to this and crop the middle; None: all images must be of one size.
        limit: at most so many, spread evenly over the classes.
    """
    root = Path(path)
    entries = sorted((entry.parent.name, entry) for entry in root.glob("*/*") if entry.suffix.lower() in _SUFFIXES)
    return _decoded([(label, entry.read_bytes) for label, entry in entries], str(root), size, limit)


def zipped(path: str | Path, split: Split = "test", size: int | None = None, limit: int | None = None) -> ImageData:
    """Images of a zip file with ``<split>/<class>/<name>.jpg`` (or ``<class>/<name>.jpg``)."""
    with zipfile.ZipFile(path) as file:
        names = [name for name in sorted(file.namelist()) if Path(name).suffix.lower() in _SUFFIXES]
        inside = [name for name in names if name.split("/")[0] == split]
        chosen = inside or ([] if any(name.split("/")[0] in ("train", "test") for name in names) else names)

        def reader(name: str) -> tuple[str, object]:
            return name.split("/")[-2], lambda: file.read(name)

        return _decoded([reader(name) for name in chosen], f"{Path(path).name} ({split})", size, limit)


def _decoded(entries: list, name: str, size: int | None, limit: int | None) -> ImageData:  # type: ignore[type-arg]
    if not entries:
        raise ValueError(f"expected images as <class>/<name>.jpg or .png in {name}, got none")
    if limit is not None and limit < len(entries):
        step = np.linspace(0, len(entries) - 1, limit).round().astype(int)
        entries = [entries[place] for place in step]
    classes = sorted({label for label, _ in entries})
    arrays, labels = [], []
    for label, read in entries:
        arrays.append(_pixels(read(), size))
        labels.append(classes.index(label))
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"expected images of one size, got {len(shapes)} sizes in {name}; pass size=")
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return _named(images, torch.tensor(labels), name, classes)


def _pixels(content: bytes, size: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    if size is not None:
        scale = size / min(image.size)
        image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def load_data(
    spec: str = "digits", split: Split = "test", *, limit: int | None = None, size: int | None = None
) -> ImageData:
    """Images by name or path.

    Args:
        spec: ``"digits"`` (embedded), ``"cifar10"`` or ``"cifar10:FOLDER"``, a folder of class folders, a zip
            file of JPEG, or an npz file.
        split: training or test images, where the source has both.
        limit: at most so many (the first; for folders and zip files spread over the classes).
        size: resize images of folders and zip files.

    Raises:
        ValueError: unknown source or wrong content.
        FileNotFoundError: no such file.

    Example:
        >>> load_data("digits", limit=100).x.shape
        torch.Size([100, 1, 8, 8])
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    name, _, rest = spec.partition(":")
    if name == "digits":
        data = digits(split)
    elif name == "cifar10":
        data = cifar10(split, rest or "data")
    elif not Path(spec).exists():
        raise FileNotFoundError(
            f"expected 'digits', 'cifar10[:FOLDER]', a folder of class folders, a .zip or an .npz, got {spec!r}, "
            "which is none of the names and no file"
        )
    elif Path(spec).is_dir():
        inner = Path(spec) / split
        data = folder(inner if inner.is_dir() else spec, size, limit)
    elif spec.endswith(".zip"):
        data = zipped(spec, split, size, limit)
    elif spec.endswith(".npz"):
        data = npz(spec, split)
    else:
        raise ValueError(f"expected a folder, a .zip or an .npz, got the file {spec}")
    return data.subset(slice(0, limit)) if limit is not None else data
