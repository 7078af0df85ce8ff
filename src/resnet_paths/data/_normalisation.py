"""Class names, usual normalisations and the path check, shared by all sources of images."""

from __future__ import annotations

from pathlib import Path

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalisation(channels: int, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The customary mean and standard deviation: ImageNet's for colour, a half for grey.

    Raises:
        ValueError: there are neither one nor three channels.

    Example:
        >>> normalisation(1, "grey pictures")
        ((0.5,), (0.5,))
    """
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    if channels == 1:
        return (0.5,), (0.5,)
    raise ValueError(
        f"expected images of 1 or 3 channels in {name}, got {channels}; create an ImageData with their mean and std"
    )


def existing(path: str | Path) -> Path:
    """The path of an existing file or folder.

    Raises:
        FileNotFoundError: there is none.
    """
    source = Path(path)
    if not str(path).strip() or not source.exists():  # an empty name would mean the current folder
        raise FileNotFoundError(f"expected a file or folder, got {str(path)!r}, which does not exist; check the path")
    return source
