"""Functions that are told whether the model trains: the flag is read anew at each run."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F

_TOLD = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu,
    F.batch_norm,
}  # fmt: skip


def with_flag(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool, flag: Any) -> Any:
    """Arguments with `flag` where the literal train flag `training` stands; None where there is none.

    Example:
        >>> with_flag(F.dropout, ("x", 0.5), {"training": False}, False, "flag")
        (('x', 0.5), {'training': 'flag'})
        >>> with_flag(F.relu, ("x",), {}, False, "flag") is None
        True
    """
    if target not in _TOLD:
        return None
    names = list(inspect.signature(target).parameters)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if given.get("training") is not training:
        return None
    if "training" in kwargs:
        return args, {**kwargs, "training": flag}
    place = names.index("training")
    return (*args[:place], flag, *args[place + 1 :]), kwargs
