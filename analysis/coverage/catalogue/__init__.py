"""The models of the coverage table."""

from .entry import Entry
from .hugging_face import HUGGING_FACE
from .others import MEDICAL, OTHERS, PYTORCHCV, SEGMENTATION
from .vision import TIMM, TORCHVISION

ALL: list[Entry] = [*TORCHVISION, *TIMM, *HUGGING_FACE, *PYTORCHCV, *SEGMENTATION, *MEDICAL, *OTHERS]

__all__ = ["ALL", "Entry"]
