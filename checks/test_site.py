"""The site builds without a warning, its reference has every public name, and a browser shows all of every page."""

from __future__ import annotations

import functools
import http.server
import importlib
import inspect
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CUT = """() => [...document.querySelectorAll("article pre > code, .md-typeset__scrollwrap, math, article img")]
  .filter(shown => shown.scrollWidth > shown.clientWidth + 1 && shown.clientWidth > 0)
  .map(shown => shown.textContent.trim().slice(0, 60))"""
"""What does not fit where it stands: lines of code, tables and formulas that scroll."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("latex2mathml", reason="it translates the formulas: pip install latex2mathml")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_reference_has_every_public_name(site: Path) -> None:
    for package in (ROOT / "src" / "resnet_paths").glob("*/__init__.py"):
        module = importlib.import_module(f"resnet_paths.{package.parent.name}")
        public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        names = [name for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)]
        made = (site / "api" / package.parent.name / "index.html").read_text() if names else ""
        documented = set(re.findall(rf'id="resnet_paths\.{package.parent.name}\.([\w.]+)"', made))
        missing = [name for name in names if not documented & {name, f"{name}.{name}"}]
        assert not missing, f"public names of {package.parent.name} without a place in the reference: {missing}"


def test_no_page_loads_files_of_another_host_and_every_formula_is_typeset(site: Path) -> None:
    formulas = 0
    for page in site.rglob("*.html"):
        made = page.read_text()
        assert not re.search(r'(src|href)="https?://[^"]*\.(css|js|woff2?)"', made), page
        assert "arithmatex" not in made, f"{page}: a formula is not translated"
        formulas += made.count("<math ")
    assert formulas > 80


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a server of this machine: a search needs one."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_everything_fits_its_page(browser: Any, address: str, site: Path) -> None:
    """At 1280 pixels nothing scrolls sideways; on a phone tables may, within a page that does not. Nothing is said."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: "127.0.0.1" in asked.url or said.append(asked.url))
    wrong = []
    for file in sorted(site.rglob("index.html")):
        place = str(file.relative_to(site).parent)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{address}{place}/", wait_until="load")
        wrong += [(place, cut) for cut in page.evaluate(CUT)]
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wrong.append((place, f"the page at {width}"))
    page.close()
    assert not wrong
    assert not said


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("normalisation of my images", "how-to/data-and-checkpoints/"),
        ("normalization mean std", "how-to/data-and-checkpoints/"),
        ("delete a block", "how-to/lesions/"),
        ("export to ONNX", "how-to/drop-and-export/"),
        ("my own model", "how-to/own-model/"),
        ("how to cite", "faq/"),
    ],
)
def test_a_question_finds_its_page_among_the_first_three(browser: Any, address: str, asked: str, answer: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}?q={asked.replace(' ', '+')}")
    page.wait_for_selector(".md-search-result__item", state="attached")
    found = [link.get_attribute("href") for link in page.query_selector_all(".md-search-result__item > a:first-child")]
    page.close()
    assert any(answer in place for place in found[:3]), found[:3]


def test_the_cheat_sheet_prints_on_one_page(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}cheat-sheet/")
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom"), "1cm")))
    page.close()
    assert len(pages) == 1


def test_figures_follow_the_theme_that_the_reader_chooses(browser: Any, address: str) -> None:
    """The same figure is dark ink on a light page and light ink on a dark one, whatever the system prefers."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.goto(f"{address}gallery/")
    figure = page.locator("article img").first
    light = figure.screenshot()
    page.evaluate("document.querySelector('label[for=__palette_1], label[title=Dark]').click()")
    page.wait_for_timeout(300)
    assert page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
    dark = figure.screenshot()
    page.close()
    assert _brightest_of(light) > 0.9 > 0.5 > _median_of(dark)
    assert _brightest_of(dark) > 0.7, "the ink of a figure stays dark on a dark page"


def _grey(picture: bytes) -> Any:
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=float) / 255


def _brightest_of(picture: bytes) -> float:
    return float(_grey(picture).max())


def _median_of(picture: bytes) -> float:
    import numpy as np

    return float(np.median(_grey(picture)))
