"""Whether images are those on which a model's batch-norm statistics were measured."""

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
    """How far the statistics that batch norms keep are from those of some images.

    Attributes:
        norms: names of the batch norms, in the model's order.
        shift: of each, the mean over channels of ``|mean' - mean| / sd``.
        scale: of each, the mean over channels of ``|log(var' / var)|``.
    """

    DIMENSIONS: ClassVar = {"shift": "norm", "scale": "norm"}
    COORDINATES: ClassVar = {"norm": "norms"}

    norms: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over norms of the shift, in standard deviations."""
        return sum(self.shift) / max(1, len(self.shift))

    def to_pandas(self) -> pd.DataFrame:
        """One row a batch norm."""
        return data_frame({"norm": self.norms, "shift": self.shift, "scale": self.scale})


@checked
def statistics_gap(model: nn.Module, batches: ImageSource, *, max_batches: int | None = None) -> StatisticsGap:
    """Whether images are such as the stored batch-norm statistics were measured on.

    A copy of the full model is recalibrated on the images and compared with the model. Images of another kind (not
    shifted and mirrored as in training, compressed, of another normalisation) show as a gap, and recalibration on them
    would cost accuracy before a single block is dropped.

    Args:
        model: the full model; left as it is.
        batches: see :func:`recalibrate_batchnorm`.
        max_batches: use at most this many.

    Raises:
        ValueError: there are batch norms, and no batches.

    Cost: one forward pass a batch.

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
    """Images moved and mirrored, or not, whichever comes closest to the statistics that the model keeps.

    What a model was trained with is rarely written in its file, but its batch norms remember it: of the four
    variants (moved or not, mirrored or not) the one with the smallest :attr:`StatisticsGap.mean` is taken.

    Args:
        model: the full model; left as it is.
        data: training images.
        shift: pixels by which images may have been moved (default: an eighth of the width, 4 for CIFAR-10).
        copies: passes over the images, each moved and mirrored anew; one where they are left as they are.
        images: at most this many, drawn at random, decide.
        seed: of what is drawn.

    Returns:
        The images; their name says what was done to them. A model without batch norms: `data` itself.

    Cost: four forward passes over `images`.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> as_in_training(load_model("embedded"), digits("train"), images=300).name
        'digits (train), moved by up to 1 pixels'
    """
    data = as_data(data, labelled=False)
    if not tracking_norms(model):
        return data
    shift = data.images.shape[-1] // 8 if shift is None else shift
    some = data.subset(data.random_order(seed)[:images])  # files come sorted by class
    variants = [(pixels, flip) for pixels in dict.fromkeys((0, shift)) for flip in (False, True)]
    gaps = [statistics_gap(model, augmented(some, pixels, flip, seed=seed)).mean for pixels, flip in variants]
    pixels, flip = variants[gaps.index(min(gaps))]
    if not (pixels or flip):
        return data
    done = [f"moved by up to {pixels} pixels"] * (pixels > 0) + ["mirrored"] * flip
    return replace(augmented(data, pixels, flip, copies=copies, seed=seed), name=f"{data.name}, {' and '.join(done)}")


def _moments(norm: nn.modules.batchnorm._BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    return cast(torch.Tensor, norm.running_mean).double(), cast(torch.Tensor, norm.running_var).double() + norm.eps
