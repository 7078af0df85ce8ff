"""Arrays of pixels and of labels as people keep them, in the one form that analyses read.

What can be told from shapes and types is accepted (channels last, one-hot labels); what cannot is refused rather than
guessed, such as whole numbers whose white is unknown: images ten times too dark still give plausible accuracies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def image_tensor(pixels: Any, name: str) -> torch.Tensor:
    """Images (count, channels, height, width) of a tensor or an array, which may have its channels last, or none.

    Args:
        pixels: (count, channels, height, width), (count, height, width, channels) or, grey, (count, height, width).
        name: where they came from, for the message.

    Raises:
        TypeError: no array, or whole numbers other than uint8, whose white is unknown.
        ValueError: another number of dimensions, or no image.

    Example:
        >>> image_tensor(np.zeros((2, 8, 8, 3), np.uint8), "two pictures").shape
        torch.Size([2, 3, 8, 8])
    """
    images = tensor_of(pixels, f"images in {name}")
    if images.ndim not in (3, 4) or not images.numel():
        raise ValueError(
            f"expected images of 3 or 4 dimensions (count, channels, height, width) in {name}, got "
            f"{tuple(images.shape)}; give at least one image, as pixels"
        )
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        span = f" from {images.min()} to {images.max()}" if not images.dtype.is_complex else ""
        raise TypeError(
            f"expected pixels of uint8 or float in {name}, got {images.dtype}{span}, whose white is not known; divide "
            "by the largest value that a pixel can have, or store uint8"
        )
    if images.ndim == 3:
        return images[:, None]
    last, second = images.shape[-1], images.shape[1]
    if (last in (1, 3) and second not in (1, 3)) or (last == 4 and second not in (1, 3, 4)):
        images = images.permute(0, 3, 1, 2).contiguous()
    return images


def label_tensor(labels: Any, name: str) -> torch.Tensor:
    """Class numbers (count,), int64, of labels (count,), (count, 1) or one-hot (count, classes).

    Args:
        labels: whole numbers, or rows with a single 1.
        name: where they came from, for the message.

    Raises:
        TypeError: numbers that are not whole.
        ValueError: several classes an image, shares of classes, or images marked as not labelled (-1).

    Example:
        >>> label_tensor(np.eye(3)[[2, 0]], "two pictures").tolist()
        [2, 0]
    """
    numbers = tensor_of(labels, f"labels in {name}")
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim == 2 and numbers.numel():
        return _of_one_hot(numbers, name)
    if numbers.ndim != 1 or not numbers.numel():
        raise ValueError(
            f"expected labels (count,) of integers in {name}, got {numbers.dtype} {tuple(numbers.shape)}; give the "
            "number of each image's class"
        )
    if numbers.dtype.is_floating_point or numbers.dtype.is_complex:
        raise TypeError(
            f"expected labels of integers in {name}, got {numbers.dtype}; they number classes from 0: convert them "
            "with .long() if they do"
        )
    numbers = numbers.long()
    if int(numbers.min()) < 0:
        raise ValueError(
            f"expected labels from 0 on in {name}, got {int(numbers.min())} ({int((numbers < 0).sum())} below 0), "
            "which often marks images without a label; leave those out"
        )
    return numbers


def _of_one_hot(rows: torch.Tensor, name: str) -> torch.Tensor:
    """The place of the single 1 in each row."""
    exact = rows.double()
    if bool(((exact == 0) | (exact == 1)).all()) and bool((exact.sum(1) == 1).all()):
        return exact.argmax(1)
    if bool(((exact == 0) | (exact == 1)).all()):
        reason = "several classes of an image, or none"
    elif bool((exact.sum(1) - 1).abs().max() < 1e-4):
        reason = "shares of classes (soft labels)"
    else:
        reason = "neither class numbers nor one-hot rows"
    raise ValueError(
        f"expected one class for each image in {name}, got labels {tuple(rows.shape)} with {reason}; give the number "
        "of each image's class"
    )


def tensor_of(value: Any, what: str) -> torch.Tensor:
    """A plain tensor of an array, a list of numbers, or a picture.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)
    if hasattr(value, "getbands"):  # a picture of Pillow
        value = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        value = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
    try:
        array = np.asarray(value)
        if array.dtype.kind == "u" and array.dtype != np.uint8:
            array = array.astype(np.int64)  # torch has no arithmetic of these
        return torch.from_numpy(np.array(array))  # a copy: the array may be read-only, or run backwards
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected an array of {what}, got {type(value).__name__}: {error}") from None
