"""Briefly fine-tune a smaller model with the full model as its teacher.

Beside `training`, which trains from scratch with a recipe and checkpoints: here a few epochs restore a network that
already works, and the teacher's outputs are a better target than labels, which may not even exist. Temperature 4 and
weight 0.9 are usual values of Hinton et al.'s method; the learning rate is a tenth of the training's, so that good
weights are not destroyed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from ..arguments.ranges import INSIDE
from ..data import Examples, ImageData, ImageSource, InMemory, as_examples
from ..data.batches import training_slices
from ..data.fitting import counted_positions, target_kinds
from ..data.metric import wide
from ..data.position_metrics import channels_beside
from ..draws import permutation, seeded
from ..graph.inputs import call_model, main_output, placed
from ..graph.private_copy import private_use
from ..network.unrolled import UnrolledNetwork
from ..training.augmentation import augment
from .measures import Answers, answers


@checked
@dataclass(frozen=True)
class Distillation:
    """How to fine-tune.

    Attributes:
        epochs: passes over the data.
        lr: learning rate of SGD, annealed to zero by a cosine.
        momentum: momentum of SGD.
        weight_decay: weight decay on all parameters.
        batch_size: examples per step.
        temperature: divisor of the logits in the comparison with the teacher.
        weight: weight of the comparison with the teacher in the loss; the rest goes to the labels (1: no labels
            needed, and targets may be of any kind).
        shift: maximum random shift of images, in pixels; other data are not augmented.
        flip: whether to mirror images at random.
        seed: seed of the order and the augmentation.
    """

    epochs: int = 2
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    temperature: float = 4.0
    weight: float = 0.9
    shift: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (self.lr > 0 and 0 <= self.weight <= 1):
            raise ValueError(f"expected lr above 0 and weight between 0 and 1, got {self.lr} and {self.weight}")


@checked
@torch.inference_mode(False)
def distil(
    student: nn.Module,
    teacher: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    settings: Distillation | None = None,
) -> tuple[float, ...]:
    """Fine-tune a model in place towards the outputs of another.

    The loss is ``w T^2 KL(softmax(t/T) || softmax(s/T)) + (1 - w) CE(s, label)`` of the teacher's and the student's
    logits t and s. With a class for each position, such as a token or a pixel, the divergence is the mean over those
    that count. For other outputs (numbers, flags, embeddings) it is ``|s - t|^2 / |t|^2``.

    The student's batch norms are in training mode; the teacher is in eval mode and does not change.

    Args:
        student: the smaller model; left in eval mode.
        teacher: the full model, or its network, whose chosen output is then compared (otherwise the models' main
            outputs).
        data: training data of any form, other than those to report on.
        settings: default :class:`Distillation`.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: the loss uses labels, but there is no class for each example.
        FloatingPointError: the loss is no longer finite.

    Cost: two forward passes and one backward pass per image and epoch. Torch's own random state is not used.

    Source: Hinton, Vinyals and Dean (2015), section 2.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> teacher, student = (cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=s).eval() for s in (0, 1))
        >>> losses = distil(student, teacher, digits("train").subset(slice(0, 64)), settings=Distillation(epochs=1))
        >>> len(losses), student.training
        (1, False)
    """
    settings, data = settings or Distillation(), as_examples(data, student, labelled=False)
    check_labels_of_loss(data, settings)
    return _distilled(student, teacher, data, settings, None)


@dataclass(frozen=True)
class BestState:
    """The course of fine-tuning on held-out data, and the state kept.

    Attributes:
        losses: held-out loss before the first step and after each epoch.
        errors: held-out error at the same times; for images without labels, the disagreement with the teacher; the
            losses, if there are no classes.
        kept: index of the state that the model has now: the one with the smallest loss among those with no more errors
            than the first; 0 is the original model.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...]
    kept: int


@checked(held_out=INSIDE)
@torch.inference_mode(False)
def distil_best(
    student: nn.Module,
    teacher: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    settings: Distillation | None = None,
    held_out: float = 0.1,
) -> BestState:
    """Fine-tune like :func:`distil`, and keep the best state, which is never worse than the original.

    Args:
        student: the smaller model; left in eval mode.
        teacher: the full model, or its network.
        data: training data of any form, other than those to report on.
        settings: default :class:`Distillation`.
        held_out: share of the data that is not trained on, but decides which state is kept.

    Raises:
        ValueError: there are too few examples to hold any out.

    Cost: that of :func:`distil`, plus one forward pass of the student per epoch and one of the teacher over the
        held-out examples.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> teacher, student = (cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=s).eval() for s in (0, 1))
        >>> best = distil_best(student, teacher, digits("train").subset(slice(0, 64)), settings=Distillation(epochs=1))
        >>> len(best.losses), best.errors[best.kept] <= best.errors[0]
        (2, True)
    """
    settings, data = settings or Distillation(), as_examples(data, student, labelled=False).shuffled(0)
    check_labels_of_loss(data, settings)
    count = max(1, round(held_out * len(data)))
    if len(data) - count < 2:
        raise ValueError(f"expected at least 3 {data.nouns}, to fine-tune with some held out, got {len(data)}")
    held_out_part, trained = data.subset(slice(0, count)), data.subset(slice(count, None))
    full, followed = _model_and_output(teacher)
    losses: list[float] = []
    errors: list[float] = []
    best: tuple[int, dict[str, torch.Tensor]] = (0, {})

    def rank(index: int) -> tuple[bool, float]:
        return losses[index] != losses[index], losses[index]

    with private_use(full) as goal:
        taught = answers(goal.eval(), held_out_part, followed, settings.batch_size)

    def measure() -> None:
        nonlocal best
        training = student.training
        now = answers(student.eval(), held_out_part, followed, settings.batch_size)
        student.train(training)
        losses.append(float(distillation_loss(now.logits, taught.logits, held_out_part, settings)))
        errors.append(_error(now, taught, losses[-1]))
        epoch = len(losses) - 1
        if epoch == 0 or (errors[epoch] <= errors[0] and rank(epoch) < rank(best[0])):
            best = epoch, {name: value.detach().clone() for name, value in student.state_dict().items()}

    measure()
    _distilled(student, teacher, trained, settings, measure)
    kept_epoch, state = best
    student.load_state_dict(state)
    return BestState(tuple(losses), tuple(errors), kept_epoch)


def _error(now: Answers, taught: Answers, loss: float) -> float:
    """The share of wrong answers, or for images without labels of those other than the teacher's; else the loss."""
    right = now.agree(taught) if isinstance(now.data, ImageData) and not now.data.labelled else now.right
    return loss if np.isnan(right).any() else float(1 - right.mean())


def check_labels_of_loss(data: InMemory, settings: Distillation) -> None:
    """Check that there is a class for each example if the loss uses labels.

    Raises:
        ValueError: there is none.
    """
    if settings.weight == 1 or "class" in target_kinds(data):
        return
    got = f"{data.nouns} without labels" if not data.labelled else repr(data)
    raise ValueError(
        f"expected labelled {data.nouns}, of one class each, since labels make up {1 - settings.weight:.0%} of the "
        f"loss, got {got}; pass Distillation(weight=1)"
    )


def _model_and_output(teacher: nn.Module | UnrolledNetwork) -> tuple[nn.Module, Callable[[Any], torch.Tensor]]:
    """A teacher's model, and the function that extracts the logits from its output and from the student's."""
    if isinstance(teacher, UnrolledNetwork):
        return teacher.model, teacher.followed
    return teacher, main_output


@torch.enable_grad()
def _distilled(
    student: nn.Module,
    teacher: nn.Module | UnrolledNetwork,
    data: InMemory,
    settings: Distillation,
    after_epoch: Callable[[], None] | None,
) -> tuple[float, ...]:
    full, followed = _model_and_output(teacher)
    requires_grad = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    if any(parameter.is_inference() for parameter, _ in requires_grad):
        raise ValueError(
            "expected a student that can be trained, got one created in torch.inference_mode; create it outside"
        )
    student.train()
    student.requires_grad_(True)
    try:
        with private_use(full) as goal:
            return _run(student, goal.eval(), data, settings, followed, after_epoch)
    finally:
        student.eval()
        for parameter, flag in requires_grad:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _run(
    student: nn.Module,
    teacher: nn.Module,
    data: InMemory,
    settings: Distillation,
    followed: Callable[[Any], torch.Tensor],
    after_epoch: Callable[[], None] | None = None,
) -> tuple[float, ...]:
    optimiser = torch.optim.SGD(
        student.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    parts = training_slices(len(data), settings.batch_size)
    steps = settings.epochs * len(parts)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = seeded(settings.seed)
    augmented = _augmented(data, settings, generator)
    losses = []
    for _ in range(settings.epochs):
        total = 0.0
        order = permutation(len(data), generator)
        for selected in (order[part] for part in parts):
            batch = data.subset(selected)
            x = placed(augmented(batch.x), student)
            with torch.no_grad():
                goal = followed(call_model(teacher, x))
            loss = distillation_loss(followed(call_model(student, x)), goal, batch, settings)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss became {float(loss.detach())}; use a smaller lr than {settings.lr}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(selected)
        losses.append(total / len(data))
        if after_epoch is not None:
            after_epoch()
    return tuple(losses)


def _augmented(data: InMemory, settings: Distillation, generator: torch.Generator) -> Callable[[Any], Any]:
    """Images shifted and mirrored at random; other data as they are."""
    if not isinstance(data, ImageData):
        return lambda x: x
    background = data.normalised(torch.zeros_like(data.images[:1, :, :1, :1]))
    return lambda x: augment(x, settings.shift, settings.flip, generator, background)


def distillation_loss(
    outputs: torch.Tensor, goal: torch.Tensor, data: InMemory, settings: Distillation
) -> torch.Tensor:
    """The loss: the distance from the teacher, mixed with the cross-entropy by the weight.

    Args:
        outputs: the student's outputs, (examples, ...).
        goal: the teacher's.
        data: the examples; their targets say whether outputs are scores of classes. Not used otherwise if the weight
            is 1.
        settings: temperature and weight.
    """
    term = _distance(wide(outputs), wide(goal), data, settings.temperature)
    if settings.weight == 1 or data.targets is None:
        return term
    return settings.weight * term + (1 - settings.weight) * F.cross_entropy(outputs, data.targets.to(outputs.device))


def _distance(outputs: torch.Tensor, goal: torch.Tensor, data: InMemory, temperature: float) -> torch.Tensor:
    """The divergence of scores of classes, of examples or of positions that count; the relative error of others."""
    kinds = target_kinds(data)
    classes = outputs.ndim == 2 and outputs.shape[1] > 1 and (isinstance(data, ImageData) or "class" in kinds)
    counted = counted_positions(data) if isinstance(data, Examples) and outputs.ndim > 2 else None
    axis = None if counted is None else channels_beside(goal, counted)
    if axis is not None and counted is not None:
        counted = counted.to(goal.device)
        outputs, goal = (values.movedim(axis, -1)[counted] for values in (outputs, goal))
        classes = "positions" in kinds
    if not classes:
        return (outputs - goal).square().mean() / goal.square().mean().clamp_min(torch.finfo(goal.dtype).tiny)
    scores, target = ((values / temperature).log_softmax(1) for values in (outputs, goal))
    return temperature**2 * F.kl_div(scores, target, reduction="batchmean", log_target=True)
