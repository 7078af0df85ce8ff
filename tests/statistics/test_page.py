"""The page on intervals lists every interval of the library, and was made by its script."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explanation" / "intervals.md").read_text()


def _coverage():
    """The script as a module."""
    path = ROOT / "analysis" / "intervals" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _names() -> set[str]:
    """Every public method and field of the library by whose name it is an interval, a range, or one end of them."""
    found = set()
    for path in (ROOT / "src" / "resnet_paths").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or path.parent.name == "arguments":  # ranges that arguments may have
                continue
            for item in node.body:
                name = item.name if isinstance(item, ast.FunctionDef) else ""
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    name = item.target.id
                if name and ("interval" in name or name.endswith("_range") or name in ("low", "high")):
                    found.add(f"{node.name}.{name}")
    return found


@pytest.mark.slow
def test_every_interval_is_on_the_page() -> None:
    names = _names()
    assert len(names) >= 25
    for name in sorted(names):
        owner, _, field = name.partition(".")
        assert f"`{field}`" in PAGE or f".{field}`" in PAGE, name
        assert owner in PAGE or owner in ("PlanPoint",), name


def test_the_page_is_what_the_script_writes() -> None:
    module = _coverage()
    for kind in module.KINDS:
        section = PAGE.partition(f"## {kind.title}\n")[2].partition("\n## ")[0]
        assert kind.where in section
        assert kind.verdict in section
    assert module.REST.strip() in PAGE


@pytest.mark.parametrize(
    "rows", ["shares", "combined", "compared_orders", "compared", "energies", "traces", "rough_differences"]
)
def test_cells_of_the_page_again(rows: str) -> None:
    """With fewer tries: each within four standard deviations of what the page says."""
    for row in getattr(_coverage(), rows)(400):
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row.regime} |"))
        said = float(line.split("|")[2].strip().removesuffix("%")) / 100
        allowed = 5.1e-4 if row.tries is None else 4 * (0.05 * 0.95 * (1 / row.tries + 1 / 2000)) ** 0.5
        assert abs(row.coverage - said) <= allowed, row
