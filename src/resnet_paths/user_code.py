"""Objects in a user's own module or Python file, by name: ``module:function`` or ``file.py:function``.

Not ``importlib.import_module`` alone: a file has no importable name, two files may have the same one, and worker
processes must be able to unpickle its objects.
"""

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


def user_object(place: str, name: str) -> Any:
    """The object `name` of a module or a Python file, which is executed on import.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the module cannot be imported, or has no such name.

    Example:
        >>> user_object("math", "pi")
        3.141592653589793
    """
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    value = getattr(module, name, None)
    if value is None:
        raise ValueError(f"expected a function {name!r} in {place}, got none; similar names: {near(name, dir(module))}")
    return value


def is_user_code(spec: str) -> bool:
    """Whether a name has the form ``module:function`` or ``file.py:function``."""
    source, colon, name = spec.rpartition(":")
    return bool(colon) and name.isidentifier() and (source.endswith(".py") or source.replace(".", "_").isidentifier())


def near(name: str, known: list[str]) -> str:
    """The known names most similar to an unknown one, for an error message."""
    similar = difflib.get_close_matches(name, known, 5, 0.4)
    return ", ".join(similar) if similar else "no name like it"


def _imported(place: str) -> ModuleType:
    try:
        with patch.object(
            sys, "path", ["", *sys.path]
        ):  # otherwise the script's folder comes first instead of the current one
            return importlib.import_module(place)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"expected module:function with a module that can be imported, got {place!r}, which cannot be imported: "
            f"{error}; install it, run in its folder, or pass the file as path/to/file.py:function"
        ) from error


def _from_file(path: Path) -> ModuleType:
    """Import a file under a name that hides no other module; its objects are pickled by value."""
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
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it by this name
    return module
