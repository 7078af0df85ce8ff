"""Per-image depth: a network without some blocks answers first; the full network takes over where it is unsure.

The two are identical up to the first block that differs, so the full network continues from what the small one has
computed up to there. How confident the small network must be is set on held-out images, which bounds the share of
images whose answer differs from the full network's.
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
"""Margins that are tried as thresholds, from 0.999 down to 0: fixed before any image is seen, so that the tests of
the sequence need no correction for their number (Bauer 1991: each is made at the full level, and the first that fails
ends it)."""


@dataclass(frozen=True)
class Threshold:
    """When the small network's answer is taken, and what is known of it.

    Attributes:
        margin: it is taken where the two largest probabilities are at least this far apart; infinite: never.
        disagreement: the share of the images whose answer differs from the full network's.
        at_most: an upper confidence bound on that share.
        answered: the share of the images on which the small network answers.
        images: the number of images.
        confidence: of the bound.
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

    Thresholds are tried from large to small, in an order fixed beforehand. Each is accepted if the exact binomial upper
    bound (Clopper and Pearson 1934) on the share of images answered by the small network, and otherwise than by the
    full one, is at most `disagreement`; the first that is not ends the sequence. So the probability that the threshold
    returned has a larger disagreement is at most ``1 - confidence``.

    Args:
        margins: of the small network on images that chose nothing: largest probability less the second, (images,).
        same: whether its answer is the full network's, (images,).
        disagreement: the share of images that may get another answer.
        confidence: probability that it is no more.

    Returns:
        The threshold; its margin is infinite where nothing can be shown, and all images go to the full network.

    Raises:
        ValueError: arrays that do not match.

    Source: Bauer (1991) for tests in a fixed sequence; Angelopoulos et al. (2021), "Learn then Test", for such choices
    of thresholds.

    Example:
        >>> margins = np.linspace(0, 1, 1000)
        >>> found = cascade_threshold(margins, margins > 0.05, disagreement=0.02)
        >>> 0 < found.margin < 0.06, found.at_most <= 0.02
        (True, True)
    """
    margins, same = np.asarray(margins, float), np.asarray(same, bool)
    if margins.ndim != 1 or margins.shape != same.shape or not len(margins):
        raise ValueError(f"expected a margin and an answer for each image, got {margins.shape} and {same.shape}")
    count = len(margins)
    accepted = Threshold(float("inf"), 0.0, 0.0, 0.0, count, confidence)
    for level in LEVELS:
        taken = margins >= level
        wrong = int((taken & ~same).sum())
        at_most = share_at_most(wrong, count, confidence)
        if at_most > disagreement:
            break
        accepted = Threshold(level, wrong / count, at_most, float(taken.mean()), count, confidence)
    return accepted


class Cascade(nn.Module):
    """The small network where it is confident, the full one elsewhere.

    Called with a batch, it returns the logits, each image's from the network that answered it.

    Attributes:
        threshold: when the small network's answer is taken.
        refit: how the small network was repaired.
        shared: number of blocks that run once for both networks.
        own: number of values that the small network does not share with the full one.
        deferred: of the last call, whether each image went on to the full network.
    """

    def __init__(self, full: UnrolledNetwork, small: UnrolledNetwork, refit: RefitResult) -> None:
        super().__init__()
        self.own = share_weights(small.model, full.model)
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
        known = {"threshold": self.threshold, "_rows_are_images": self._rows_are_images}
        return Cascade, (self._full, self._small, self.refit), known

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
        """Set the threshold by images that chose nothing; see :func:`cascade_threshold`.

        Warns where no threshold is shown, so that all images go on to the full network.
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
                f"all images go on to the full network: {inputs.count} images do not show that {goal}; "
                + (f"give at least {needed}" if inputs.count < needed else "drop fewer blocks, or allow more")
            )
        return self.threshold

    def _prefix(self, x: Any) -> State:
        """The state up to which both networks are the same; the output itself where nothing is dropped."""
        return self._full.run(self._full.stem(x), stop=self.shared)

    def _small_from(self, state: State) -> torch.Tensor:
        return self._small.run(self._twins(state), self._gates).value

    def _has_rows(self, inputs: Inputs, count: int) -> bool:
        """Whether all that is carried between the two has one row per image."""
        if inputs.count < count:
            return False
        state = self._prefix(placed_input(inputs.take(slice(0, count)), self.full_model))
        values = [state.value, *state.side.values()]
        return all(isinstance(value, torch.Tensor) and value.ndim and len(value) == count for value in values)

    def _of_images(self, state: State, x: Any, chosen: torch.Tensor) -> State:
        """The state of some images of the batch.

        Rows of what is carried are taken where those are images, which is known from two sizes of a batch. Elsewhere
        (tokens before images, a size, a mask for all) rows may be something else of the same number, so that the state
        is computed anew.
        """
        if self._rows_are_images:
            side = {node: value[chosen] for node, value in state.side.items()}
            return State(state.index, state.value[chosen], side, state.plan)
        return self._prefix(Inputs(x, len(chosen)).take(chosen))


def margin(logits: torch.Tensor) -> torch.Tensor:
    """The largest probability less the second, (batch,); NaN counts as none.

    Raises:
        ValueError: not logits of two classes or more.

    Example:
        >>> margin(torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"expected logits of shape (batch, classes), two classes or more, got {tuple(logits.shape)}")
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
        net: a network of logits, in eval mode; it and its model are not changed.
        dropped: blocks that the small network lacks; the later the first of them, the more the two share.
        images: calibration images, to which the small network is refitted; no labels needed.
        certify: held-out images of the kind to expect in use, on which the threshold is set; no labels needed.
        disagreement: the share of images that may get another answer than the full network's.
        confidence: probability that it is no more.
        settings: of the refit.

    Returns:
        The module, over copies of the model with batch norms folded.

    Raises:
        NotDroppableError: a block cannot be taken out.
        ValueError: the network gives no logits of two classes or more.

    Warns where no threshold is shown: too few images, or networks that differ too much.

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
        raise ValueError(f"expected the weights of the model, got {missing.unexpected_keys[0]} besides")
    model = Cascade(full, for_inference(copy), refit)
    model.calibrate(certify, disagreement=disagreement, confidence=confidence)
    return model
