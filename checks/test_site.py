"""The site builds without a warning, and its reference has every public name."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    reference = tmp_path / "site" / "api"
    for package in (ROOT / "src" / "resnet_paths").glob("*/__init__.py"):
        module = importlib.import_module(f"resnet_paths.{package.parent.name}")
        public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        names = [name for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)]
        made = (reference / package.parent.name / "index.html").read_text() if names else ""
        documented = set(re.findall(rf'id="resnet_paths\.{package.parent.name}\.([\w.]+)"', made))
        missing = [name for name in names if not documented & {name, f"{name}.{name}"}]
        assert not missing, f"public names of {package.parent.name} without a place in the reference: {missing}"
    made = (reference / "index.html").read_text()
    assert not re.search(r'(src|href)="https?://[^"]*\.(css|js|woff2?)"', made), "a page loads files of another host"
