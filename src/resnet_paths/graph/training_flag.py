"""Functional ops that take a `training` argument: the module's flag is read again in each run.

A forward passes ``self.training`` on, and in the graph that would be the constant of the traced run: a network unrolled
in eval mode would never drop out again.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F

_FLAGGED = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu,
    F.batch_norm,
}  # fmt: skip


def with_flag(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool, flag: Any) -> Any:
    """The arguments with `flag` in place of the literal value `training`; None if the function takes no such flag.

    Example:
        >>> with_flag(F.dropout, ("x", 0.5), {"training": False}, False, "flag")
        (('x', 0.5), {'training': 'flag'})
        >>> with_flag(F.relu, ("x",), {}, False, "flag") is None
        True
    """
    if target not in _FLAGGED:
        return None
    names = list(inspect.signature(target).parameters)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if given.get("training") is not training:
        return None
    if "training" in kwargs:
        return args, {**kwargs, "training": flag}
    position = names.index("training")
    return (*args[:position], flag, *args[position + 1 :]), kwargs
