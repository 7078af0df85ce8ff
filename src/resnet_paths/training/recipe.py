"""The hyperparameters of a training run, and the learning rate that follows from them.

One frozen dataclass, so that it can be stored in a checkpoint and compared exactly when a run resumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arguments import checked
from ..choices import Precision, Schedule


@checked
@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The defaults for batch size, learning rate, momentum, weight decay and augmentation are those of He et al. (2015),
    section 4.2. The cosine schedule (Loshchilov and Hutter 2017), Nesterov momentum and the warm-up (Goyal et al. 2017,
    section 2.2) are additions.

    Attributes:
        epochs: number of passes over the data.
        batch_size: images per step.
        learning_rate: peak learning rate.
        momentum: SGD momentum.
        nesterov: use Nesterov momentum.
        weight_decay: SGD weight decay.
        decay_vectors: apply it to biases and to the scales and shifts of norms too; He et al. (2019), section 3.1, do
            not.
        warmup: epochs over which the learning rate rises from 0.
        schedule: cosine to zero, or division by ten at 1/2 and 3/4 of the epochs (He et al. 2015, section 4.2).
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
        mixup: alpha of :func:`mixup` (Zhang et al. 2018), which blends images in pairs; 0 turns it off. The training
            error is then measured against the label with the larger share.
        shift: maximum random shift, in pixels; the outside is black.
        flip: mirror images left to right at random.
        precision: "float32" computes in the dtype of the parameters, "bfloat16" and "float16" under autocast; float16
            with dynamic loss scaling (Micikevicius et al. 2018).
        seed: seed of the order, the augmentation and the randomness inside the model.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> recipe = Recipe(epochs=10, warmup=2, learning_rate=0.1)
        >>> [round(recipe.rate(epoch), 3) for epoch in (0, 1, 2, 6, 10)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_vectors: bool = True
    warmup: float = 1.0
    schedule: Schedule = "cosine"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    shift: int = 4
    flip: bool = True
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("expected momentum above 0 with nesterov=True, got 0; set nesterov=False")

    def rate(self, epoch: float) -> float:
        """The learning rate after this many epochs, which may be a fraction."""
        if epoch < self.warmup:
            return self.learning_rate * (epoch + 1e-9) / self.warmup
        done = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.learning_rate * float(0.1 ** ((epoch >= self.epochs / 2) + (epoch >= self.epochs * 3 / 4)))
