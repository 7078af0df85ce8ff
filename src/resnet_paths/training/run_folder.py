"""The folder of a run: weights of an epoch, optimiser state and log, consistent after a kill at any moment.

Beside `save_checkpoint`, which writes weights alone: an exact resume also needs the momentum buffers, the loss scale
and the metrics so far. They are in a second file, so that the weights stay a plain safetensors file that any tool
reads. The second file names the first and is replaced last, atomically; that order makes the pair consistent.
"""

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
    """The files of a run: ``epoch-0001.safetensors``, ``last.pt`` and ``log.csv``.

    ``last.pt`` names the weights that belong to it and is replaced after they are written: a kill between the two
    leaves the previous epoch, complete.
    """

    def __init__(self, path: str | Path, model: nn.Module, identity: dict[str, Any], keep: Keep) -> None:
        if keep not in ("last", "all"):
            raise ValueError(f"expected keep 'last' or 'all', got {keep!r}")
        self.path, self.keep = made_folder(path), keep
        self.identity = {"model": _structure(model), **identity}

    def resume(self, trainer: Trainer) -> Rows:
        """Restore model, optimiser and loss scale from the last checkpoint, and return the rows so far.

        Raises:
            ValueError: the folder belongs to a run with another model, recipe or data set, or its state is damaged.
        """
        for partial in [*self.path.glob(".epoch-*"), *self.path.glob(".last.pt*"), *self.path.glob(".log.csv*")]:
            partial.unlink()
        last = self.path / "last.pt"
        if not last.exists():
            return []
        saved = _read_state(last)
        saved_identity = dict(saved.get("identity", {}))
        saved_identity["recipe"] = {
            **asdict(Recipe()),
            **saved_identity.get("recipe", {}),
        }  # an older run lacks newer options: their defaults
        different = [name for name, value in self.identity.items() if saved_identity.get(name) != value]
        if different:
            raise ValueError(
                f"expected a run of the same model, recipe and data in {self.path}, got another "
                f"{' and '.join(different)}; choose another folder, or remove it"
            )
        try:
            weights = Path(saved["weights"]).name
            load_state(trainer.model, read_checkpoint(self.path / weights)[0], weights)
            trainer.optimiser.load_state_dict(saved["optimiser"])
            trainer.scaler.load_state_dict(saved.get("scaler", {}))
            rows: Rows = list(saved["rows"])
        except Exception as error:  # torch barely checks the states that it loads
            raise ValueError(_damaged(last, error)) from error
        self._log(rows)
        return rows

    def start(self, model: nn.Module, rows: Rows, facts: dict[str, Any]) -> None:
        """Save the initial weights where all are kept."""
        if self.keep == "all" and not rows:
            save_checkpoint(model, self.path / "epoch-0000.safetensors", **facts)

    def save(self, trainer: Trainer, rows: Rows, facts: dict[str, Any]) -> None:
        """Save the state after an epoch; the previous epoch is removed unless all are kept."""
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
            for previous in self.path.glob("epoch-*.safetensors"):
                if previous != weights:
                    previous.unlink()
        self._log(rows)

    def _log(self, rows: Rows) -> None:
        with whole_file(self.path / "log.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def _read_state(last: Path) -> dict[str, Any]:
    """The content of ``last.pt``, loaded without running any code in it."""
    try:
        saved = torch.load(last, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("identity", {}), dict):
            raise ValueError(f"it contains a {type(saved).__name__}")
    except Exception as error:  # whatever torch.load raises on a damaged or an unsafe file
        raise ValueError(_damaged(last, error)) from error
    return saved


def _damaged(last: Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).partition("\n")[0].partition(". ")[0]
    return f"expected the state of a run in {last}, which cannot be used: {reason}; move its folder away to start again"


def _structure(model: nn.Module) -> str:
    """A hash of the model's layers and settings without its values; the same in a wrapper and under another PyTorch.

    It does not use the model's ``repr``: PyTorch releases print the same layer differently, and a run that was stopped
    before an update must resume after it.
    """
    model = inner_model(model)
    layers = [(name, type(layer).__qualname__, _settings(layer)) for name, layer in model.named_modules()]
    shapes = [(name, str(value.dtype), tuple(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(f"{layers}{shapes}".encode()).hexdigest()


def _settings(layer: nn.Module) -> dict[str, Any]:
    """A layer's constructor settings: the declared constants of PyTorch's own layers, else the plain attributes."""
    attributes = vars(layer)
    if type(layer).__module__.startswith("torch."):
        names = [name for name in getattr(layer, "__constants__", ()) if name in attributes]
    else:
        names = [name for name in attributes if not name.startswith("_") and name != "training"]
    return {name: attributes[name] for name in sorted(names) if _is_plain(attributes[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
