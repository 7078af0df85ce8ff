"""How a model's images must be preprocessed, as far as the model specifies it.

timm, torchvision, Hugging Face and this library's checkpoints store it in four different ways. Sources of images take
it in this one form, so that ``data`` does not depend on ``models``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """The preprocessing that a model was trained with, as far as it is known; None or () where it is not.

    Attributes:
        mean: mean of each channel, which is subtracted.
        std: standard deviation of each channel, by which the difference is divided.
        size: length of the shorter side of its images.
        classes: its class names, in the order of the logits.
        source: origin of this information.

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
        """Whether the normalisation is known for this number of channels."""
        return len(self.mean) == len(self.std) == channels
