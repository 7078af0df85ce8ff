"""The one check for everything that needs a model in eval mode."""

from __future__ import annotations

from torch import nn

from .errors import UnrollError


def check_eval(model: nn.Module) -> None:
    """Refuse a model in training mode.

    Raises:
        UnrollError: batch statistics and dropout would make its values random, or change the model.

    Example:
        >>> check_eval(nn.Linear(2, 2).eval())
    """
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        count = "1 module" if len(training) == 1 else f"{len(training)} modules"
        raise UnrollError(
            f"expected a model in eval mode, got {count} in training mode ({training[0]}, ...), where batch norm and "
            "dropout make the values of one example random and dependent on the batch; call model.eval() first"
        )
