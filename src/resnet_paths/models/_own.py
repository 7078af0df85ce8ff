"""Models that a user's own function makes: ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import cloudpickle
from torch import nn


def own_model(place: str, name: str, options: dict[str, Any]) -> nn.Module:
    """What the function `name` of a module, or of a Python file, returns for these options.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the module cannot be imported, has no such function, or that returns no module.

    Example:
        >>> type(own_model("torch.nn", "Linear", {"in_features": 2, "out_features": 3})).__name__
        'Linear'
    """
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    maker = getattr(module, name, None)
    if maker is None:
        raise ValueError(f"expected a function {name!r} in {place}, got none; near names: {near(name, dir(module))}")
    model = maker if isinstance(maker, nn.Module) or not callable(maker) else maker(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected {place}:{name} to return a torch.nn.Module, got {type(model).__name__}; return the model itself"
        )
    return model


def near(name: str, known: list[str]) -> str:
    """The names nearest to one that is unknown, for a message."""
    found = difflib.get_close_matches(name, known, 5, 0.4)
    return ", ".join(found) if found else "no name like it"


def _imported(place: str) -> ModuleType:
    try:
        with patch.object(sys, "path", ["", *sys.path]):  # a script's own folder would come first, not this one
            return importlib.import_module(place)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"expected module:function with a module that can be imported, got {place!r}, which cannot be imported: "
            f"{error}; install it, run where it lies, or give the file as path/to/file.py:function"
        ) from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, under a name that hides no other module; its objects are pickled by value."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a Python file, got {str(path)!r}, which does not exist; check the path")
    content = path.resolve().read_bytes() + str(path.resolve()).encode()
    name = f"_resnet_paths_{path.stem}_{hashlib.sha256(content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it by that name
    return module
