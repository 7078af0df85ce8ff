"""Per-image depth: a network without some blocks answers first; the full network takes over where that is unsure.

Both networks are identical up to the first block that differs, so the full network continues from the state that the
small one has computed there. The confidence required of the small network is set on held-out images, which bounds the
share of images whose answer differs from the full network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import INSIDE
from ..data import ImageSource
from ..data.inputs import Inputs, as_inputs, placed_input
from ..network import BlockRef, State, Twins, UnrolledNetwork, for_inference
from ..statistics import share_at_most
from ..surgery import RefitResult, RefitSettings, Refitter
from ..surgery.shared_weights import share_weights
from ..warned import warn
from .goals import Disagreement

LEVELS = (*(1 - k / 1000 for k in range(1, 10)), *(1 - k / 100 for k in range(1, 100)), 0.0)
"""Margins tried as thresholds, from 0.999 down to 0. They are fixed before any image is seen, so that testing them in
sequence needs no correction for multiplicity (Bauer 1991: each test is made at the full level, and the first failure
ends the sequence). They are denser near 1, where confident networks have most of their margins."""


@dataclass(frozen=True)
class Threshold:
    """When the small network's answer is accepted, and what is known about it.

    Attributes:
        margin: minimum difference between the two largest probabilities for an answer to be accepted; infinite: never.
        disagreement: share of images whose answer differs from the full network's.
        at_most: upper confidence bound on that share.
        answered: share of images answered by the small network.
        images: number of images.
        confidence: confidence of the bound.
    """

    margin: float
    disagreement: float
    at_most: float
    answered: float
    images: int
    confidence: float


@checked(disagreement=INSIDE, confidence=INSIDE)
def cascade_threshold(
    margins: np.ndarray, same: np.ndarray, *, disagreement: float = 0.01, confidence: float = 0.95
) -> Threshold:
    """The smallest margin at which the disagreement is shown to be at most a given share.

    Thresholds are tried from large to small, in a fixed order. Each is accepted if the exact binomial upper bound
    (Clopper and Pearson 1934) on the share of images that the small network answers differently from the full one is at
    most `disagreement`; the first that is not ends the sequence. So the probability that the returned threshold has a
    larger disagreement is at most ``1 - confidence``.

    Args:
        margins: margins of the small network on held-out images: largest minus second largest probability, (images,).
        same: whether its answer equals the full network's, (images,).
        disagreement: share of images that may get another answer.
        confidence: probability that it is not exceeded.

    Returns:
        The threshold; its margin is infinite if nothing can be shown, so that all images go to the full network.

    Raises:
        ValueError: the arrays do not match.

    Source: Bauer (1991) for tests in a fixed sequence; Angelopoulos et al. (2021), "Learn then Test", for thresholds
    chosen in this way.

    Example:
        >>> margins = np.linspace(0, 1, 1000)
        >>> threshold = cascade_threshold(margins, margins > 0.05, disagreement=0.02)
        >>> 0 < threshold.margin < 0.06, threshold.at_most <= 0.02
        (True, True)
    """
    margins, same = np.asarray(margins, float), np.asarray(same, bool)
    if margins.ndim != 1 or margins.shape != same.shape or not len(margins):
        raise ValueError(f"expected one margin and one answer per example, got {margins.shape} and {same.shape}")
    count = len(margins)
    accepted = Threshold(float("inf"), 0.0, 0.0, 0.0, count, confidence)
    for level in LEVELS:
        answered = margins >= level
        wrong = int((answered & ~same).sum())
        at_most = share_at_most(wrong, count, confidence)
        if at_most > disagreement:
            break
        accepted = Threshold(level, wrong / count, at_most, float(answered.mean()), count, confidence)
    return accepted


class Cascade(nn.Module):
    """The small network where it is confident, the full network elsewhere.

    Called with a batch, it returns logits, for each image those of the network that answered it.

    Attributes:
        threshold: when the small network's answer is accepted.
        refit: how the small network was repaired.
        shared: number of blocks that run once for both networks.
        own_weights: number of weights that the small network does not share with the full one.
        deferred: whether each image of the last call was passed to the full network.
    """

    def __init__(self, full: UnrolledNetwork, small: UnrolledNetwork, refit: RefitResult) -> None:
        super().__init__()
        self.own_weights = share_weights(small.model, full.model)
        self.full_model, self.small_model = full.model, small.model
        self.refit = refit
        self.threshold = Threshold(float("inf"), 0.0, 0.0, 0.0, 0, 0.95)
        self.deferred = torch.zeros(0, dtype=torch.bool, device="cpu")
        self._full, self._small = full, small
        self._twins = Twins(full, small)
        changed = [full.index(name) for name in (*refit.dropped, *(fitted.block for fitted in refit.blocks))]
        self.shared = min(changed, default=len(full))
        self._gates = [0.0 if block.name in refit.dropped else 1.0 for block in full]
        self._rows_are_images = False

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"threshold": self.threshold, "_rows_are_images": self._rows_are_images}
        return Cascade, (self._full, self._small, self.refit), state

    def forward(self, x: Any) -> torch.Tensor:
        """The logits, (batch, classes)."""
        x = placed_input(x, self.full_model)
        with torch.inference_mode():
            state = self._prefix(x)
            small = self._small_from(state)
            unsure = margin(small) < self.threshold.margin
            self.deferred = unsure
            if not bool(unsure.any()):
                return small
            if bool(unsure.all()):
                return self._full.run(state).value
            logits = small.clone()
            logits[unsure] = self._full.run(self._of_images(state, x, unsure)).value
            return logits

    def small(self, x: Any) -> torch.Tensor:
        """The small network's logits."""
        with torch.inference_mode():
            return self._small_from(self._prefix(placed_input(x, self.full_model)))

    def full(self, x: Any) -> torch.Tensor:
        """The full network's logits."""
        with torch.inference_mode():
            return self._full(placed_input(x, self.full_model))

    def calibrate(
        self, images: ImageSource | torch.Tensor, *, disagreement: float = 0.01, confidence: float = 0.95
    ) -> Threshold:
        """Set the threshold on held-out images; see :func:`cascade_threshold`.

        Warns if no threshold can be shown to suffice, so that all images are passed to the full network.
        """
        inputs = as_inputs(images, self.full_model)
        margins, same = [], []
        with torch.inference_mode():
            self._rows_are_images = all(self._has_rows(inputs, count) for count in (2, 3))
            for x in inputs.batches(100):
                state = self._prefix(placed_input(x, self.full_model))
                small, full = self._small_from(state), self._full.run(state).value
                margins.append(margin(small).double().cpu())
                same.append((small.argmax(1) == full.argmax(1)).cpu())
        self.threshold = cascade_threshold(
            torch.cat(margins).numpy(), torch.cat(same).numpy(), disagreement=disagreement, confidence=confidence
        )
        if math.isinf(self.threshold.margin):
            goal = Disagreement(disagreement, confidence)
            needed = goal.least_images
            warn(
                f"all inputs are passed to the full network: {inputs.count} of them do not show that {goal}; "
                + (f"give at least {needed}" if inputs.count < needed else "drop fewer blocks, or allow more")
            )
        return self.threshold

    def _prefix(self, x: Any) -> State:
        """The state up to which both networks are identical; the output itself if nothing is dropped."""
        return self._full.run(self._full.stem(x), stop=self.shared)

    def _small_from(self, state: State) -> torch.Tensor:
        return self._small.run(self._twins(state), self._gates).value

    def _has_rows(self, inputs: Inputs, count: int) -> bool:
        """Whether everything carried from one network to the other has one row per image."""
        if inputs.count < count:
            return False
        state = self._prefix(placed_input(inputs.take(slice(0, count)), self.full_model))
        values = [state.value, *state.side.values()]
        return all(isinstance(value, torch.Tensor) and value.ndim and len(value) == count for value in values)

    def _of_images(self, state: State, x: Any, selected: torch.Tensor) -> State:
        """The state of some images of the batch.

        If the rows of all carried values are images, which `calibrate` checks at two batch sizes, they are selected.
        Otherwise (tokens before images, a size, a mask for all) rows may be something else of the same number, so the
        state is recomputed.
        """
        if self._rows_are_images:
            side = {node: value[selected] for node, value in state.side.items()}
            return State(state.index, state.value[selected], side, state.plan)
        return self._prefix(Inputs(x, len(selected)).take(selected))


def margin(logits: torch.Tensor) -> torch.Tensor:
    """The largest minus the second largest probability, (batch,); -1 for NaN logits.

    Raises:
        ValueError: these are not logits of at least two classes.

    Example:
        >>> margin(torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"expected logits of shape (batch, classes) with at least two classes, got {tuple(logits.shape)}"
        )
    best = logits.float().softmax(1).topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).nan_to_num(-1.0)


@checked(disagreement=INSIDE, confidence=INSIDE)
def cascade(
    net: UnrolledNetwork,
    dropped: Sequence[BlockRef] | BlockRef,
    images: ImageSource | torch.Tensor,
    certify: ImageSource | torch.Tensor,
    *,
    disagreement: float = 0.01,
    confidence: float = 0.95,
    settings: RefitSettings | None = None,
) -> Cascade:
    """A network that runs some of its blocks only for images on which it is unsure without them.

    Args:
        net: a network that outputs logits, in eval mode; neither it nor its model is changed.
        dropped: blocks that the small network lacks; the later the first of them, the more both networks share.
        images: calibration images for refitting the small network; no labels needed.
        certify: held-out images like those expected in use, on which the threshold is set; no labels needed.
        disagreement: share of images whose answer may differ from the full network's.
        confidence: probability that it is not exceeded.
        settings: settings of the refit.

    Returns:
        The module, over copies of the model with batch norms folded.

    Raises:
        NotDroppableError: a block cannot be dropped.
        ValueError: the network does not output logits of at least two classes.

    Warns if no threshold can be shown to suffice: there are too few images, or the networks differ too much.

    Cost: a refit, and one forward pass of `certify` by each network.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> data = load_data("digits", "train")
        >>> net = unroll(load_model("embedded"))
        >>> model = cascade(net, [12, 20], data.sample(80), data.subset(slice(800, 1200)), disagreement=0.02)
        >>> model(data.x[:5]).shape, model.shared, model.threshold.at_most <= 0.02
        (torch.Size([5, 10]), 11, True)
    """
    refit = Refitter(net, images, settings=settings)(dropped)
    full, copy = for_inference(net), for_inference(net, fold=False)
    missing = copy.model.load_state_dict(refit.model.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"expected the weights of the model, got the additional {missing.unexpected_keys[0]}")
    model = Cascade(full, for_inference(copy), refit)
    model.calibrate(certify, disagreement=disagreement, confidence=confidence)
    return model
