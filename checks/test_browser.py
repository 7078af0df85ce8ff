"""The page in a real browser, at the widths of a phone and of a screen, light and dark."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_paths.data import digits
from resnet_paths.models import load_model
from resnet_paths.report import STAGES, Stage, write_report

SHOWN = ("checks", "blocks", "lesion", "lengths", "surface")


def failing(subject: Any, options: Any) -> Any:
    raise RuntimeError("a-very-long-word-" * 20)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stages = [stage for stage in STAGES if stage.name in SHOWN]
    stages.insert(2, Stage("broken", "A stage that fails", "What then?", failing, {}, {}))
    report = write_report(
        load_model("embedded"),
        digits("test").subset(slice(0, 60)),
        tmp_path_factory.mktemp("browser") / "report.html",
        stages=stages,
        options={"surface": {"images": 10, "steps": 5}},
        progress=False,
    )
    assert report.failed == ["broken"]
    return report.path


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("data:", "file:")) or page.said.append(asked.url))
    page.goto(page_file.as_uri())
    for summary in page.query_selector_all("main details > summary"):
        summary.click()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.scheme, page.width = scheme, width
    yield page
    context.close()


def test_nothing_is_said_and_nothing_is_asked_of_others(opened: Any) -> None:
    assert opened.said == []


def test_the_page_fits_its_width(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.width
    texts = ".reading p, .findings li, .question, .box p"
    outside = f"[...document.querySelectorAll('{texts}')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert opened.evaluate(f"{outside}.length") == 0
    sizes = opened.evaluate(
        f"[...document.querySelectorAll('{texts}')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 15


def test_pictures_are_drawn_at_a_size_to_read(opened: Any) -> None:
    sizes = opened.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
    assert len(sizes) == 3
    for natural, shown in sizes:
        assert natural > 100
        assert shown >= 0.85 * min(opened.width, 800)
        assert shown >= 0.8 * natural  # letters no smaller than drawn, 8 points and more


def test_text_stands_out_from_its_paper(opened: Any, contrast: str) -> None:
    ratios = opened.evaluate(contrast, "p, li, h1, h2, h3, a, td, th, summary, code, .dim, span.bad")
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) / (3 * 255)
    assert light > 0.9 if opened.scheme == "light" else light < 0.1


def test_pictures_follow_light_and_dark(opened: Any) -> None:
    from PIL import Image

    shot = opened.query_selector("#lesion figure img").screenshot()
    shades = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))
    paper = np.median(shades)
    ink = shades.min() if opened.scheme == "light" else shades.max()
    assert abs(float(ink) - float(paper)) > 150
    assert (paper > 200) == (opened.scheme == "light")


def column(page: Any, number: int) -> list[str]:
    cells = "all => all.filter(e => !e.parentElement.hidden).map(e => e.textContent)"
    return page.eval_on_selector_all(f"#lesion tbody td:nth-child({number})", cells)


def test_tables_sort_and_filter(opened: Any) -> None:
    heads = [text.strip() for text in opened.locator("#lesion thead th").all_inner_texts()]
    name, error = heads.index("name") + 1, heads.index("error") + 1
    before = column(opened, error)
    opened.click(f"#lesion thead th:nth-child({error}) button")
    assert column(opened, error) == sorted(before, key=float, reverse=True)
    assert opened.get_attribute(f"#lesion thead th:nth-child({error})", "aria-sort") == "descending"
    opened.click(f"#lesion thead th:nth-child({error}) button")
    assert column(opened, error) == sorted(before, key=float)
    opened.click(f"#lesion thead th:nth-child({name}) button")
    assert column(opened, name) == sorted(column(opened, name))
    opened.fill("#lesion input[type=search]", "LAYER2")
    assert [text.partition(".")[0] for text in column(opened, name)] == ["layer2"] * 9
    assert opened.said == []


def test_the_menu_marks_the_section_and_closes_on_a_phone(opened: Any) -> None:
    menu = "nav > details"
    phone = opened.width < 1000
    assert (opened.get_attribute(menu, "open") is None) == phone
    if phone:
        opened.click(f"{menu} > summary")
    opened.click("nav a[href='#lengths']")
    opened.wait_for_function("document.querySelector('nav [aria-current]')?.hash === '#lengths'")
    assert (opened.get_attribute(menu, "open") is None) == phone
    heading = opened.locator("#lengths h2").bounding_box()
    bar = opened.locator("nav").bounding_box()
    assert heading["y"] >= (bar["y"] + bar["height"] if phone else 0)  # not under the bar


def test_print_leaves_out_what_is_closed(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('main details').forEach((d, i) => (d.open = i % 2 === 0))")
    opened.emulate_media(media="print")
    shown = opened.eval_on_selector_all(
        "main details", "all => all.map(d => [d.open, getComputedStyle(d).display !== 'none'])"
    )
    assert all(is_open == displayed for is_open, displayed in shown)
    assert opened.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
