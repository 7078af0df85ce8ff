"""Images by name: the embedded digits, CIFAR-10, or files of your own."""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ._files import folder, zipped
from ._normalisation import CIFAR10_CLASSES, IMAGENET_MEAN, IMAGENET_STD, Split
from ._npz import npz
from .images import ImageData

_FORMS = "'digits', 'cifar10[:FOLDER]', a folder of class folders, a .zip or an .npz"


def digits(split: Split = "test") -> ImageData:
    """UCI handwritten digits: 1,797 grey images of 8 x 8 that ship inside scikit-learn.

    Every fourth image of each class, in the order of the file, is a test image (445 of 1,797).

    Raises:
        ValueError: the split is neither "train" nor "test".

    Example:
        >>> len(digits("train")), len(digits("test"))
        (1352, 445)
    """
    from sklearn.datasets import load_digits

    _check_split(split)
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
    """CIFAR-10 (Krizhevsky 2009) through torchvision: 50,000 and 10,000 colour images of 32 x 32.

    Raises:
        FileNotFoundError: it is not under `root` and `download` is false.
        ValueError: the split is neither "train" nor "test".
    """
    from torchvision.datasets import CIFAR10

    _check_split(split)
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


def load_data(
    spec: str = "digits",
    split: Split = "test",
    *,
    limit: int | None = None,
    size: int | None = None,
    download: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImageData:
    """Images by name or path.

    Args:
        spec: ``"digits"`` (embedded), ``"cifar10"`` or ``"cifar10:FOLDER"``, a folder of class folders (or of
            ``train`` and ``test`` with these), a zip file of such, or an npz file.
        split: training or test images, where the source has both.
        limit: at most so many (the first; for folders and zip files spread over the classes).
        size: resize images of folders and zip files.
        download: fetch CIFAR-10 where it is missing.
        mean: of each channel, instead of the source's own (ImageNet's for colour files).
        std: likewise.

    Raises:
        ValueError: unknown source, wrong content, or an option that the source does not have.
        FileNotFoundError: no such file.

    Example:
        >>> load_data("digits", limit=100).x.shape
        torch.Size([100, 1, 8, 8])
    """
    _check_split(split)
    for name, value in {"limit": limit, "size": size}.items():
        if value is not None and value < 1:
            raise ValueError(f"expected a {name} of at least 1, got {value}")
    data = _read(spec, split, limit, size, download)
    if limit is not None:
        data = data.subset(slice(0, limit))
    return replace(data, mean=tuple(mean or data.mean), std=tuple(std or data.std))


def _read(spec: str, split: Split, limit: int | None, size: int | None, download: bool) -> ImageData:
    name, _, place = str(spec).partition(":")
    if spec == "digits":
        make, resizes = partial(digits, split), False
    elif name == "cifar10":
        make, resizes = partial(cifar10, split, place or "data", download), False
    elif not Path(spec).exists():
        near = difflib.get_close_matches(name, ["digits", "cifar10"], 1) or ["no name like it"]
        raise FileNotFoundError(
            f"expected {_FORMS}, got {spec!r}, which is none of the names and no file (near names: {near[0]})"
        )
    elif Path(spec).is_dir():
        inner = Path(spec) / split
        make, resizes = partial(folder, inner if inner.is_dir() else spec, size, limit), True
    elif str(spec).endswith(".zip"):
        make, resizes = partial(zipped, spec, split, size, limit), True
    elif str(spec).endswith(".npz"):
        make, resizes = partial(npz, spec, split), False
    else:
        raise ValueError(f"expected {_FORMS}, got the file {spec}; pack its images into one of these")

    if size is not None and not resizes:
        raise ValueError(f"expected no size with {spec!r}: its images have one; size is for folders and zip files")
    if download and name != "cifar10":
        raise ValueError(f"expected no download with {spec!r}: only cifar10 can be fetched; leave it out")
    return make()


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
