"""Models to study: the CIFAR ResNet family, and models from other libraries by name."""

from ..checkpoints.reading import load_state, read_checkpoint
from ._block import ZeroPadShortcut
from .checkpoint import load_checkpoint, save_checkpoint
from .cifar import CifarResNet, cifar_resnet
from .ensemble import Ensemble
from .load import base_of, load_model
from .reading import reading_of
from .stochastic_depth import StochasticDepth, linear_decay

__all__ = [
    "CifarResNet",
    "Ensemble",
    "StochasticDepth",
    "ZeroPadShortcut",
    "base_of",
    "cifar_resnet",
    "linear_decay",
    "load_checkpoint",
    "load_model",
    "load_state",
    "read_checkpoint",
    "reading_of",
    "save_checkpoint",
]
