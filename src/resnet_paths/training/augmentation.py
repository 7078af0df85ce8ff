"""Images shifted and mirrored at random.

Not torchvision's transforms: those draw for one image at a time from the global random state. Here the draws come from
a generator on the CPU, so that the same seed gives the same images on every device, and a whole batch is gathered at
once.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..arguments import checked
from ..data import ImageData, ImageSource, as_data
from ..draws import integers, seeded, uniform


@checked
def augment(
    images: torch.Tensor, shift: int, flip: bool, generator: torch.Generator, fill: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Mirror each image at random and shift it by a random number of pixels (He et al. 2015, section 4.2).

    Args:
        images: (count, channels, height, width).
        shift: maximum shift in each direction, in pixels.
        flip: mirror left to right, with probability 1/2.
        generator: on the CPU, so that every device draws the same.
        fill: value outside the image, one number or one per channel.

    Returns:
        The images, of the same shape.

    Raises:
        ValueError: `fill` does not match the number of channels.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> augment(image, 1, False, torch.Generator().manual_seed(3)).shape
        torch.Size([1, 1, 3, 3])
    """
    if flip:
        mirrored = uniform((len(images),), generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
    if not shift:
        return images

    count, channels, height, width = images.shape
    if isinstance(fill, torch.Tensor) and fill.numel() not in (1, channels):
        raise ValueError(f"expected fill to be one number or one for each of {channels} channels, got {fill.numel()}")
    outside = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    padded = outside.expand(count, channels, height + 2 * shift, width + 2 * shift).clone()
    padded[:, :, shift : shift + height, shift : shift + width] = images

    row_offset, column_offset = integers(0, 2 * shift + 1, (2, count), generator).to(images.device)
    rows = row_offset[:, None] + torch.arange(height, device=images.device)
    columns = column_offset[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    # Stored contiguously as (count, channels, height, width). A permuted view would make the full step run channels
    # last, where oneDNN's weight gradient of a strided 1x1 convolution with fewer than 16 channels writes past its
    # buffer (uxlfoundation/oneDNN issue 6035) and can crash the training of a narrow network.
    shifted: torch.Tensor = padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return shifted


@checked
def augmented(data: ImageSource, shift: int = 4, flip: bool = True, *, copies: int = 1, seed: int = 0) -> ImageData:
    """Images as a network sees them in training: each shifted over black and mirrored, several times.

    Recalibrate batch norms on these after dropping blocks: the stored statistics come from such images, and the
    network's weights match them. See :func:`resnet_paths.tradeoff.statistics_gap`.

    Args:
        data: training images.
        shift: maximum shift in each direction, in pixels (4 for CIFAR-10: He et al. 2015, section 4.2).
        flip: mirror left to right, with probability 1/2.
        copies: number of passes over the images, each with new draws.
        seed: seed of the draws.

    Returns:
        `copies` times as many images.

    Raises:
        ValueError: `shift` is negative or `copies` is below 1.

    Example:
        >>> from resnet_paths.data import digits
        >>> len(augmented(digits("test"), shift=1, flip=False, copies=2))
        890
    """
    data = as_data(data, labelled=False)
    if shift < 0 or copies < 1:
        raise ValueError(f"expected a shift of at least 0 pixels and at least 1 copy, got {shift} and {copies}")
    generator = seeded(seed)
    images = torch.cat([augment(data.images, shift, flip, generator) for _ in range(copies)])
    return replace(data, images=images, labels=data.labels.repeat(copies))
