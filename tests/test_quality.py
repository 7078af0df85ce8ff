"""The house's rules: who imports whom, and how. Lint, format and types are lines of the test command beside this."""

import ast
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "resnet_paths"
FLOORS = [
    {"arguments", "records"},
    {"graph", "statistics", "checkpoints"},
    {"network"},
    {"data", "sweep"},
    {"surgery"},
    {"models", "training"},
    {"paths", "lesion", "landscape", "tradeoff"},
    {"comparison"},
    {"plot", "callbacks"},
    {"report"},
    {"cli"},
]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imported(path: Path, nodes: Callable[[ast.AST], Iterable[ast.AST]] = ast.walk) -> set[str]:
    """The modules and names of the house that a file imports, at whatever depth, without the leading package."""
    package = path.relative_to(ROOT / "src").parts[:-1]
    found = set()
    for node in nodes(_tree(path)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.add(".".join([*base, *filter(None, [node.module])]))
            found |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("resnet_paths.") for name in found if name.startswith("resnet_paths.")}


def _imports(path: Path) -> set[str]:
    """The packages of the house that a file imports."""
    return {name.split(".")[0] for name in _imported(path)}


def _private_beyond_its_package(name: str, importer: tuple[str, ...]) -> str | None:
    """The private part of an imported name, if the package that it is in does not hold the importer."""
    parts = tuple(name.split("."))
    for depth, part in enumerate(parts):
        package = parts[:depth] if (SOURCE / Path(*parts[:depth])).is_dir() else parts[: depth - 1]
        if part.startswith("_") and not part.startswith("__") and importer[: len(package)] != package:
            return ".".join(parts[: depth + 1])
    return None


@pytest.mark.slow
def test_nothing_private_is_imported_across_packages() -> None:
    """A leading underscore says: for this package, and what is inside it, alone."""
    across = set()
    for path in SOURCE.rglob("*.py"):
        file = path.relative_to(SOURCE)
        private = {_private_beyond_its_package(name, file.parts[:-1]) for name in _imported(path)}
        across |= {(file.as_posix(), name) for name in private - {None}}
    assert not across


def test_tests_import_open_names_alone() -> None:
    """What a test needs is worth a name without an underscore; what is private may change without a test's leave."""
    private = set()
    for folder in ("tests", "checks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(_tree(path)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("resnet_paths"):
                    parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                    private |= {(path.name, part) for part in parts if re.match("_(?!_)", part)}
    assert not private


def test_scripts_import_names_that_exist() -> None:
    """Studies and benchmarks take minutes, so no test runs them; a name that has changed is found all the same."""
    missing = set()
    for folder in ("analysis", "checks", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(_tree(path)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("resnet_paths"):
                    module = import_module(str(node.module))
                    names = {alias.name for alias in node.names}
                    missing |= {(path.name, name) for name in names if not _has(module, name)}
    assert not missing


def _has(module: ModuleType, name: str) -> bool:
    is_package = hasattr(module, "__path__")
    return hasattr(module, name) or (is_package and find_spec(f"{module.__name__}.{name}") is not None)


def test_private_names_are_distinguished_from_public_ones() -> None:
    judged = {
        name: _private_beyond_its_package(name, ("lesion",))
        for name in (
            "surgery._places",
            "lesion._exchange",
            "_display.shown",
            "lesion.game._x",
            "network.summary._cells",
            "__version__",
        )
    }
    assert {name for name, private in judged.items() if private} == {"surgery._places", "network.summary._cells"}


@pytest.mark.slow
def test_packages_import_only_downwards() -> None:
    level = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
    wrong = []
    for path in SOURCE.rglob("*.py"):
        package = path.relative_to(SOURCE).parts[0]
        if package not in level:
            continue
        above = {other for other in _imports(path) if level.get(other, -1) > level[package]}
        wrong += [f"{path.name} of {package} imports {other}" for other in above]
    assert not wrong


BELOW_AN_ANALYSIS = {
    "arguments", "records", "graph", "statistics", "checkpoints", "network", "data", "sweep", "surgery",
}  # fmt: skip
"""What an analysis stands on. Not on models by name, on training or on the analyses beside it."""


@pytest.mark.slow
def test_landscapes_know_no_other_analysis_and_no_training() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    above = packages - BELOW_AN_ANALYSIS - {"landscape"}
    wrong = {path.name: _imports(path) & above for path in (SOURCE / "landscape").rglob("*.py")}
    assert not {name: imported for name, imported in wrong.items() if imported}


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _runs(node: ast.AST) -> list[ast.AST]:
    """All of a file that runs: without what type checkers alone read."""
    inner = [child for child in ast.iter_child_nodes(node) if not _for_type_checkers(child)]
    return [node, *(found for child in inner for found in _runs(child))]


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _circles(edges: dict[str, set[str]]) -> list[str]:
    """The nodes from which a way leads back to them."""
    reached = {node: set(targets) for node, targets in edges.items()}
    for middle in reached:  # Warshall's closure
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    return sorted(node for node, targets in reached.items() if node in targets)


@pytest.mark.slow
def test_no_module_imports_itself_in_a_circle_not_even_later() -> None:
    """Imports within functions count: a circle that is put off is one all the same."""
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    modules = {_module(path): path for path in SOURCE.rglob("*.py")}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        names, targets = _imported(path, _runs), set()
        for imported in names:
            if any(longer.startswith(f"{imported}.") for longer in names):
                continue  # of `from .a import b` it is a.b that counts
            while imported and imported not in modules:
                imported = imported.rpartition(".")[0]
            targets.add(imported)
        edges[name] = targets - {"", name}  # the package itself imports each of its parts at first use
    assert not _circles(edges)


def test_what_decides_a_value_follows_from_fields() -> None:
    """A list of what counts, by hand, forgets the field that is added later; `deciding` counts it."""
    by_hand = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and "def __sweep_fingerprint__" in ast.unparse(node):
                by_hand += [f"{path.name}: {node.name}"] * ("deciding(self" not in ast.unparse(node))
    assert not by_hand


FREE = {*sys.stdlib_module_names, "resnet_paths"}
USUAL = {"torch", "numpy"}
"""Imported by all that computes; a command imports them when it runs, not for its help."""


def _deferred_imports(tree: ast.AST, first: bool = False, deferred: bool = False) -> list[str]:
    """The other libraries that code imports within functions, outside of ``with first_import(...)``."""
    bare = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [str(node.module)]
        bare += [
            name for name in modules if name not in USUAL and deferred and not first and name.split(".")[0] not in FREE
        ]
        within = isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("first_import(")
        bare += _deferred_imports(node, first or within, deferred or isinstance(node, ast.FunctionDef))
    return bare


@pytest.mark.slow
def test_imports_within_functions_leave_no_mark() -> None:
    """Those of other libraries stand in ``first_import``, which restores the environment and the warnings filters."""
    assert _deferred_imports(ast.parse("def f():\n    import torch.x")) == ["torch.x"]
    assert not _deferred_imports(ast.parse("def f():\n    with first_import('torch.x'):\n        import torch.x"))
    bare = {path.name: _deferred_imports(_tree(path)) for path in SOURCE.rglob("*.py")}
    assert not {name: modules for name, modules in bare.items() if modules and name != "imports.py"}


def test_no_function_hides_a_module_or_a_package() -> None:
    """``from . import name`` in a package would bind the function over the module: the module could not be reached."""
    hidden = []
    for init in SOURCE.rglob("__init__.py"):
        names = ast.unparse(_tree(init)).partition("__all__ = ")[2].partition("]")[0]
        modules = {path.stem for path in init.parent.glob("*.py")} | {path.name for path in init.parent.iterdir()}
        hidden += [f"{init.parent.name}.{name}" for name in re.findall(r"'(\w+)'", names) if name in modules]
    assert not hidden


def test_public_names_are_few_and_real() -> None:
    import resnet_paths

    names = resnet_paths.__all__
    assert len(names) <= 25
    assert len(set(names)) == len(names)
    assert all(getattr(resnet_paths, name) is not None for name in names)


def test_version_is_the_one_installed() -> None:
    from importlib.metadata import version

    import resnet_paths

    assert resnet_paths.__version__ == version("resnet-paths")
