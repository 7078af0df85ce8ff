"""Images moved and mirrored at random."""

from __future__ import annotations

import torch


def augment(
    images: torch.Tensor, shift: int, flip: bool, generator: torch.Generator, fill: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Each image mirrored at random and moved by a random number of pixels (He et al. 2015, section 4.2).

    Args:
        images: (count, channels, height, width).
        shift: at most so many pixels, in each direction.
        flip: mirror left to right, with probability 1/2.
        generator: on the CPU, so that every device draws the same.
        fill: what stands outside the image, one number or one a channel.

    Returns:
        The images, of the same shape.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> augment(image, 1, False, torch.Generator().manual_seed(3)).shape
        torch.Size([1, 1, 3, 3])
    """
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
    if not shift:
        return images

    count, channels, height, width = images.shape
    outside = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    padded = outside.expand(count, channels, height + 2 * shift, width + 2 * shift).clone()
    padded[:, :, shift : shift + height, shift : shift + width] = images

    down, right = torch.randint(0, 2 * shift + 1, (2, count), generator=generator).to(images.device)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    moved: torch.Tensor = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
