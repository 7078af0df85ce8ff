"""Lint, format and types are part of the test command; so are the house's rules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"graph"},
    {"network"},
    {"surgery", "sweep"},
    {"data", "models", "training"},
    {"paths", "lesion", "landscape", "tradeoff"},
    {"plot", "callbacks"},
    {"report"},
    {"cli"},
]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_static_checks(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def _imports(path: Path) -> set[str]:
    """The packages of the house that a file imports, at whatever depth."""
    package = path.relative_to(ROOT / "src").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.add(".".join([*base, *filter(None, [node.module])]))
            found |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("resnet_paths.")}


def test_packages_import_only_downwards() -> None:
    level = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
    wrong = []
    for path in (ROOT / "src" / "resnet_paths").rglob("*.py"):
        package = path.relative_to(ROOT / "src" / "resnet_paths").parts[0]
        if package not in level:
            continue
        above = {other for other in _imports(path) if level.get(other, -1) > level[package]}
        wrong += [f"{path.name} of {package} imports {other}" for other in above]
    assert not wrong


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
