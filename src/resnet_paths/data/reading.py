"""How a model's images are read, where the model says so.

timm, torchvision, Hugging Face and this library's checkpoints each say it in another way; sources of images take it
from here, so that ``data`` knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What a model was trained on, as far as it tells; None or () where it does not.

    Attributes:
        mean: of each channel, subtracted.
        std: by which the difference is divided.
        size: of the shorter side of its images.
        classes: names of its classes, in the order of the logits.
        source: who says so.

    Example:
        >>> Reading((0.5,), (0.5,), source="its checkpoint").fits(1), Reading().fits(1)
        (True, False)
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int | None = None
    classes: tuple[str, ...] = ()
    source: str = ""

    def fits(self, channels: int) -> bool:
        """Whether it says how images with that number of channels are normalised."""
        return len(self.mean) == len(self.std) == channels
