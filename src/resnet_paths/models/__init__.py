"""Models to study: the CIFAR ResNet family, and models of other libraries by name."""

from ._unit import ZeroPadShortcut
from .checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from .cifar import CifarResNet, cifar_resnet
from .load import load_model

__all__ = [
    "CifarResNet",
    "ZeroPadShortcut",
    "cifar_resnet",
    "load_checkpoint",
    "load_model",
    "read_checkpoint",
    "save_checkpoint",
]
