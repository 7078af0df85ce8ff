"""A browser, and what it is asked of every page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CONTRAST = """selector => {
  const shade = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return shade(colour);
    }
    return 1;
  };
  return [...document.querySelectorAll(selector)].map(element => {
    const [low, high] = [shade(getComputedStyle(element).color), paper(element)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page is checked as text only (test_report.py)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file; the page's `said` holds its messages, its errors, and what it asks of others."""
    contexts = []

    def opened(
        path: Path,
        width: int = 1280,
        scheme: str = "light",
        *,
        own: tuple[str, ...] = ("data:", "file:"),
        **options: Any,
    ) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(own) or page.said.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def contrast() -> str:
    """A function of the page: the contrast of each selected element's text with what is behind it."""
    return CONTRAST
