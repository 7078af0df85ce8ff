"""Which code decides what a function returns.

Three kinds of code take part, and each has its own sign of being the same as before. Installed packages count by their
version, since nobody edits them. This package counts by the text of all its files: under development it changes without
a new version, and to follow its functions one by one took a second and could only miss something. What the user wrote
is followed function by function from its bytecode (see `fingerprints`), because a script or a notebook changes all the
time, and a sweep of hours should be lost only to edits that matter to it.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

OWN_PACKAGE = __name__.partition(".")[0]
DOCSTRING_FLAG = 0x4000000  # CO_HAS_DOCSTRING, from Python 3.13 on

CLASS_NOISE = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate_func__", "__annotations_cache__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__abstractmethods__", "__parameters__",
    "_abc_impl", "__static_attributes__", "__firstlineno__", "__orig_bases__", "__protocol_attrs__", "__slots__",
}  # fmt: skip
"""Members of a class that do not affect its behaviour, or that the interpreter adds by itself."""

_LIBRARIES = tuple(
    Path(path).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)


@dataclass(frozen=True)
class ModuleUse:
    """A module of user code, and the members of it that are used."""

    name: str
    used: tuple[Any, ...]


def is_own_package(module: str | None) -> bool:
    """Whether a module belongs to this package."""
    return module is not None and module.partition(".")[0] == OWN_PACKAGE


@functools.cache
def installed_version(module: str | None) -> str | None:
    """The version that stands for an installed module's code; None for user code."""
    if module is None or module == "__main__":
        return None
    top = module.partition(".")[0]
    if top == OWN_PACKAGE:
        return f"{_version(OWN_PACKAGE)} {text_of(Path(__file__).parents[1])}"
    loaded = sys.modules.get(module) or sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    if loaded is None or (file is not None and not _is_installed(Path(file).resolve())):
        return None
    return _version(top)


def _is_installed(file: Path) -> bool:
    """Whether a file is in a folder of libraries, of this environment or of one whose packages this one sees too."""
    beside = {"site-packages", "dist-packages"}.intersection(file.parts)
    return bool(beside) or any(folder in file.parents for folder in _LIBRARIES)


@functools.cache
def text_of(root: Path) -> str:
    """A digest of the Python files in a folder, with their names; about 20 ms for this package, once."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _version(top: str) -> str:
    """The version of a package, or that of the interpreter for the standard library."""
    if top in sys.stdlib_module_names:
        return sys.version
    try:
        return str(getattr(sys.modules.get(top), "__version__", None) or metadata.version(top))
    except metadata.PackageNotFoundError:
        return sys.version


def globals_read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The global names that a function or its inner functions look up, and their values."""
    names, attributes = _names(function.__code__)
    for name in sorted(names):
        if name in function.__globals__:
            item = function.__globals__[name]
            yield name, _module_use(item, attributes) if isinstance(item, ModuleType) else item


@functools.lru_cache(
    maxsize=1 << 14
)  # a fingerprint visits the same code often, and every sweep takes several fingerprints
def _names(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The global names and the attribute names in a code object and all code inside it."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    attributes = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_names, more_attributes = _names(inner)
            names |= more_names
            attributes |= more_attributes
    return frozenset(names), frozenset(attributes)


def _module_use(module: ModuleType, attributes: frozenset[str], depth: int = 0) -> Any:
    """A user module reduced to the members that are used; an installed module unchanged."""
    if installed_version(module.__name__) is not None:
        return module
    used = []
    for name in sorted(attributes & set(vars(module))):
        item = vars(module)[name]
        if not isinstance(item, ModuleType):
            used.append(item)
        elif depth < 4:
            used.append(_module_use(item, attributes, depth + 1))
    return ModuleUse(module.__name__, tuple(used))


def has_docstring(code: CodeType) -> bool:
    """Whether a function's first constant is its docstring rather than a value that it uses."""
    if not code.co_consts or not isinstance(code.co_consts[0], str):
        return False
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & DOCSTRING_FLAG)
    loads = (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_CONST")
    return not any(argument is code.co_consts[0] for argument in loads)
