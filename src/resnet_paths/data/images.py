"""Labelled images in memory: the input of every analysis.

Not a PyTorch ``Dataset``: that has no fingerprint, class names or normalisation, and may return something else each
time an item is requested. Journals and comparisons of two models on the same images need fixed data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..arguments import checked, few
from ..draws import permutation, seeded
from ..graph.model_fingerprint import tensor_bytes
from .in_memory import InMemory


@checked
@dataclass(frozen=True, eq=False)
class ImageData(InMemory):
    """Images, normalised on access, and their labels if there are any.

    Attributes:
        images: (count, channels, height, width), uint8 or float.
        labels: (count,), int64; all -1 if the images have no labels.
        classes: class names.
        mean: mean of each channel, on the scale where uint8 255 is 1.
        std: standard deviation of each channel, on the same scale.
        name: source of the images.
        dtype: dtype of the normalised images.

    Raises:
        TypeError: images or labels have another dtype.
        ValueError: shapes or numbers do not match each other.

    Example:
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> data = ImageData(pixels, torch.tensor([0, 1]), ("dark", "light"), (0.5,), (0.5,), "two")
        >>> data.x.flatten().tolist()
        [-1.0, 1.0]
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
            raise ValueError(
                "expected images (count, channels, height, width) and as many labels, got "
                f"{tuple(images.shape)} and {tuple(labels.shape)}; pass at least one image, and a label for each"
            )
        if not (images.dtype == torch.uint8 or images.dtype.is_floating_point) or labels.dtype != torch.int64:
            raise TypeError(
                f"expected images of uint8 or float and labels of int64, got {images.dtype} and {labels.dtype}; "
                "convert them first"
            )
        if not self.dtype.is_floating_point:
            raise TypeError(f"expected a floating dtype for normalised images, got {self.dtype}; pass torch.float32")
        if self.labelled and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(
                f"expected labels from 0 to {len(self.classes) - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}; list every class in classes"
            )
        if not len(self.mean) == len(self.std) == images.shape[1] or not all(value > 0 for value in self.std):
            raise ValueError(
                f"expected a mean and a positive std for each of {images.shape[1]} channels, got mean={self.mean} "
                f"and std={self.std}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels.

        Example:
            >>> ImageData(torch.zeros(2, 1, 4, 4), torch.tensor([-1, -1]), (), (0.0,), (1.0,), "two").labelled
            False
        """
        return not bool((self.labels == -1).all())

    @property
    def stored(self) -> torch.Tensor:
        """The pixels."""
        return self.images

    @property
    def targets(self) -> torch.Tensor:
        """The labels: class indices, (count,)."""
        return self.labels

    @property
    def noun(self) -> str:
        """What one example is called."""
        return "image"

    def __repr__(self) -> str:
        return (
            f"ImageData({self.name!r}, {len(self)} images {tuple(self.images.shape[1:])}, "
            f"{f'{len(self.classes)} classes' if self.labelled else 'no labels'})"
        )

    @property
    def x(self) -> torch.Tensor:
        """All images, normalised, (count, channels, height, width) of :attr:`dtype`."""
        return self.normalised(self.images)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Images normalised for a network: ``(pixel / 255 - mean) / std`` (uint8), ``(pixel - mean) / std`` (float).

        Computed in float32, or in float64 if that is :attr:`dtype`.
        """
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        values = images.to(exact) / 255 if images.dtype == torch.uint8 else images.to(exact)
        mean, std = (
            torch.tensor(numbers, dtype=exact, device=images.device).view(-1, 1, 1) for numbers in (self.mean, self.std)
        )
        return ((values - mean) / std).to(self.dtype)

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Normalised images and labels in batches, in order; the last batch may be smaller.

        Raises:
            ValueError: `batch_size` is below 1.

        Example:
            >>> from resnet_paths.data import digits
            >>> [len(labels) for _, labels in digits("test").batches(200)]
            [200, 200, 45]
        """
        if batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        return self._batches(batch_size)

    def _batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self), batch_size):
            batch = slice(start, start + batch_size)
            yield self.normalised(self.images[batch]), self.labels[batch]

    def subset(self, indices: torch.Tensor | slice | list[int]) -> ImageData:
        """The images at these indices, or where a mask is true."""
        selection = torch.as_tensor(indices, device="cpu") if isinstance(indices, list) else indices
        return replace(self, images=self.images[selection], labels=self.labels[selection])

    def joined(self, other: ImageData, name: str) -> ImageData:
        """These images and then those of other data of the same size, classes and normalisation."""
        images, labels = (torch.cat([getattr(part, kind) for part in (self, other)]) for kind in ("images", "labels"))
        return replace(self, images=images, labels=labels, name=name)

    def numbered(self, classes: tuple[str, ...]) -> ImageData:
        """The same images, with their classes numbered as in another list of names.

        Raises:
            ValueError: a class of these images is not in the list.

        Example:
            >>> two = ImageData(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), ("cat", "fox"), (0.0,), (1.0,), "two")
            >>> two.numbered(("ant", "cat", "fox")).labels.tolist()
            [1, 2]
        """
        classes = tuple(classes)
        if classes == self.classes:
            return self
        if not self.labelled:
            return replace(self, classes=classes)
        number_of = {name: number for number, name in enumerate(classes)}
        used = [self.classes[number] for number in self.labels.unique().tolist()]
        check_told_apart(used, classes, self.name)
        unknown = [name for name in used if name not in number_of]
        if unknown:
            raise ValueError(
                f"expected in {self.name} no other classes than {few([*map(repr, classes)])}, got also "
                f"{few([*map(repr, unknown)])}; remove their images, or rename the classes"
            )
        numbers = torch.tensor([number_of.get(name, 0) for name in self.classes], device=self.labels.device)
        return replace(self, labels=numbers[self.labels], classes=classes)

    def split(self, share: float = 0.5, seed: int = 0) -> tuple[ImageData, ImageData]:
        """Two parts drawn per class: this share of each class, rounded, and the rest, both in the original order.

        Raises:
            ValueError: the share is not between 0 and 1, or leaves a part empty.

        Example:
            >>> from resnet_paths.data import digits
            >>> small, rest = digits("train").split(0.2)
            >>> len(small), len(rest)
            (270, 1082)
        """
        if not 0 < share < 1:
            raise ValueError(f"expected a share between 0 and 1, got {share}")
        generator = seeded(seed)
        in_first = torch.zeros(len(self), dtype=torch.bool, device="cpu")
        for label in range(len(self.classes)) if self.labelled else (-1,):
            members = (self.labels == label).nonzero().flatten().cpu()
            order = permutation(len(members), generator)
            in_first[members[order[: round(share * len(members))]]] = True
        if in_first.all() or not in_first.any():
            raise ValueError(f"expected images in both parts, got none in one for share={share} of {len(self)}")
        in_first = in_first.to(self.labels.device)
        return self.subset(in_first), self.subset(~in_first)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageData:
        """The same images on another device, normalised to another dtype; None leaves either unchanged.

        Example:
            >>> from resnet_paths.data import digits
            >>> digits("test").to(dtype=torch.float64).x.dtype
            torch.float64
        """
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels, dtype=dtype or self.dtype)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of pixels, labels, class names and normalisation; independent of device and dtype."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
        digest.update(repr((self.classes, self.mean, self.std)).encode())
        return digest.hexdigest()


def check_told_apart(used: Iterable[str], classes: Sequence[str], name: str) -> None:
    """Refuse to number classes by a list that has one of their names twice.

    Args:
        used: the names of the images' classes.
        classes: the list.
        name: the source of the images.

    Raises:
        ValueError: it has.
    """
    counts = Counter(classes)
    twice = sorted({one for one in used if counts[one] > 1})
    if twice:
        raise ValueError(
            f"expected each class of {name} once in the given classes, got {few([*map(repr, twice)])} more than once; "
            "give them names of their own"
        )
