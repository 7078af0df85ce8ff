"""How a record shows itself: as one line in `repr`, and as a table with a picture in a notebook.

Beside `record.py`, because plans and other results without arrays show themselves the same way. A dataclass's own
`repr` prints every array element, which fills the screen. Pictures are registered by `resnet_paths.plot`, which is
imported when the first one is shown, so that records import no plotting library.
"""

from __future__ import annotations

import importlib
import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from ..imports import first_import

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 30  # shown of a table: about one screen; to_pandas() has them all
_MORE = "{shown} of {all:,} rows; all are in to_pandas()"
_LONG = 60  # characters of a value: two or three values still fit on a line


class Shown:
    """Frozen dataclasses with ``to_pandas``: a short ``repr``, a table in terminals (rich) and in notebooks.

    In a notebook, a record's picture is shown above its table.

    Example:
        >>> from dataclasses import dataclass
        >>> import numpy as np, pandas as pd
        >>> @dataclass(frozen=True)
        ... class Measured(Shown):
        ...     name: str
        ...     values: np.ndarray
        ...     def to_pandas(self):
        ...         return pd.DataFrame({"value": self.values})
        >>> measured = Measured("a", np.ones(3))
        >>> measured
        Measured(name='a', values=float64 (3,))
        >>> measured._repr_html_().count("<tr")
        4
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep the dataclass decorator from overwriting our repr; one that the class defines itself stays."""
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def to_pandas(self) -> pd.DataFrame:
        """The table that people look at."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return _one_line(self)

    def _repr_html_(self) -> str:
        return f"<p><code>{escape(repr(self))}</code></p>{_picture(self)}{_table(self)}"

    def __rich__(self) -> Any:
        """The table, for ``rich.print``."""
        with first_import("rich"):
            from rich.markup import escape as plain

            from ..text_tables import table

        frame = self.to_pandas()
        made = table(plain(repr(self)))
        for column in frame:
            made.add_column(plain(str(column)), justify="right" if frame[column].dtype.kind in "iuf" else "left")
        for row in frame.head(_ROWS).itertuples(index=False):
            made.add_row(*(plain(_cell(value)) for value in row))
        if len(frame) > _ROWS:
            made.caption = _MORE.format(shown=_ROWS, all=len(frame))
        return made


_PLOTS = f"{__name__.partition('.')[0]}.plot"
_PICTURES: dict[type, Callable[[Any], Any]] = {}


def show_with(kind: type[Shown], draw: Callable[[Any], Any]) -> None:
    """Show records of a kind with a picture in notebooks.

    Args:
        kind: the record's class.
        draw: draws a record and returns the axes.
    """
    _PICTURES[kind] = draw


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


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(record: Shown) -> str:
    frame = record.to_pandas()
    more = f"<p>{_MORE.format(shown=_ROWS, all=len(frame))}</p>" if len(frame) > _ROWS else ""
    rows: str = frame.head(_ROWS).to_html(index=False, border=0, float_format=lambda number: f"{number:.4g}")
    return rows + more


def drawn(record: Shown) -> Any:
    """The axes of a record's figure; None if this kind of record has none, or this record lacks what it shows."""
    with first_import(_PLOTS):
        importlib.import_module(_PLOTS)
    draw = _PICTURES.get(type(record))
    try:
        return None if draw is None else draw(record)
    except ValueError:  # such as contributions without targets
        return None


def _picture(record: Shown) -> str:
    """The picture as an HTML element; empty if there is none."""
    axes = drawn(record)
    if axes is None:
        return ""
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png")
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return f'<img alt="{escape(type(record).__name__)}" src="{source}">'
