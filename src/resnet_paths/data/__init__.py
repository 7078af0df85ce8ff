"""Labelled images from the sources that analyses run on."""

from ._files import folder, zipped
from ._normalisation import CIFAR10_CLASSES
from ._npz import npz
from .images import ImageData
from .predictions import right
from .sources import cifar10, digits, load_data

__all__ = ["CIFAR10_CLASSES", "ImageData", "cifar10", "digits", "folder", "load_data", "npz", "right", "zipped"]
