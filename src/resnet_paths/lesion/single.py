"""Deleting each unit in turn (Veit, Wilber and Belongie 2016, section 4.1 and figure 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..data import ImageData
from ..unroll import UnrolledNetwork
from ..unroll.fingerprint import fingerprint
from .evaluate import evaluate_gates
from .metrics import Metric, interval, metric_named


@dataclass(frozen=True, eq=False)
class SingleDeletions:
    """The metric with each unit deleted in turn.

    Attributes:
        names: the units.
        shortcuts: kind of each unit's shortcut.
        metric: name of the metric.
        whole: the metric of the whole network.
        whole_interval: its 95 % interval over images.
        values: (n,) the metric with each unit deleted.
        low: (n,) lower ends of their 95 % intervals.
        high: (n,) upper ends.
        per_image: (n + 1, images); row 0 is the whole network, row i + 1 the network without unit i.
        data: name of the data.
        model_fingerprint: of the model.
        data_fingerprint: of the data.
    """

    names: tuple[str, ...]
    shortcuts: tuple[str, ...]
    metric: str
    whole: float
    whole_interval: tuple[float, float]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    per_image: np.ndarray
    data: str
    model_fingerprint: str
    data_fingerprint: str

    @property
    def damage(self) -> np.ndarray:
        """How much the metric rises with each unit deleted."""
        return self.values - self.whole

    def least(self, count: int) -> list[int]:
        """The units that do the least damage when deleted alone."""
        return [int(index) for index in np.argsort(self.values, kind="stable")[:count]]

    def to_pandas(self) -> pd.DataFrame:
        """One row a unit."""
        return pd.DataFrame(
            {
                "unit": range(len(self.names)),
                "name": self.names,
                "shortcut": self.shortcuts,
                self.metric: self.values,
                "low": self.low,
                "high": self.high,
                "damage": self.damage,
            }
        )


def single_deletions(
    net: UnrolledNetwork,
    data: ImageData,
    *,
    metric: str | Metric = "error",
    batch_size: int = 100,
    fast: bool = True,
    progress: bool = True,
) -> SingleDeletions:
    """The metric of a network with each of its units deleted in turn.

    Veit, Wilber and Belongie (2016), section 4.1: deleting a unit of a ResNet does little, deleting a layer of a
    plain network destroys it; units that change the shape of the stream do the most damage.

    Args:
        net: the network, in eval mode; its model is not changed.
        data: labelled images.
        metric: ``error``, ``loss``, ``top5_error``, ``disagreement`` (with the whole network), or a function of
            logits, labels and the whole network's logits that gives one value an image.
        batch_size: images at a time.
        fast: see :func:`evaluate_gates`.
        progress: show a progress bar on a terminal.

    Returns:
        The record, with intervals over images.

    Cost: about n/2 + 1 forward passes for n units.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = single_deletions(net, digits("test").subset(slice(0, 40)))
        >>> result.values.shape
        (27,)
    """
    name, function = metric_named(metric)
    gates = torch.cat([torch.ones(1, len(net)), 1 - torch.eye(len(net))])
    values = evaluate_gates(net, data, gates, function, batch_size=batch_size, fast=fast, progress=progress)
    ends = np.array([interval(row) for row in values])
    means = values.mean(1)
    return SingleDeletions(
        names=tuple(unit.name for unit in net),
        shortcuts=tuple(unit.shortcut for unit in net),
        metric=name,
        whole=float(means[0]),
        whole_interval=(float(ends[0, 0]), float(ends[0, 1])),
        values=means[1:],
        low=ends[1:, 0],
        high=ends[1:, 1],
        per_image=values,
        data=data.name,
        model_fingerprint=fingerprint(net.model),
        data_fingerprint=data.fingerprint,
    )
