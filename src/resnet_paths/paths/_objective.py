"""The scalar loss that path analyses differentiate, and checks of its arguments.

Losses known by name are summed over the batch, not averaged, so that each example has a gradient of its own that does
not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..arguments.shown import shown
from ..graph.eval_mode import check_eval as check_model
from ..network import UnrolledNetwork

Loss = str | Callable[[torch.Tensor, Any], torch.Tensor]


def check_eval(net: UnrolledNetwork) -> None:
    """Refuse a model in training mode.

    Raises:
        UnrollError: the model is in training mode, so batch statistics or dropout would make its values random.
    """
    check_model(net.model)


def scalar_loss(output: torch.Tensor, target: Any, loss: Loss) -> torch.Tensor:
    """The scalar to differentiate.

    Args:
        output: the network's output, (batch, classes) for losses known by name.
        target: class indices (batch,) for losses known by name; anything for a function.
        loss: ``"cross_entropy"`` (summed over the batch), ``"logit"`` (the targets' logits, summed), or a
            function of output and target.

    Raises:
        ValueError: the loss is unknown, not a scalar, or has no gradient; or a target is out of range.
    """
    if not callable(loss) and loss not in ("cross_entropy", "logit"):
        raise ValueError(
            f"expected a loss 'cross_entropy' or 'logit', or a function of output and target, got {loss!r}"
        )
    if callable(loss):
        value = loss(output, target)
    else:
        classes = check_target(output, target)
        value = (
            F.cross_entropy(output, classes, reduction="sum")
            if loss == "cross_entropy"
            else output.gather(1, classes[:, None]).sum()
        )
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"expected a scalar loss, got {got}; sum it, including over the batch")
    if not value.requires_grad:
        raise ValueError(
            "expected a loss that depends differentiably on the network's output, got one without gradient; "
            "remove detach(), argmax or no_grad from it"
        )
    return value.reshape(())


def check_target(output: torch.Tensor, target: Any) -> torch.Tensor:
    """Check class indices against the output, and return them on its device.

    Raises:
        ValueError: they have the wrong shape or type, or are out of range.
    """
    if output.ndim != 2:
        raise ValueError(f"expected an output (batch, classes), got {tuple(output.shape)}; pass a function as loss")
    batch, classes = output.shape
    target = _as_tensor(target, output.device)
    if target.ndim == 0:
        target = target.expand(batch)
    if target.shape != (batch,) or not _is_integer(target):
        raise ValueError(
            f"expected a target of {batch} class indices, got shape {tuple(target.shape)} of {target.dtype}"
        )
    if not batch:
        raise ValueError("expected at least one example, got an empty batch")
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(
            f"expected targets from 0 to {classes - 1}, got values from {int(target.min())} to {int(target.max())}"
        )
    labels: torch.Tensor = target.long()
    return labels


def _as_tensor(target: Any, device: torch.device) -> torch.Tensor:
    try:
        return torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"expected a target of class indices, got {shown(target)}") from error


def _is_integer(target: torch.Tensor) -> bool:
    """Whether a tensor holds integers."""
    return not (target.is_floating_point() or target.is_complex() or target.dtype is torch.bool)


def loss_name(loss: Loss) -> str:
    """A name of the loss for records."""
    return loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__)
