"""What is published: a wheel and a source distribution that hold what they should and nothing else."""

import email
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def built(folder: Path, out: Path, *targets: str) -> list[Path]:
    pytest.importorskip("hatchling")
    options = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", str(out)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution of a copy of the tree, so that no build leaves a file in it."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    kept = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "results", "site", "dist")
    shutil.copytree(ROOT, copy, ignore=kept)
    wheel, sdist = built(copy, tmp_path_factory.mktemp("out"), "wheel", "sdist")
    return wheel, sdist


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    wheel, _ = distributions
    assert wheel.name.endswith("-py3-none-any.whl")
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    package = ROOT / "src" / "resnet_paths"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {f"resnet_paths/{path.relative_to(package).as_posix()}" for path in files}
    assert {"resnet_paths/py.typed", "resnet_paths/models/embedded/digits_resnet56.safetensors"} <= names
    assert sum(map(len, contents(wheel).values())) < 4_000_000  # 2 MB of code and 0.9 of weights


def test_the_wheel_says_what_it_needs(distributions: tuple[Path, Path]) -> None:
    files = contents(distributions[0])
    (metadata,) = (text for name, text in files.items() if name.endswith("/METADATA"))
    said = email.message_from_bytes(metadata)
    assert said["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert said["License-Expression"] == PROJECT["project"]["license"]
    needed = {line.partition(";")[0].strip() for line in said.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == set(PROJECT["project"]["dependencies"])
    assert "# resnet_paths" in said.get_payload()
    (entry_points,) = (text for name, text in files.items() if name.endswith("/entry_points.txt"))
    assert b"resnet-paths = resnet_paths.cli:main" in entry_points


def test_the_source_distribution_builds_the_same_wheel(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = distributions
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("checks/test_wheels.py", "docs/index.md", "mkdocs.yml", "README.md", "CHANGELOG.md", "LICENSE"):
        assert (folder / name).is_file(), f"{name} is not in the source distribution"
    (again,) = built(folder, tmp_path / "out", "wheel")
    assert contents(again) == contents(wheel)
