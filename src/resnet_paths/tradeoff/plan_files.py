"""Plans as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..files import existing_file, write_text
from ..surgery import RefitSettings
from .distil import Distillation
from .goals import AccuracyDrop, Count, Disagreement, Latency
from .plan import DropPlan, ImagesUsed
from .points import PlanPoint
from .repairs import Distil, NoRepair, Recalibrate, Refit
from .runtimes import Clock
from .search import Beam, Exact, Greedy
from .split import ImageSplit

FORMAT = 2
_KINDS = {
    kind.__name__: kind
    for kind in (
        AccuracyDrop, Beam, Clock, Count, Disagreement, Distil, Distillation, DropPlan, Exact, Greedy, ImagesUsed,
        ImageSplit, Latency, NoRepair, PlanPoint, Recalibrate, Refit,
        RefitSettings,
    )
}  # fmt: skip


def write_plan(plan: DropPlan, path: str | Path) -> Path:
    """Write a plan; images are named, not kept."""
    return write_text(path, json.dumps({"format": FORMAT, **_plain(plan)}, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, ImageSplit):
        value = value.weights
    if type(value) in _KINDS.values():
        parts = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.name != "made"}
        return {"kind": type(value).__name__, **parts}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", None) if callable(value) else None


@checked
def load_plan(path: str | Path) -> DropPlan:
    """Read a plan that was saved.

    Raises:
        ValueError: not a plan.
    """
    source = existing_file(path, "a plan")
    try:
        content = json.loads(source.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError("another format; plan again")
        plan = _made(content)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}: {error}") from error
    if not isinstance(plan, DropPlan):
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}, which holds something else")
    return plan


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_made, value))
    if not isinstance(value, dict):
        return value
    parts = {name: _made(item) for name, item in value.items()}
    return _KINDS[parts.pop("kind")](**parts) if "kind" in parts else parts
