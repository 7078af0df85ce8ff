"""The images that a network classifies correctly, but not without some of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Unpack

import numpy as np
import torch

from ..arguments import checked
from ..data import ImageSource, as_data
from ..data.thumbnails import thumbnails
from ..network import BlockRef
from ..provenance import Provenance, provenance
from ..records import Record
from ..tables import data_frame
from .evaluate import Network, deletion_gates, evaluate_gates, quick
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

_PIXELS = 64  # per side of a picture: sharp at thumbnail size


@dataclass(frozen=True, eq=False)
class TurnedImages(Record):
    """Images that become misclassified when blocks are deleted, with the predictions before and after.

    Attributes:
        dropped: names of the deleted blocks.
        classes: class names.
        images: number of images that the network was run on.
        full_right: number of these that the full network gets right.
        indices: which images become misclassified, sorted by the full network's confidence, highest first, (turned,).
        labels: their classes, which the full network predicts, (turned,).
        confidence: probability that the full network gives to its prediction, (turned,).
        predictions: classes predicted without the blocks, (turned,).
        changed_confidence: probability that the network without the blocks gives to its own prediction, (turned,).
        pictures: small pictures of the images, (turned, height, width, 3) bytes.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "labels": "image",
        "confidence": "image",
        "predictions": "image",
        "changed_confidence": "image",
        "pictures": "image row column channel",
    }
    COORDINATES: ClassVar = {"image": "indices"}

    dropped: tuple[str, ...]
    classes: tuple[str, ...]
    images: int
    full_right: int
    indices: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    predictions: np.ndarray
    changed_confidence: np.ndarray
    pictures: np.ndarray
    source: Provenance = field(repr=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per image that becomes misclassified."""
        return data_frame(
            {
                "image": self.indices,
                "label": [self.classes[label] for label in self.labels],
                "confidence": self.confidence,
                "prediction": [self.classes[label] for label in self.predictions],
                "changed_confidence": self.changed_confidence,
            }
        )


@checked
def turned_images(
    net: Network, data: ImageSource, dropped: Sequence[BlockRef], **options: Unpack[StudyOptions]
) -> TurnedImages:
    """The images that the full network classifies correctly, but not without some blocks.

    Args:
        net: the network, in eval mode; its model is not changed.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        dropped: indices or names of the blocks to delete.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        The images, with both predictions and their confidences.

    Cost: two forward passes, whose common first blocks run once, and two more over the images found.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> net = unroll(load_model("embedded"))
        >>> turned = turned_images(net, load_data("digits", limit=40), ["layer1.0"], progress=False)
        >>> turned.to_pandas().columns.tolist()
        ['image', 'label', 'confidence', 'prediction', 'changed_confidence']
    """
    data = as_data(data, labelled=True)
    blocks = net.indices(list(dropped))
    run = Running(**options)
    runner = quick(net, run.fast)
    gates = deletion_gates([[], blocks], len(net))
    once: StudyOptions = {**options, "fast": False}  # prepared above
    full, changed = evaluate_gates(runner, data, gates, _prediction, **once)
    labels = data.labels.cpu().numpy()
    turned = np.flatnonzero((full == labels) & (changed != labels))
    certain = np.zeros((2, 0))
    if len(turned):
        quiet = StudyOptions(batch_size=run.batch_size, fast=False, progress=False)
        certain = evaluate_gates(runner, data.subset(turned.tolist()), gates, _confidence, **quiet)
        order = np.argsort(-certain[0], kind="stable")
        turned, certain = turned[order], certain[:, order]
    images = data.images[torch.as_tensor(turned, device=data.images.device)]
    return TurnedImages(
        dropped=tuple(net[block].name for block in blocks),
        classes=data.classes,
        images=len(data),
        full_right=int((full == labels).sum()),
        indices=turned,
        labels=labels[turned],
        confidence=certain[0],
        predictions=changed[turned].astype(int),
        changed_confidence=certain[1],
        pictures=thumbnails(images, _PIXELS) if len(turned) else np.zeros((0, 1, 1, 3), np.uint8),
        source=provenance(net.model, data),
    )


def _prediction(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """The predicted class; -1 if a logit is NaN, which predicts nothing."""
    return logits.argmax(-1).masked_fill(logits.isnan().any(-1), -1).double()


def _confidence(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(-1).amax(-1)
