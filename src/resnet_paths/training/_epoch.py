"""One pass over the training data.

Separate from `train`, which deals with folders, logs and progress: everything here decides the weights. Three random
streams are derived from the seed and the epoch number, so that an epoch can be repeated after a kill without a saved
random state: a generator for order and augmentation, NumPy's for the Beta draws of mixup (PyTorch has no Beta draw from
a generator), and the global one for dropout and stochastic depth. Models with and without dropout thus see the same
images in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data import ImageData
from ..data.batches import training_slices
from ..draws import permutation, seeded
from ..graph.inputs import call_model, main_output
from .augmentation import augment
from .mixing import Mixed, mixup
from .recipe import Recipe

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Trainer:
    """The state that training changes: the model, its optimiser, and the loss scale in float16."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    device: torch.device

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe) -> Trainer:
        """A trainer with SGD on all parameters of the model."""
        device = next(model.parameters()).device
        optimiser = torch.optim.SGD(
            _groups(model, recipe), recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov
        )
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        return cls(model, optimiser, scaler, recipe, device)

    def epoch(self, data: ImageData, epoch: int, after_step: Callable[[], None]) -> dict[str, float]:
        """Train for one epoch; the caller's random state is restored afterwards.

        Order and augmentation have their own generator, so that networks with other internal randomness (dropout,
        stochastic depth) see the same images in the same order.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        # 1,000,003 exceeds any number of epochs, so that no two seeds share an epoch with the same random stream.
        recipe, seed = self.recipe, self.recipe.seed * 1_000_003 + epoch
        generator = seeded(seed)
        shares = np.random.default_rng(seed)
        order = permutation(len(data), generator)
        black = data.normalised(torch.zeros_like(data.images[:1, :, :1, :1]))
        batch_slices = training_slices(len(order), recipe.batch_size)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        wrong = torch.zeros((), dtype=torch.int64, device=self.device)

        self.model.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for step, batch_slice in enumerate(batch_slices):
                indices = order[batch_slice].to(self.device)
                images = augment(data.normalised(data.images[indices]), recipe.shift, recipe.flip, generator, black)
                batch = mixup(images, data.labels[indices], recipe.mixup, shares, generator)
                for group in self.optimiser.param_groups:
                    group["lr"] = recipe.rate(epoch + step / len(batch_slices))
                loss, missed = self.step(batch)
                total += loss.double() * len(indices)
                wrong += missed
                after_step()

        mean = float(total) / len(order)
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"expected a finite loss, got {mean} in epoch {epoch}; lower learning_rate or lengthen warmup"
            )
        self._check_weights(epoch)
        return {"epoch": epoch, "rate": recipe.rate(epoch), "loss": mean, "train_error": int(wrong) / len(order)}

    def _check_weights(self, epoch: int) -> None:
        """Refuse weights that are not finite: each loss is from before its step, so the last step shows only here."""
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"expected finite weights after epoch {epoch}, got NaN or infinite ones in {name}; lower "
                    "learning_rate or lengthen warmup"
                )

    def step(self, batch: Mixed) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of SGD: the loss before the step, and the number of wrong predictions."""
        recipe = self.recipe
        with torch.autocast(self.device.type, _DTYPES.get(recipe.precision), enabled=recipe.precision in _DTYPES):
            logits = main_output(call_model(self.model, batch.images))
            loss = batch.loss(logits, recipe.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach(), batch.wrong(logits)


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """All parameters in one group, or the vectors (biases, norm scales) in a second one without weight decay."""
    parameters = list(model.parameters())
    if recipe.decay_vectors:
        return [{"params": parameters, "weight_decay": recipe.weight_decay}]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
