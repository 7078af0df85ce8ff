"""Arrays of pixels and labels, in the many forms that people keep them, converted to the one that analyses read.

What shapes and dtypes show is accepted (channels last, one-hot labels). What they do not show is refused rather than
guessed, such as integer pixels with an unknown value of white: images ten times too dark still give plausible
accuracies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def image_tensor(pixels: Any, name: str) -> torch.Tensor:
    """Images (count, channels, height, width) from a tensor or an array with channels first, last or absent.

    Args:
        pixels: (count, channels, height, width), (count, height, width, channels) or, if grey, (count, height, width).
        name: source of the images, for error messages.

    Raises:
        TypeError: `pixels` is not an array, or has integers other than uint8, whose value of white is unknown.
        ValueError: the number of dimensions is neither 3 nor 4, or there is no image.

    Example:
        >>> image_tensor(np.zeros((2, 8, 8, 3), np.uint8), "two pictures").shape
        torch.Size([2, 3, 8, 8])
    """
    images = tensor_of(pixels, f"images in {name}")
    if images.ndim not in (3, 4) or not images.numel():
        raise ValueError(
            f"expected images of 3 or 4 dimensions (count, channels, height, width) in {name}, got "
            f"{tuple(images.shape)}; pass at least one image, as pixels"
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
    """Class indices (count,), int64, from labels (count,), (count, 1) or one-hot (count, classes).

    Args:
        labels: integers, or rows with a single 1.
        name: source of the labels, for error messages.

    Raises:
        TypeError: the labels are not integers.
        ValueError: an image has several classes, shares of classes, or the mark of unlabelled images (-1).

    Example:
        >>> label_tensor(np.eye(3)[[2, 0]], "two pictures").tolist()
        [2, 0]
    """
    indices = tensor_of(labels, f"labels in {name}")
    if indices.ndim == 2 and indices.shape[1] == 1:
        indices = indices[:, 0]
    if indices.ndim == 2 and indices.numel():
        return _of_one_hot(indices, name)
    if indices.ndim != 1 or not indices.numel():
        raise ValueError(
            f"expected labels (count,) of integers in {name}, got {indices.dtype} {tuple(indices.shape)}; pass the "
            "class index of each image"
        )
    if indices.dtype.is_floating_point or indices.dtype.is_complex:
        raise TypeError(
            f"expected labels of integers in {name}, got {indices.dtype}; if they are class "
            "indices, convert them with .long()"
        )
    indices = indices.long()
    if int(indices.min()) < 0:
        raise ValueError(
            f"expected labels from 0 on in {name}, got {int(indices.min())} ({int((indices < 0).sum())} below 0), "
            "which often marks images without a label; remove those"
        )
    return indices


def _of_one_hot(rows: torch.Tensor, name: str) -> torch.Tensor:
    """The index of the single 1 in each row."""
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
        f"expected one class for each image in {name}, got labels {tuple(rows.shape)} with {reason}; pass the class "
        "index of each image"
    )


def tensor_of(value: Any, what: str) -> torch.Tensor:
    """A plain tensor from an array, a list of numbers, or a Pillow picture.

    Raises:
        TypeError: the value is none of these, or has no number for some entries.
    """
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.is_nested or value.layout is not torch.strided:
            kind = "a nested tensor" if value.is_nested else "shapes" if value.is_meta else str(value.layout)
            raise TypeError(f"expected a dense tensor of {what}, got {kind}; pass one that holds all values")
        return value.detach().as_subclass(torch.Tensor)
    if hasattr(value, "getbands"):  # a Pillow image
        value = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        value = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
    if np.ma.is_masked(value):
        raise TypeError(f"expected an array of {what} without gaps, got one with masked entries; fill or remove them")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "US":
            raise TypeError(f"texts such as {str(array.flat[0])!r}; pass numbers, for classes their indices")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind == "u" and array.dtype != np.uint8:
            array = array.astype(np.int64)  # torch barely supports larger unsigned integers
        return torch.from_numpy(np.array(array))  # a copy, because the array may be read-only or have negative strides
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected an array of {what}, got {type(value).__name__}: {error}") from None
