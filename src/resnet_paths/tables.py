"""Tables and labelled arrays, without importing pandas and xarray before they are needed.

Their import takes longer than many analyses, and most processes (workers of a sweep, a training run) never need it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .imports import first_import

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def data_frame(*args: Any, **kwargs: Any) -> pd.DataFrame:
    """A ``pandas.DataFrame`` of the same arguments.

    Example:
        >>> data_frame({"block": [0, 1]}).shape
        (2, 1)
    """
    with first_import("pandas"):
        import pandas as pd
    return pd.DataFrame(*args, **kwargs)


def stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables with the same columns, with a new row index.

    Example:
        >>> stacked([data_frame({"block": [0, 1]}), data_frame({"block": [0]})])["block"].tolist()
        [0, 1, 0]
    """
    with first_import("pandas"):
        import pandas as pd
    return pd.concat(frames, ignore_index=True)


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON has them: plain numbers with all digits and texts, null for NaN and infinity.

    Example:
        >>> json_rows(data_frame({"block": [0, 1], "damage": [1.25e-21, float("nan")]}))
        [{'block': 0, 'damage': 1.25e-21}, {'block': 1, 'damage': None}]
    """
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def json_text(content: Any) -> str:
    """What a command prints as JSON: null for NaN and infinity, which JSON does not know.

    Example:
        >>> print(json_text({"fall": float("nan"), "count": (1, 2)}))
        {
          "fall": null,
          "count": [
            1,
            2
          ]
        }
    """
    return json.dumps(_plain(content), indent=2)


def _plain(value: Any) -> Any:
    """A value without NumPy's types, NaN and infinity, which JSON does not know."""
    if type(value).__module__ == "numpy":  # a command's help reads this file before NumPy is needed
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float)) else str(value)


def data_set(*args: Any, **kwargs: Any) -> xr.Dataset:
    """An ``xarray.Dataset`` of the same arguments.

    Example:
        >>> data_set({"error": ("block", [0.5, 1.0])}).sizes["block"]
        2
    """
    with first_import("xarray"):
        import xarray as xr
    return xr.Dataset(*args, **kwargs)
