"""Images and inputs in memory, from every source that analyses run on."""

from ..choices import Split
from ._files import folder, zipped
from ._normalisation import CIFAR10_CLASSES
from ._npz import npz
from .adapter import ImageSource, as_batches, as_data
from .images import ImageData
from .predictions import right
from .reading import Reading
from .sources import cifar10, digits, has_parts, load_data

__all__ = [
    "CIFAR10_CLASSES",
    "ImageData",
    "ImageSource",
    "Reading",
    "Split",
    "as_batches",
    "as_data",
    "cifar10",
    "digits",
    "folder",
    "has_parts",
    "load_data",
    "npz",
    "right",
    "zipped",
]
