"""Plans as JSON files: each object is written as the name of its kind and its fields.

Only the kinds listed here are created on reading. Those that `plan` defines itself are passed in, so that a plan can
save itself without an import circle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..arguments import check_arguments
from ..arguments.ranges import ANY
from ..files import existing_file, write_text
from ..surgery import RefitSettings
from .distillation import Distillation
from .goals import AccuracyDrop, Count, Disagreement, Latency, Rise
from .points import PlanPoint
from .repairs import Distil, NoRepair, Recalibrate, Refit
from .runtimes import Clock
from .search import Beam, Exact, Greedy
from .split import ImageSplit

FORMAT = 2
"""Raised when an older file could not be read, or would be read wrongly."""
_KINDS = {
    kind.__name__: kind
    for kind in (
        AccuracyDrop, Beam, Clock, Count, Disagreement, Distil, Distillation, Exact, Greedy, ImageSplit, Latency,
        NoRepair, PlanPoint, Recalibrate, Refit, RefitSettings, Rise,
    )
}  # fmt: skip
Kinds = tuple[type, ...]


def write_plan(plan: Any, path: str | Path, kinds: Kinds) -> Path:
    """Write a plan that contains these kinds besides the usual ones; images are named, not stored."""
    return write_text(path, json.dumps({"format": FORMAT, **_plain(plan, {*_KINDS.values(), *kinds})}, indent=2))


def _plain(value: Any, kinds: set[type]) -> Any:
    if isinstance(value, ImageSplit):
        value = value.weights
    if type(value) in kinds:
        parts = {
            field.name: _plain(getattr(value, field.name), kinds)
            for field in fields(value)
            if field.name != "finetuned_model"
        }
        return {"kind": type(value).__name__, **parts}
    if isinstance(value, tuple | list):
        return [_plain(item, kinds) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item, kinds) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", None) if callable(value) else None


def read_plan(path: str | Path, kinds: Kinds) -> Any:
    """Read a plan that was written with these kinds, the first of which is its own.

    Raises:
        ValueError: the file is not a plan.
    """
    source, named = existing_file(path, "a plan"), {**_KINDS, **{kind.__name__: kind for kind in kinds}}
    try:
        content = json.loads(source.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        if content.pop("format") != FORMAT:
            raise ValueError("it has another format; plan again")
        plan = _rebuilt(content, named)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}: {reason}") from error
    if not isinstance(plan, kinds[0]):
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}, which contains something else")
    return plan


def _rebuilt(value: Any, kinds: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_rebuilt(item, kinds) for item in value)
    if not isinstance(value, dict):
        return value
    parts = {name: _rebuilt(item, kinds) for name, item in value.items()}
    return _made(kinds[parts.pop("kind")], parts) if "kind" in parts else parts


def _made(kind: type, parts: dict[str, Any]) -> Any:
    """An object of its fields, whose types are compared with the hints: files are edited, and cut short."""
    check_arguments(kind.__init__, parts, dict.fromkeys(parts, ANY))  # type: ignore[misc]
    return kind(**parts)
