"""Labelled images in memory: what every analysis takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images, normalised when they are read.

    Attributes:
        images: (count, channels, height, width), uint8 or float.
        labels: (count,), int64.
        classes: names of the classes.
        mean: of each channel, on the scale on which uint8 255 is 1.
        std: likewise.
        name: where they came from.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError(
                "expected images (count, channels, height, width) and as many labels, got "
                f"{tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise ValueError(
                f"expected labels from 0 to {len(self.classes) - 1}, got {int(self.labels.min())} to "
                f"{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def x(self) -> torch.Tensor:
        """All images, normalised, float32."""
        return self._normalised(self.images)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        shape = (-1, 1, 1)
        return (values - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Normalised images and labels, `size` at a time, in order."""
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self._normalised(self.images[chosen]), self.labels[chosen]

    def subset(self, indices: torch.Tensor | slice | list[int]) -> ImageData:
        """The images at these indices."""
        chosen = torch.as_tensor(indices) if isinstance(indices, list) else indices
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def halves(self, seed: int = 0) -> tuple[ImageData, ImageData]:
        """Two random halves: one to choose on, one to report on."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        middle = len(self) // 2
        return self.subset(order[:middle]), self.subset(order[middle:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of pixels, labels and normalisation."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            array = tensor.contiguous().numpy()
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((self.classes, self.mean, self.std)).encode())
        return digest.hexdigest()
