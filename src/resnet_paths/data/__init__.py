"""Images and data of any form in memory, from every source that analyses run on."""

from ..choices import Split
from . import explained  # noqa: F401  # explains what models raise about data
from ._files import folder, zipped
from ._normalisation import CIFAR10_CLASSES
from ._npz import npz
from .adapter import ImageSource, as_batches, as_data
from .any_data import as_examples
from .examples import Examples
from .images import ImageData
from .in_memory import InMemory
from .metric import ExampleMetric
from .predictions import right
from .reading import Reading
from .sources import cifar10, digits, has_parts, load_data, load_examples

__all__ = [
    "CIFAR10_CLASSES",
    "ExampleMetric",
    "Examples",
    "ImageData",
    "ImageSource",
    "InMemory",
    "Reading",
    "Split",
    "as_batches",
    "as_data",
    "as_examples",
    "cifar10",
    "digits",
    "folder",
    "has_parts",
    "load_data",
    "load_examples",
    "npz",
    "right",
    "zipped",
]
