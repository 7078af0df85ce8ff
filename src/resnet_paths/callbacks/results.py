"""Records and reports in TensorBoard, Weights & Biases and Lightning's loggers: numbers, table, figure, page.

Beside the loggers of single numbers, which a recorder calls hundreds of times: a record is logged once, whole. The
target is recognised by its methods, so neither package is imported before one of its objects is passed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..arguments import checked
from ..files import existing_file
from ..imports import first_import
from ..records import Shown, drawn

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 200  # of a table as text; TensorBoard shows texts whole


class _Target(Protocol):
    """Where results go."""

    def write(self, name: str, parts: Mapping[str, Any], step: int) -> None:
        """Write numbers, tables, figures and pages by name."""


@checked
def log_result(to: Any, result: Shown | str | Path, *, step: int = 0, name: str | None = None) -> None:
    """Log a record, or a report: its numbers, its table and its figure, or the page.

    Args:
        to: a ``torch.utils.tensorboard.SummaryWriter``, a run of ``wandb.init``, or a logger of Lightning. A Lightning
            logger that is neither TensorBoard's nor W&B's takes the numbers alone, since it has no place for the rest.
        result: a record of any analysis, or the path of a report (``.html``). W&B keeps the page; TensorBoard, which
            shows no pages, notes where it is.
        step: the training step it belongs to.
        name: begins all names; by default the record's kind, or ``report``.

    Raises:
        TypeError: `to` is none of these.
        FileNotFoundError: the report does not exist.
        ValueError: the file is not an HTML file.

    Example:
        >>> import tempfile
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> from resnet_paths import path_lengths
        >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        ...     log_result(writer, path_lengths(27), step=100)
    """
    target = target_of(to)
    if not isinstance(result, Shown):
        page = existing_file(result, "a report")
        if page.suffix != ".html":
            raise ValueError(f"expected the .html of a report, got {page.name!r}")
        target.write(name or "report", {"page": page}, step)
        return
    parts: dict[str, Any] = {**_numbers(result), "table": result.to_pandas()}
    axes = drawn(result)
    if axes is not None:
        parts["figure"] = axes.figure
    target.write(name or type(result).__name__, parts, step)


def log_figure(to: Any, record: Shown, *, step: int, name: str) -> None:
    """Log the figure of a record alone, where there is a place for it."""
    axes = drawn(record)
    if axes is not None:
        target_of(to).write(name, {"figure": axes.figure}, step)


def target_of(to: Any) -> _Target:
    """What writes to a logger.

    Raises:
        TypeError: it is none of those known.
    """
    inner = getattr(to, "experiment", None) if callable(getattr(to, "log_metrics", None)) else to
    if callable(getattr(inner, "add_scalar", None)) and callable(getattr(inner, "add_figure", None)):
        return _TensorBoard(inner)
    if callable(getattr(inner, "log", None)) and callable(getattr(inner, "define_metric", None)):
        return _WeightsAndBiases(inner)
    if callable(getattr(to, "log_metrics", None)):
        return _NumbersAlone(to)
    raise TypeError(f"expected a SummaryWriter, a run of wandb.init or a Lightning logger, got a {type(to).__name__}")


def _numbers(record: Shown) -> dict[str, float]:
    """The numbers of a record: its fields that are single numbers."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.repr}  # type: ignore[arg-type]
    single = (bool, int, float, np.number, np.bool_)
    return {name: float(value) for name, value in values.items() if isinstance(value, single)}


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, name: str, parts: Mapping[str, Any], step: int) -> None:
        """Numbers as scalars, tables as text, figures as images, and a page as its path."""
        for part, value in parts.items():
            tag = f"{name}/{part}"
            if part == "table":
                self.writer.add_text(tag, _markdown(value), global_step=step)
            elif part == "figure":
                self.writer.add_figure(tag, value, global_step=step)
            elif part == "page":
                self.writer.add_text(tag, f"`{value.resolve()}`", global_step=step)
            else:
                self.writer.add_scalar(tag, value, global_step=step)


class _WeightsAndBiases:
    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, name: str, parts: Mapping[str, Any], step: int) -> None:
        """Everything in one call, with its own step axis, since the step of a run only grows."""
        with first_import("wandb"):
            import wandb

        kinds: dict[str, Any] = {
            "table": lambda frame: wandb.Table(dataframe=frame.map(_plain)),
            "figure": lambda figure: wandb.Image(_picture(figure)),
            "page": lambda path: wandb.Html(str(path), inject=False),
        }
        self.run.define_metric(f"{name}/step")
        self.run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        logged = {f"{name}/{part}": kinds.get(part, float)(value) for part, value in parts.items()}
        self.run.log({**logged, f"{name}/step": step})


class _NumbersAlone:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def write(self, name: str, parts: Mapping[str, Any], step: int) -> None:
        """The numbers."""
        numbers = {f"{name}/{part}": value for part, value in parts.items() if isinstance(value, float)}
        if numbers:
            self.logger.log_metrics(numbers, step=step)


def _picture(figure: Any) -> Any:
    """A figure as a picture, which needs no window and no pyplot."""
    with first_import("PIL"):
        from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def _plain(value: Any) -> Any:
    """A cell that a table of W&B holds: a number, a text or nothing."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _markdown(frame: pd.DataFrame) -> str:
    """The first rows of a table."""
    head = [str(name) for name in frame.columns]
    rows = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in frame.head(_ROWS).to_numpy(object))]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text if len(frame) <= _ROWS else f"{text}\n\n{_ROWS} of {len(frame):,} rows"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value).replace("|", r"\|")
