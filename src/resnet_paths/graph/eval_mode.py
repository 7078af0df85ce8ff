"""The one check for everything that needs a model in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from .errors import UnrollError


def check_eval(model: nn.Module) -> None:
    """Refuse a model in training mode.

    Raises:
        UnrollError: batch statistics and dropout would make its values random, or change the model.

    Example:
        >>> check_eval(nn.Linear(2, 2).eval())
    """
    exported = exported_parts(model)
    if any(_trains(node) for module in exported for node in module.graph.nodes):
        raise UnrollError(
            "expected a model that was exported in eval mode, got one with batch norm or dropout as in training; call "
            "model.eval() before torch.export.export"
        )
    without_mode = {id(part) for module in exported for part in module.modules()}
    training = [name or "the model" for name, part in _training(model) if id(part) not in without_mode]
    if training:
        count = "1 module" if len(training) == 1 else f"{len(training)} modules"
        raise UnrollError(
            f"expected a model in eval mode, got {count} in training mode ({training[0]}, ...), where batch norm and "
            "dropout make the values of one example random and dependent on the batch; call model.eval() first"
        )


def _training(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if module.training)


def exported_parts(model: nn.Module) -> list[fx.GraphModule]:
    """The modules that are exported programs, whose mode is part of their operations: their eval() only refuses."""
    return [part for part in model.modules() if isinstance(part, fx.GraphModule) and "eval" in vars(part)]


def _trains(node: fx.Node) -> bool:
    """Whether an operation of an exported program is as in training (the argument `training` of batch norm)."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given.get("train") is True or given.get("training") is True
