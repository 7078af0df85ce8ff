"""The networks made by switching the last blocks on and off, as one ensemble that votes.

Veit et al. (2016) read a residual network as an ensemble of its paths. An ensemble of trained networks gives more than
a better mean: the disagreement of its members measures its uncertainty. Here the members are the network's own
subnetworks, so that it takes only a few passes to find out whether they can do the same;
docs/explanation/mathematics.md says what is computed, analysis/ensembles/path_ensemble.md whether it helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch

from ..arguments import Range, checked
from ..choices import MetricName
from ..data import ImageData, ImageSource, as_data
from ..data.metrics import Metric, bound_of, metric_named
from ..graph.eval_mode import check_eval
from ..graph.inputs import placed
from ..network import Evaluations, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import intervals
from ..tables import data_frame
from .coalitions import all_coalitions
from .evaluate import add_pieces, over_batches, quick
from .game import MOST_EXHAUSTIVE
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PathEnsemble(Record):
    """The mean prediction of the 2^k networks with the last k blocks on or off, and how far they disagree.

    Attributes:
        names: the blocks that are switched.
        blocks: their indices.
        keep: the probability that a block is on, (k,).
        scaled: whether a branch that is on is divided by its probability.
        members: number of networks with a weight above zero.
        probabilities: the mean prediction, (images, classes).
        single: the prediction of the network itself, (images, classes).
        entropy: entropy of the mean prediction in nats, (images,).
        member_entropy: mean entropy of the members' own predictions, (images,).
        labels: (images,); -1 if unknown.
        evaluations: number of network pieces run for the members, over all batches of images.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "keep": "block",
        "probabilities": "image class",
        "single": "image class",
        "entropy": "image",
        "member_entropy": "image",
        "labels": "image",
    }
    COORDINATES: ClassVar = {"block": "names"}

    names: tuple[str, ...]
    blocks: tuple[int, ...]
    keep: np.ndarray
    scaled: bool
    members: int
    probabilities: np.ndarray
    single: np.ndarray
    entropy: np.ndarray
    member_entropy: np.ndarray
    labels: np.ndarray
    evaluations: Evaluations
    source: Provenance = field(repr=False)

    @property
    def disagreement(self) -> np.ndarray:
        """Mutual information of prediction and member in nats, (images,): zero where all members predict the same.

        ``H(mean of p_S) - mean of H(p_S)``, the mean divergence of a member from the mean prediction.
        """
        return np.asarray(np.maximum(self.entropy - self.member_entropy, 0.0))

    def by_image(self, metric: MetricName | Metric = "loss") -> np.ndarray:
        """A metric of the network itself (row 0) and of the mean prediction (row 1) on each image, (2, images).

        Args:
            metric: see :func:`single_deletions`; its third argument is the network itself.
        """
        single, mean = (torch.from_numpy(values).log() for values in (self.single, self.probabilities))
        labels, function = torch.from_numpy(self.labels), metric_named(metric)[1]
        return np.stack([function(logits, labels, single).numpy() for logits in (single, mean)]).astype(float)

    def difference(self, metric: MetricName | Metric = "loss", confidence: float = 0.95) -> tuple[float, float, float]:
        """How much larger a metric is for the mean prediction than for the network itself: mean, low and high.

        The interval is paired by image (:func:`resnet_paths.statistics.intervals`); below zero, the ensemble helps.
        """
        values = self.by_image(metric)
        low, high = intervals(values[1:], confidence, reference=values[0], bound=bound_of(metric_named(metric)[0]))
        return float((values[1] - values[0]).mean()), float(low[0]), float(high[0])

    def to_pandas(self) -> pd.DataFrame:
        """One row per image."""
        return data_frame(
            {
                "label": self.labels,
                "prediction": self.probabilities.argmax(1),
                "probability": self.probabilities.max(1),
                "single_prediction": self.single.argmax(1),
                "single_probability": self.single.max(1),
                "entropy": self.entropy,
                "disagreement": self.disagreement,
            }
        )


@checked(last=Range(0, MOST_EXHAUSTIVE))
def path_ensemble(
    net: UnrolledNetwork,
    data: ImageSource,
    last: int,
    *,
    keep: float | Sequence[float] = 0.5,
    scaled: bool = False,
    **options: Unpack[StudyOptions],
) -> PathEnsemble:
    """The mean prediction of all 2^k networks with the last k blocks on or off, and their disagreement.

    ``p(x) = Σ_S w_S softmax f_S(x)`` over the sets S of the last k blocks that are on, with the weights of independent
    draws, ``w_S = Π_{i in S} q_i Π_{i not in S} (1 - q_i)``; q = 1/2 weights all subsets equally. A network trained
    with stochastic depth has been trained as such an ensemble: give the probabilities of its blocks as `keep` and set
    `scaled`, so that its branches have the size they had in training.

    Args:
        net: the network, in eval mode; its output is logits, (batch, classes).
        data: images, with or without labels; anything that :func:`~resnet_paths.data.as_data` reads.
        last: k, the number of blocks at the end that are switched.
        keep: the probability q that a block is on, one for all or one for each of the k blocks.
        scaled: divide the branch of a block that is on by q, so that its gate has mean 1.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: the network has fewer blocks, a probability is outside 0 to 1, or the output is not
            (batch, classes).

    Cost: for each batch, one forward pass of the network itself, n - k + 2^k - 1 branches and 2^k heads, instead of
    2^k forward passes. Memory: the states of at most k + 1 prefixes and one prediction for each image.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> ensemble = path_ensemble(net, digits("test").subset(slice(0, 20)), 3, keep=0.9, progress=False)
        >>> ensemble.members, ensemble.evaluations.branches, ensemble.disagreement.shape
        (8, 31, (20,))
    """
    data = as_data(data, labelled=False)
    check_eval(net.model)
    if last > len(net):
        raise ValueError(f"expected at most the network's {len(net)} blocks to switch, got last={last}")
    probabilities = _keep(keep, last)
    gates, weights = _members(probabilities, len(net), scaled)
    run = Running(**options)
    runner, count = quick(net, run.fast), Evaluations()
    parts = []
    for sums in over_batches(_batch, (runner, data, gates, weights), len(data), run):
        add_pieces(count, sums.pop("pieces"))
        parts.append(sums)
    single, mean, member_entropy = (
        np.concatenate([part[name] for part in parts]) for name in ("single", "mean", "member_entropy")
    )
    return PathEnsemble(
        names=tuple(block.name for block in net.blocks[len(net) - last :]),
        blocks=tuple(range(len(net) - last, len(net))),
        keep=probabilities,
        scaled=scaled,
        members=len(weights),
        probabilities=mean,
        single=single,
        entropy=entropies(mean),
        member_entropy=member_entropy,
        labels=data.labels.cpu().numpy(),
        evaluations=count,
        source=provenance(net.model, data),
    )


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """Entropies in nats over the last dimension.

    Example:
        >>> entropies(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
        [0.0, 0.693]
    """
    return entropy_of(torch.from_numpy(probabilities)).numpy()


def entropy_of(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropies in nats over the last dimension, where 0 log 0 is 0."""
    entropy: torch.Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy


def _keep(keep: float | Sequence[float], last: int) -> np.ndarray:
    each = np.full(last, keep) if isinstance(keep, int | float) else np.asarray(keep, float)
    if each.shape != (last,):
        raise ValueError(f"expected one probability or one for each of the last {last} blocks, got {each.shape[0]}")
    return each.astype(float)


def _members(keep: np.ndarray, blocks: int, scaled: bool) -> tuple[torch.Tensor, np.ndarray]:
    """Gates (members, blocks) and weights (members,) of the networks that are drawn with a probability above zero."""
    on = all_coalitions(len(keep)) if len(keep) else np.ones((1, 0), int)
    weights = np.where(on, keep, 1 - keep).prod(1)
    gates = np.ones((len(on), blocks))
    size = np.divide(1.0, keep, out=np.ones_like(keep), where=keep > 0) if scaled else 1.0
    gates[:, blocks - len(keep) :] = on * size
    drawn = weights > 0
    return torch.from_numpy(gates[drawn]), weights[drawn]


def _batch(
    point: dict[str, int], context: tuple[UnrolledNetwork, ImageData, torch.Tensor, np.ndarray], seed: int
) -> dict[str, Any]:
    """The predictions of one batch of images; only sums are kept of the members."""
    runner, data, gates, weights = context
    x, count = placed(data.subset(slice(point["start"], point["stop"])).x, runner.model), Evaluations()
    with torch.inference_mode():
        single = _predicted(runner(x))
        mean, member_entropy = torch.zeros_like(single), torch.zeros(len(single), dtype=single.dtype, device="cpu")
        for row, logits in runner.iterate(x, gates, count=count):
            member = _predicted(logits)
            mean += weights[row] * member
            member_entropy += weights[row] * entropy_of(member)
    return {
        "single": single.numpy(),
        "mean": mean.numpy(),
        "member_entropy": member_entropy.numpy(),
        "pieces": np.array(astuple(count)),
    }


def _predicted(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities (batch, classes) in float64 on the CPU."""
    if logits.ndim != 2:
        raise ValueError(f"expected a network with logits (batch, classes), got an output of {tuple(logits.shape)}")
    return logits.cpu().double().softmax(1)
