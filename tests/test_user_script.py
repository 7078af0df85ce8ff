"""What a user writes is typed throughout, and works as typed."""

import re
from pathlib import Path

from user_script import main


def test_a_script_that_touches_every_package_works(tmp_path: Path) -> None:
    """That it passes ``mypy --strict`` is part of the lint step: `files` in pyproject.toml names it."""
    lines = main(tmp_path)
    assert len(lines) > 10
    assert (tmp_path / "page.html").exists()


def test_the_script_ignores_no_type_and_imports_every_package() -> None:
    text = Path(__file__).with_name("user_script.py").read_text()
    assert "ignore" not in text
    packages = {path.parent.name for path in (Path(__file__).parents[1] / "src" / "resnet_paths").glob("*/__init__.py")}
    named = set(re.findall(r"\b\w+\b", text))
    assert packages - named == {"arguments", "checkpoints", "cli", "graph"}  # no faces for users
