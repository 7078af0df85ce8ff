"""Shared by the studies in this folder: the reference networks, their images, and how accuracy is counted."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnet_paths.data import ImageData, load_data
from resnet_paths.models import load_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those that the reference networks were trained with."""


def load_images(folder: Path, name: str, split: str, limit: int | None = None) -> ImageData:
    """A split of cifar10_sample.npz (original pixels) or cifar10_jpeg.zip; with a limit, the first few."""
    return load_data(str(folder / name), split, mean=MEAN, std=STD, limit=limit)


def load_network(folder: Path, depth: int, device: str = "cpu") -> nn.Module:
    """The reference network of a depth, in eval mode."""
    return load_model(str(folder / f"resnet{depth}_cifar10_option_a.safetensors")).eval().to(device)


def right(model: nn.Module, data: ImageData) -> np.ndarray:
    """Whether each image is classified correctly."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        each = [model(x.to(device)).argmax(1).cpu() == labels for x, labels in data.batches(100)]
    return torch.cat(each).numpy().astype(float)
