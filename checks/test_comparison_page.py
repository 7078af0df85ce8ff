"""The page of a comparison in a real browser: nothing said, nothing wider than the screen, tables that sort, values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnet_paths import cifar_resnet, compare
from resnet_paths.comparison import Comparison, PartSettings
from resnet_paths.data import digits
from resnet_paths.report import write_comparison


@pytest.fixture(scope="module")
def record() -> Comparison:
    models = {
        name: cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=seed).eval()
        for seed, name in enumerate(("first", "second", "third"))
    }
    return compare(
        models,
        digits("test").subset(slice(0, 12)),
        parts=["contributions", "surface"],
        settings=PartSettings(images=6, surface_points=3),
        draws=1,
        gradient_images=3,
        progress=False,
    )


@pytest.fixture(scope="module")
def page_file(record: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison(record, tmp_path_factory.mktemp("comparison") / "comparison.html")


@pytest.fixture(params=[(390, "dark"), (1280, "light")], ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request: pytest.FixtureRequest, watched: Any, page_file: Path) -> Any:
    width, scheme = request.param
    page = watched(page_file, width, scheme)
    page.width = width
    return page


def test_the_page_is_quiet_and_as_wide_as_the_screen(opened: Any) -> None:
    for summary in opened.query_selector_all("main details > summary"):
        summary.click()
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.width
    assert opened.said == []


def test_the_table_of_models_sorts(opened: Any, record: Comparison) -> None:
    opened.click("#models summary:has-text('One row per model')")
    opened.click("#models th button:has-text('error')")
    rows = [row.inner_text() for row in opened.query_selector_all("#models tbody tr td:first-child")]
    ranks = [record.values[record.models.index(name)] for name in rows]
    assert sorted(rows) == sorted(record.models)
    assert ranks == sorted(ranks, reverse=True)  # numbers: the largest first
    opened.click("#models th button:has-text('error')")
    again = [row.inner_text() for row in opened.query_selector_all("#models tbody tr td:first-child")]
    assert [record.values[record.models.index(name)] for name in again] == sorted(ranks)


def test_every_figure_has_a_name(opened: Any) -> None:
    drawn = opened.query_selector_all("figure svg[role=img]")
    assert len(drawn) == 2 + 2 + 2 + 3
    assert all(
        "model" in (one.get_attribute("aria-label") or "") or "Loss of" in one.get_attribute("aria-label")
        for one in drawn
    )
