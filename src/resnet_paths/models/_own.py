"""Models from a user's own function: ``module:function`` or ``file.py:function``."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..user_code import user_object


def own_model(source: str, name: str, options: dict[str, Any]) -> nn.Module:
    """The model returned by the function `name` of a module or Python file, called with these options.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the module cannot be imported or has no such function, or the function returns no module.

    Example:
        >>> type(own_model("torch.nn", "Linear", {"in_features": 2, "out_features": 3})).__name__
        'Linear'
    """
    maker = user_object(source, name)
    model = maker if isinstance(maker, nn.Module) or not callable(maker) else maker(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected {source}:{name} to return a torch.nn.Module, got {type(model).__name__}; return the model itself"
        )
    return model
