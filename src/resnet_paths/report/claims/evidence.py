"""What claims are measured on: a network, images, and small twins, each created once, on request.

Several claims share
training runs and deletions, and a single claim needs few of them. The twins are small and train for some epochs, in
seconds on one core, from the same initial values in the same order of images, so that what differs between them is what
the paper changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data import ImageData
from ...lesion import RandomDeletions, Reorderings, SingleDeletions, random_deletions, reorderings, single_deletions
from ...models import cifar_resnet
from ...network import UnrolledNetwork
from ...paths import EffectivePaths, effective_paths, sample_path_gradients
from ...training import Recipe, train
from ..subject import Subject


@dataclass(frozen=True, eq=False)
class Trained:
    """A small network trained on the spot.

    Attributes:
        model: in eval mode.
        rows: figures of each epoch.
        steps: (epochs + 1, parameters) the weights before training and after each epoch.
    """

    model: nn.Module
    rows: list[dict[str, float]]
    steps: np.ndarray

    @property
    def train_error(self) -> float:
        """Over the last epoch."""
        return self.rows[-1]["train_error"]


@dataclass(eq=False)
class Evidence:
    """The network and the images of a reproduction, and the measurements so far.

    Attributes:
        subject: the network (by default the embedded one) and its images.
        training: the images on which small twins are trained.
        widths: channels of these twins.
        seeds: training runs of each.
    """

    subject: Subject
    training: ImageData
    widths: tuple[int, ...] = (8, 16, 32)
    seeds: int = 3
    _trained: dict[Any, Trained] = field(default_factory=dict, repr=False)

    @property
    def net(self) -> UnrolledNetwork:
        """The unrolled network."""
        return self.subject.net

    @property
    def seed(self) -> int:
        """The seed of all random draws."""
        return self.subject.seed

    @cached_property
    def single(self) -> SingleDeletions:
        """Each block deleted alone, on at most 1000 images."""
        return single_deletions(self.net, self.subject.images(1000), progress=False)

    @cached_property
    def several(self) -> RandomDeletions:
        """Random deletions on at most 200 images."""
        counts = sorted({round(float(count)) for count in np.geomspace(1, len(self.net), 9)})
        return random_deletions(self.net, self.subject.images(200), counts, draws=10, seed=self.seed, progress=False)

    @cached_property
    def reordered(self) -> Reorderings:
        """Random swaps on at most 200 images."""
        return reorderings(self.net, self.subject.images(200), draws=8, seed=self.seed, progress=False)

    @cached_property
    def effective(self) -> EffectivePaths:
        """Sampled paths of 24 images."""
        x, labels = self.subject.batch(24)
        return effective_paths(sample_path_gradients(self.subject.fast, x, labels, draws=32, seed=self.seed))

    def several_trained(self, depth: int, *, epochs: int, **options: Any) -> list[Trained]:
        """The same kind of network for each seed."""
        return [self.trained(depth, epochs=epochs, run=run, **options) for run in range(self.seeds)]

    def trained(self, depth: int, *, epochs: int, run: int = 0, **options: Any) -> Trained:
        """A CIFAR ResNet, trained for a few epochs; twins share initialisation, order and augmentation.

        Args:
            depth: see :func:`resnet_paths.models.cifar_resnet`.
            epochs: number of epochs; the learning rate falls to zero over them.
            run: number of the training run, added to the evidence's seed.
            options: of the network (``residual=False``, ``preactivation=True``).
        """
        key = (depth, epochs, run, *sorted(options.items()))
        if key not in self._trained:
            model = cifar_resnet(
                depth,
                num_classes=len(self.training.classes),
                in_channels=self.training.images.shape[1],
                widths=self.widths,
                seed=self.seed + run,
                **options,
            )
            steps = [_flat(model)]
            recipe = Recipe(
                epochs=epochs,
                batch_size=64,
                learning_rate=0.05,
                weight_decay=5e-4,
                warmup=1,
                shift=1,
                flip=False,
                seed=self.seed + run,
            )
            rows = train(
                model,
                self.training,
                recipe,
                progress=False,
                after_epoch=lambda _, trained: steps.append(_flat(trained)),
            )
            self._trained[key] = Trained(model.eval(), rows, np.stack(steps))
        return self._trained[key]


def _flat(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([parameter.flatten() for parameter in model.parameters()]).numpy().astype(np.float64)
