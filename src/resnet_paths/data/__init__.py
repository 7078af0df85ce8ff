"""Labelled images from the sources that analyses run on."""

from .images import ImageData
from .sources import CIFAR10_CLASSES, cifar10, digits, folder, load_data, npz, zipped

__all__ = ["CIFAR10_CLASSES", "ImageData", "cifar10", "digits", "folder", "load_data", "npz", "zipped"]
