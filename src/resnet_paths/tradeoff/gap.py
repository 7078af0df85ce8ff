"""Whether images are of the kind on which a model's batch-norm statistics were measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageData, ImageSource, as_data
from ..graph.private_copy import private_copy
from ..network.norms import tracking_norms
from ..records import Record
from ..surgery import recalibrate_batchnorm
from ..tables import data_frame
from ..training import augmented

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StatisticsGap(Record):
    """The difference between the stored statistics of batch norms and those of some images.

    Attributes:
        norms: names of the batch norms, in the model's order.
        shift: mean over channels of ``|mean' - mean| / sd``, per norm.
        scale: mean over channels of ``|log(var' / var)|``, per norm.
    """

    DIMENSIONS: ClassVar = {"shift": "norm", "scale": "norm"}
    COORDINATES: ClassVar = {"norm": "norms"}

    norms: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The shift averaged over norms, in standard deviations."""
        return sum(self.shift) / max(1, len(self.shift))

    def to_pandas(self) -> pd.DataFrame:
        """One row per batch norm."""
        return data_frame({"norm": self.norms, "shift": self.shift, "scale": self.scale})


@checked
def statistics_gap(model: nn.Module, batches: ImageSource, *, max_batches: int | None = None) -> StatisticsGap:
    """Compare the stored batch-norm statistics with those of images.

    A copy of the full model is recalibrated on the images and compared with the model. Images of another kind (not
    shifted and mirrored as in training, compressed, normalised differently) show up as a gap; recalibration on them
    would cost accuracy before a single block is dropped.

    Args:
        model: the full model; left unchanged.
        batches: see :func:`recalibrate_batchnorm`.
        max_batches: maximum number of batches to use.

    Raises:
        ValueError: the model has batch norms, but there are no batches.

    Cost: one forward pass per batch.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> round(statistics_gap(norm, [torch.tensor([[1.0], [3.0]])]).mean, 3)
        2.0
    """
    other = private_copy(model)
    if not tracking_norms(model):
        return StatisticsGap((), (), ())
    recalibrate_batchnorm(other, batches, max_batches=max_batches)
    new, shift, scale = tracking_norms(other), [], []
    for name, old in tracking_norms(model).items():
        mean, var = _moments(old)
        new_mean, new_var = _moments(new[name])
        shift.append(float(((new_mean - mean).abs() / var.sqrt()).mean()))
        scale.append(float((new_var / var).log().abs().mean()))
    return StatisticsGap(tuple(new), tuple(shift), tuple(scale))


@checked
def as_in_training(
    model: nn.Module, data: ImageSource, *, shift: int | None = None, copies: int = 1, images: int = 500, seed: int = 0
) -> ImageData:
    """Images augmented as in the model's training, as far as its batch-norm statistics show.

    A model's file rarely says how it was trained, but its batch norms remember it: of the four variants (shifted or
    not, mirrored or not), the one with the smallest :attr:`StatisticsGap.mean` is used.

    Args:
        model: the full model; left unchanged.
        data: training images.
        shift: maximum shift in pixels to try (default: an eighth of the width, 4 for CIFAR-10).
        copies: number of passes over the images, each shifted and mirrored anew; one if they are left unchanged.
        images: maximum number of random images that the choice is based on.
        seed: seed of all random draws.

    Returns:
        The images, whose name says what was done to them; for a model without batch norms, `data` itself.

    Cost: four forward passes over `images`.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> as_in_training(load_model("embedded"), digits("train"), images=300).name
        'digits (train), shifted by up to 1 pixels'
    """
    data = as_data(data, labelled=False)
    if not tracking_norms(model):
        return data
    shift = data.images.shape[-1] // 8 if shift is None else shift
    sample = data.subset(data.random_order(seed)[:images])  # in random order, since files are often sorted by class
    variants = [(pixels, flip) for pixels in dict.fromkeys((0, shift)) for flip in (False, True)]
    gaps = [statistics_gap(model, augmented(sample, pixels, flip, seed=seed)).mean for pixels, flip in variants]
    pixels, flip = variants[gaps.index(min(gaps))]
    if not (pixels or flip):
        return data
    changes = [f"shifted by up to {pixels} pixels"] * (pixels > 0) + ["mirrored"] * flip
    return replace(
        augmented(data, pixels, flip, copies=copies, seed=seed), name=f"{data.name}, {' and '.join(changes)}"
    )


def _moments(norm: nn.modules.batchnorm._BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    return cast(torch.Tensor, norm.running_mean).double(), cast(torch.Tensor, norm.running_var).double() + norm.eps
