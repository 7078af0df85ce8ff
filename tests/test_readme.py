"""The README's code runs as written, its links lead somewhere, and its benchmarks are those of the files they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}")
    for path in [ROOT / "README.md"]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_code_block_runs(block: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README", "exec"), {"__name__": "__main__"})


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_benchmarks_are_those_of_their_files() -> None:
    section = (ROOT / "README.md").read_text().partition("## Benchmarks")[2].partition("## Limits")[0]
    rows = re.findall(r"^\| .* \| ([\d.]+) times .* \| \[\w+\.py\]\(([\w/.]+)\) \|$", section, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| [^|]*\w", section, re.MULTILINE))
    for ratio, file in rows:
        cells = re.split(r"[|\n]", (ROOT / file).read_text())
        found = [float(match[1]) for cell in cells if (match := re.search(r"(?:^|median )([\d.]+)$", cell.strip()))]
        assert any(abs(value / float(ratio) - 1) < 0.1 for value in found if value), f"{file} has nothing near {ratio}"


def test_the_house_in_the_drawing_is_the_one_that_is_checked() -> None:
    from test_quality import FLOORS

    drawn = (ROOT / "CONTRIBUTING.md").read_text().partition("```text")[2].partition("```")[0]
    for package in (ROOT / "src" / "resnet_paths").glob("*/__init__.py"):
        name = package.parent.name
        assert re.search(rf"\b{name}\b", drawn), f"{name} is not in the drawing"
        assert any(name in floor for floor in FLOORS), f"{name} stands on no floor"


def test_the_changelog_knows_the_version() -> None:
    import resnet_paths

    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changes or f"## {resnet_paths.__version__}" in changes


def test_what_is_cited_is_this_version() -> None:
    """CITATION.cff and the BibTeX entry of the FAQ name the version, and both the same title."""
    import resnet_paths

    citation, faq = (ROOT / "CITATION.cff").read_text(), (ROOT / "docs" / "faq.md").read_text()
    entry = faq.partition("```bibtex\n")[2].partition("```")[0].replace("\\_", "_")
    assert f"\nversion: {resnet_paths.__version__}\n" in citation
    assert f"version = {{{resnet_paths.__version__}}}" in entry
    assert "title = {resnet_paths" in entry
    assert "title: resnet_paths" in citation
