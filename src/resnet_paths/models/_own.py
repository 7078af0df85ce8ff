"""Models that a user's own function makes: ``module:function`` or ``file.py:function``."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..user_code import user_object


def own_model(place: str, name: str, options: dict[str, Any]) -> nn.Module:
    """What the function `name` of a module, or of a Python file, returns for these options.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the module cannot be imported, has no such function, or that returns no module.

    Example:
        >>> type(own_model("torch.nn", "Linear", {"in_features": 2, "out_features": 3})).__name__
        'Linear'
    """
    maker = user_object(place, name)
    model = maker if isinstance(maker, nn.Module) or not callable(maker) else maker(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected {place}:{name} to return a torch.nn.Module, got {type(model).__name__}; return the model itself"
        )
    return model
