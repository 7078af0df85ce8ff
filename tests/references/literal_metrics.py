"""Metrics position by position, from their definitions: no tensors' operations, no parts, no derivatives."""

import math
from collections.abc import Callable

import torch

IGNORED = -100


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def next_token_losses(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> list[float]:
    """The loss of every token that has a token before it and counts, over all sequences."""
    losses = []
    for sequence in range(len(labels)):
        for token in range(1, labels.shape[1]):
            label = int(labels[sequence, token])
            if label == IGNORED or (mask is not None and not mask[sequence, token]):
                continue
            losses.append(-math.log(softmax(outputs[sequence, token - 1].tolist())[label]))
    return losses


def next_token_loss(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    losses = next_token_losses(outputs, labels, mask)
    return sum(losses) / len(losses)


def perplexity(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    return math.exp(next_token_loss(outputs, labels, mask))


def next_token_error(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    wrong = []
    for sequence in range(len(labels)):
        for token in range(1, labels.shape[1]):
            label = int(labels[sequence, token])
            if label != IGNORED and (mask is None or mask[sequence, token]):
                scores = outputs[sequence, token - 1].tolist()
                wrong.append(scores.index(max(scores)) != label)
    return sum(wrong) / len(wrong)


def pixels(outputs: torch.Tensor, labels: torch.Tensor) -> list[tuple[list[float], int]]:
    """The scores and the label of every pixel that counts; classes are dimension 1 of the outputs."""
    return [
        (outputs[image, :, row, column].tolist(), int(labels[image, row, column]))
        for image in range(len(labels))
        for row in range(labels.shape[1])
        for column in range(labels.shape[2])
        if labels[image, row, column] != IGNORED
    ]


def pixel_loss(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    losses = [-math.log(softmax(scores)[label]) for scores, label in pixels(outputs, labels)]
    return sum(losses) / len(losses)


def pixel_error(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    wrong = [scores.index(max(scores)) != label for scores, label in pixels(outputs, labels)]
    return sum(wrong) / len(wrong)


def iou_error(outputs: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> float:
    answers = [(scores.index(max(scores)), label) for scores, label in pixels(outputs, labels)]
    ratios = []
    for number in range(outputs.shape[1]):
        either = [pair for pair in answers if number in pair]
        if either:
            ratios.append(sum(pair == (number, number) for pair in either) / len(either))
    return 1 - sum(ratios) / len(ratios)


def _numbers(outputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[float, float]]:
    return list(zip(outputs.flatten().tolist(), targets.flatten().tolist(), strict=True))


def squared_error(outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    pairs = _numbers(outputs, targets)
    return sum((one - other) ** 2 for one, other in pairs) / len(pairs)


def absolute_error(outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    pairs = _numbers(outputs, targets)
    return sum(abs(one - other) for one, other in pairs) / len(pairs)


def multilabel_error(outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    pairs = [(logit, flag) for logit, flag in _numbers(outputs, targets) if flag != IGNORED]
    return sum((logit > 0) != (flag == 1) for logit, flag in pairs) / len(pairs)


def multilabel_loss(outputs: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    pairs = [(logit, flag) for logit, flag in _numbers(outputs, targets) if flag != IGNORED]
    return sum(math.log1p(math.exp(-logit if flag == 1 else logit)) for logit, flag in pairs) / len(pairs)


def cosine_distance(outputs: torch.Tensor, full: torch.Tensor) -> float:
    distances = []
    for one, other in zip(outputs.flatten(1).tolist(), full.flatten(1).tolist(), strict=True):
        product = sum(a * b for a, b in zip(one, other, strict=True))
        distances.append(1 - product / math.hypot(*one) / math.hypot(*other))
    return sum(distances) / len(distances)


def embedding_distance(outputs: torch.Tensor, full: torch.Tensor) -> float:
    distances = [
        math.dist(one, other) / math.hypot(*other)
        for one, other in zip(outputs.flatten(1).tolist(), full.flatten(1).tolist(), strict=True)
    ]
    return sum(distances) / len(distances)


WITH_TARGETS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], float]] = {
    function.__name__: function
    for function in (
        next_token_loss, perplexity, next_token_error, pixel_loss, pixel_error, iou_error, squared_error,
        absolute_error, multilabel_error, multilabel_loss,
    )
}  # fmt: skip
