"""Read state dicts from files without running code, and load them into models.

This package is below the networks, so that an analysis of weights (`resnet_paths.landscape`) can read a run's
checkpoints without knowing the models that can be built by name, or how they are trained.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..arguments import checked
from .states import fit, say_foreign, state_in

ENDINGS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".tar", ".bin", ".t7", ".pt2")
"""Of files that hold weights."""
_NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in _NUMBERS},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # under any release of NumPy
]
"""What checkpoints contain beside tensors that only stores values: arguments, and scalars such as the best accuracy."""


@checked
def read_checkpoint(path: str | Path, key: str | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state and the facts of a checkpoint: safetensors, or a file of ``torch.save`` with any extension.

    A file of ``torch.save`` is read with ``weights_only=True``, so that it cannot run code. The state dict is looked up
    under the usual keys (``state_dict``, ``model_state_dict``, ``net``, ``model`` and others; a moving average if there
    is nothing else). In both kinds of files, the prefixes of ``DataParallel``, ``torch.compile`` and ``AveragedModel``
    are removed from the names.

    Args:
        path: the file.
        key: the entry to read, or the prefix of the names, if the file contains several networks.

    Returns:
        The tensors by name, on the CPU, and the facts of :func:`save_checkpoint` ({} if there are none).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint of these kinds.

    Example:
        >>> from resnet_paths.models.load import EMBEDDED
        >>> state, facts = read_checkpoint(EMBEDDED)
        >>> state["conv1.weight"].shape
        torch.Size([8, 1, 3, 3])
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"expected a checkpoint file, got {str(path)!r}, which does not exist; check the path")
    if _is_safetensors(source):
        with _opened(source) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = _facts(file)
        return state_in(state, source.name, key), facts
    return state_in(_loaded(source), source.name, key), {}


def read_facts(path: str | Path) -> dict[str, Any]:
    """Only the facts of a checkpoint; {} if there are none, or only foreign metadata.

    Example:
        >>> from resnet_paths.models.load import EMBEDDED
        >>> read_facts(EMBEDDED)["architecture"]["depth"]
        56
    """
    if not _is_safetensors(Path(path)):
        return {}
    with _opened(Path(path)) as file:
        return _facts(file)


def _facts(file: Any) -> dict[str, Any]:
    try:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_safetensors(source: Path) -> bool:
    return source.suffix.lower() == ".safetensors"


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    try:
        with safe_open(source, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"expected a safetensors file, got {source.name}, which cannot be read: {error}; download it again"
        ) from error


def _loaded(source: Path) -> Any:
    """The content of a file of torch.save, provided that it is only data."""
    if source.suffix == ".pt2":
        raise ValueError(
            f"expected weights, got the program {source.name}; torch.export.load runs it, model.safetensors beside it "
            "holds its weights"
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises all kinds of errors for damaged or unsafe files
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        own = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or str(error)  # no advice
        reason = f"an object of {unsafe[1]}, which would run code" if unsafe else f"{type(error).__name__}: {own}"
        raise ValueError(
            f"expected a state dict of tensors in {source.name} (loaded with weights_only=True), got "
            f"{' '.join(reason.split())[:300]}; save model.state_dict(), not the model"
        ) from error


@checked
def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], name: str = "the state dict") -> nn.Module:
    """Load a state dict into a model, in place, whatever wrappers either comes from.

    Raises:
        ValueError: the state dict does not fit.

    Example:
        >>> wrapped = {f"net.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
        >>> load_state(nn.Linear(2, 2), wrapped)
        Linear(in_features=2, out_features=2, bias=True)
    """
    match = fit(state, model.state_dict(), name)
    if not match.is_whole:
        raise ValueError(
            f"expected the weights of the model, got {name}, which does not fit {type(model).__name__}: "
            f"{match.difference()}; pass the model that it was saved from"
        )
    say_foreign(match, name)
    model.load_state_dict(match.state)
    return model
