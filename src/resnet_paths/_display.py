"""How records show themselves: in one line, and in a notebook as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any, TypeVar

Record = TypeVar("Record")

_ROWS = 30  # of a table in a notebook; all of them are in to_pandas()
_LONG = 60  # characters beyond which a text is cut


def shown(kind: type[Record]) -> type[Record]:
    """Give a frozen record with ``to_pandas`` (or ``to_frame``) a short ``repr`` and, for notebooks, a table.

    Example:
        >>> from dataclasses import dataclass
        >>> import numpy as np, pandas as pd
        >>> @shown
        ... @dataclass(frozen=True)
        ... class Found:
        ...     name: str
        ...     values: np.ndarray
        ...     def to_pandas(self):
        ...         return pd.DataFrame({"value": self.values})
        >>> found = Found("a", np.ones(3))
        >>> found
        Found(name='a', values=float64 (3,))
        >>> found._repr_html_().count("<tr")
        4
    """
    if hasattr(kind.__repr__, "__wrapped__"):  # made by dataclass; one of the class's own stays
        kind.__repr__ = _one_line  # type: ignore[method-assign]
    kind._repr_html_ = _table  # type: ignore[attr-defined]
    return kind


def _one_line(record: Any) -> str:
    shown_fields = [field.name for field in fields(record) if field.repr]
    inside = ", ".join(f"{name}={_short(getattr(record, name))}" for name in shown_fields)
    return f"{type(record).__name__}({inside})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return repr(value if len(value) <= _LONG else value[:12] + "...")
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>"
    if isinstance(value, Sequence) and (len(value) > 4 or len(repr(value)) > _LONG):
        return f"<{len(value)} values>"
    text = repr(value)
    return text if len(text) <= _LONG else f"<{type(value).__name__}>"


def _table(record: Any) -> str:
    frame = record.to_pandas() if hasattr(record, "to_pandas") else record.to_frame()
    more = f"<p>{_ROWS} of {len(frame):,} rows; all are in <code>to_pandas()</code></p>" if len(frame) > _ROWS else ""
    rows = frame.head(_ROWS).to_html(index=False, border=0, float_format=lambda number: f"{number:.4g}")
    return f"<p><code>{escape(repr(record))}</code></p>{rows}{more}"
