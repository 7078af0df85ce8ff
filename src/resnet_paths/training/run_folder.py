"""The folder of a run: weights of an epoch, optimiser state, log; whole after a kill at any moment."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..choices import Keep
from ..files import made_folder, whole_file
from ..graph.wrappers import inner_model
from ..models import load_state, read_checkpoint, save_checkpoint
from ._epoch import Trainer
from .recipe import Recipe

Rows = list[dict[str, float]]


class RunFolder:
    """What a run keeps: ``epoch-0001.safetensors``, ``last.pt`` and ``log.csv``.

    ``last.pt`` names the weights that belong to it and is replaced after these are written: a kill between the
    two leaves the epoch before, complete.
    """

    def __init__(self, path: str | Path, model: nn.Module, identity: dict[str, Any], keep: Keep) -> None:
        if keep not in ("last", "all"):
            raise ValueError(f"expected keep 'last' or 'all', got {keep!r}")
        self.path, self.keep = made_folder(path), keep
        self.identity = {"model": _structure(model), **identity}

    def resume(self, trainer: Trainer) -> Rows:
        """Put model, optimiser and scale of the loss where the run stood; its rows so far.

        Raises:
            ValueError: the folder holds a run of another model, recipe or other data.
        """
        for partial in [*self.path.glob(".epoch-*"), *self.path.glob(".last.pt*"), *self.path.glob(".log.csv*")]:
            partial.unlink()
        last = self.path / "last.pt"
        if not last.exists():
            return []
        saved = _read_state(last)
        was = dict(saved.get("identity", {}))
        was["recipe"] = {**asdict(Recipe()), **was.get("recipe", {})}  # a run from before an option existed
        other = [name for name, value in self.identity.items() if was.get(name) != value]
        if other:
            raise ValueError(
                f"expected in {self.path} a run of the same model, recipe and data, got another {' and '.join(other)}; "
                "choose another folder, or remove it"
            )
        try:
            weights = Path(saved["weights"]).name
            load_state(trainer.model, read_checkpoint(self.path / weights)[0], weights)
            trainer.optimiser.load_state_dict(saved["optimiser"])
            trainer.scaler.load_state_dict(saved.get("scaler", {}))
            rows: Rows = list(saved["rows"])
        except Exception as error:  # torch checks little of what it is given
            raise ValueError(_damaged(last, error)) from error
        self._log(rows)
        return rows

    def start(self, model: nn.Module, rows: Rows, facts: dict[str, Any]) -> None:
        """The initial weights, where all are kept."""
        if self.keep == "all" and not rows:
            save_checkpoint(model, self.path / "epoch-0000.safetensors", **facts)

    def save(self, trainer: Trainer, rows: Rows, facts: dict[str, Any]) -> None:
        """The state after an epoch; the epoch before goes, unless all are kept."""
        weights = self.path / f"epoch-{len(rows):04d}.safetensors"
        save_checkpoint(trainer.model, weights, **facts, figures=rows[-1])
        state = {
            "identity": self.identity,
            "weights": weights.name,
            "optimiser": trainer.optimiser.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "rows": rows,
        }
        with whole_file(self.path / "last.pt") as partial:
            torch.save(state, partial)
        if self.keep == "last":
            for other in self.path.glob("epoch-*.safetensors"):
                if other != weights:
                    other.unlink()
        self._log(rows)

    def _log(self, rows: Rows) -> None:
        with whole_file(self.path / "log.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def _read_state(last: Path) -> dict[str, Any]:
    """What ``last.pt`` holds; it cannot run code."""
    try:
        saved = torch.load(last, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("identity", {}), dict):
            raise ValueError(f"it holds a {type(saved).__name__}")
    except Exception as error:  # whatever torch.load raises on a damaged or an unsafe file
        raise ValueError(_damaged(last, error)) from error
    return saved


def _damaged(last: Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).partition("\n")[0].partition(". ")[0]
    return f"expected the state of a run in {last}, which cannot be used: {reason}; move its folder away to begin again"


def _structure(model: nn.Module) -> str:
    """A hash of the model's layers and settings, not of its values; the same in a wrapper and under another PyTorch.

    Not of the text that a model prints: PyTorch's releases print the same layer differently, and a run that was
    stopped before an update goes on after it.
    """
    model = inner_model(model)
    layers = [(name, type(layer).__qualname__, _settings(layer)) for name, layer in model.named_modules()]
    shapes = [(name, str(value.dtype), tuple(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(f"{layers}{shapes}".encode()).hexdigest()


def _settings(layer: nn.Module) -> dict[str, Any]:
    """What a layer was made with: for PyTorch's own what it declares as constant, else its plain attributes."""
    kept = vars(layer)
    if type(layer).__module__.startswith("torch."):
        names = [name for name in getattr(layer, "__constants__", ()) if name in kept]
    else:
        names = [name for name in kept if not name.startswith("_") and name != "training"]
    return {name: kept[name] for name in sorted(names) if _is_plain(kept[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
