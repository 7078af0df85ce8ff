"""The page in a real browser, at the widths of a phone and of a screen, light and dark."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.report import STAGES, Stage, write_report
from resnet_paths.report.words import number, percent
from tiny_report import TINY

SHOWN = ("checks", "blocks", "lesion", "lengths", "surface")
VIEWS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
MARKS = "#lesion .mark"


def failing(subject: Any, options: Any) -> Any:
    raise RuntimeError("a-very-long-word-" * 20)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stages = [stage for stage in STAGES if stage.name in SHOWN]
    stages.append(Stage("broken", "A stage that fails", "What then?", failing, {}, {}))
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


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages of a small network."""
    report = write_report(
        cifar_resnet(14, in_channels=1, widths=(4, 4, 8), seed=0).eval(),
        digits("test").subset(slice(0, 40)),
        tmp_path_factory.mktemp("whole") / "report.html",
        training=digits("train").subset(slice(0, 60)),
        options=TINY,
        progress=False,
    )
    assert report.failed == []
    return report.path


@pytest.fixture(params=VIEWS, ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request: pytest.FixtureRequest, watched: Any, page_file: Path) -> Any:
    width, scheme = request.param
    page = watched(page_file, width, scheme)
    for summary in page.query_selector_all("main details > summary"):
        summary.click()
    page.scheme, page.width = scheme, width
    return page


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
    sizes = opened.eval_on_selector_all(
        "figure svg", "all => all.map(e => [e.getBoundingClientRect().width, e.parentElement.clientWidth])"
    )
    assert len(sizes) == 4  # one of them drawn by the script
    for shown, room in sizes:
        assert shown == pytest.approx(room, abs=1)
        assert shown >= 350
    letters = opened.eval_on_selector_all(
        "figure svg text",
        """all => all.map(e => {
          const drawn = e.getScreenCTM();
          return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(drawn.a, drawn.b);
        })""",
    )
    assert np.median(letters) >= 9
    assert min(letters) >= 7.5  # those on the lines of the surface


def test_figures_of_two_stages_stand_beside_each_other_on_a_screen_only(opened: Any) -> None:
    one, other = (opened.locator(f"#{name} h2").bounding_box() for name in ("lesion", "lengths"))
    beside = abs(one["y"] - other["y"]) < 2 and one["x"] + 300 < other["x"]
    assert beside == (opened.width == 1280)


def test_text_contrasts_with_its_background(opened: Any, contrast: str) -> None:
    ratios = opened.evaluate(contrast, "p, li, h1, h2, h3, a, td, th, summary, code, .dim, span.bad")
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) / (3 * 255)
    assert light > 0.9 if opened.scheme == "light" else light < 0.1


def test_pictures_follow_light_and_dark(opened: Any) -> None:
    from PIL import Image

    shot = opened.query_selector("#lesion figure svg").screenshot()
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
    opened.wait_for_selector("nav a[aria-current][href='#lengths']", state="attached")  # closed on a phone
    assert (opened.get_attribute(menu, "open") is None) == phone
    heading = opened.locator("#lengths h2").bounding_box()
    bar = opened.locator("nav").bounding_box()
    assert heading["y"] >= (bar["y"] + bar["height"] if phone else 0)  # not under the bar


def test_printing_expands_collapsed_parts_and_leaves_out_closed_tables(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('main details').forEach((d, i) => (d.open = i % 2 === 0))")
    before = opened.eval_on_selector_all("main details", "all => all.map(d => d.open)")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.emulate_media(media="print")
    shown = opened.eval_on_selector_all(
        "main details", "all => all.map(d => [d.open, getComputedStyle(d).display !== 'none'])"
    )
    assert all(is_open == displayed for is_open, displayed in shown)
    assert opened.query_selector_all("main details.fold:not([open])") == []
    assert opened.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.eval_on_selector_all("main details", "all => all.map(d => d.open)") == before


# values


def numbers(page: Any) -> dict[str, Any]:
    """The tables of report.json."""
    link = page.get_attribute("a[download='report.json']", "href")
    tables: dict[str, Any] = json.loads(base64.b64decode(link.partition("base64,")[2]))["tables"]
    return tables


def pointed_at(page: Any, mark: Any) -> str:
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return page.inner_text(".tip")


def test_pointing_at_a_figure_shows_the_numbers_of_the_table(opened: Any) -> None:
    tables, told = numbers(opened), []
    for mark in opened.query_selector_all(MARKS)[::5]:
        table, row, column = mark.get_attribute("data-cell").split()
        cells = tables[table][int(row)]
        assert float(mark.get_attribute("data-value")) == cells[column]
        text = pointed_at(opened, mark)
        assert (
            text == f"{cells['name']}: {percent(cells['error'])} ({percent(cells['low'])} to {percent(cells['high'])})"
        )
        told.append(text)
        assert "now" in mark.get_attribute("class")
        tip, width = opened.locator(".tip").bounding_box(), opened.width
        assert tip["x"] >= 0
        assert tip["x"] + tip["width"] <= width
    assert len(set(told)) == 6
    opened.mouse.move(1, 1)
    assert opened.locator(".tip").is_hidden()
    assert opened.said == []


def test_the_keyboard_goes_through_the_values_of_a_figure(opened: Any) -> None:
    tips = opened.eval_on_selector_all(MARKS, "all => all.map(e => e.dataset.tip)")
    opened.focus("#lesion .drawn")
    for key, place in [
        ("ArrowRight", 0),
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", -1),
        ("Home", 0),
    ]:
        opened.keyboard.press(key)
        assert opened.inner_text(".tip") == tips[place]
    assert opened.get_attribute(".tip", "role") == "status"
    opened.keyboard.press("Escape")
    assert opened.locator(".tip").is_hidden()
    assert opened.said == []


def test_the_surface_turns_and_shows_the_numbers_of_the_table(opened: Any) -> None:
    shape = "document.querySelector('.relief .cell').getAttribute('points')"
    drawn = [opened.evaluate(shape)]
    opened.focus(".relief")
    for key in ("ArrowRight", "ArrowUp"):
        opened.keyboard.press(key)
        drawn.append(opened.evaluate(shape))
    opened.locator(".relief").scroll_into_view_if_needed()
    box = opened.locator(".relief").bounding_box()
    opened.mouse.move(box["x"] + 100, box["y"] + 100)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 180, box["y"] + 120)
    opened.mouse.up()
    drawn.append(opened.evaluate(shape))
    assert len(set(drawn)) == 4
    assert len(opened.query_selector_all(".relief .cell")) == 16  # between 5 x 5 values
    cells = numbers(opened)["surface"]
    marks = opened.query_selector_all(".relief .mark")
    assert len(marks) == 25
    for mark in marks[::6]:
        table, row, column = mark.get_attribute("data-cell").split()
        assert (table, column) == ("surface", "loss")
        assert float(mark.get_attribute("data-value")) == cells[int(row)]["loss"]
        assert pointed_at(opened, mark).endswith(f"loss {number(cells[int(row)]['loss'])}")
    opened.focus(".relief")
    opened.keyboard.press("Shift+Home")
    assert opened.inner_text(".tip") == marks[0].get_attribute("data-tip")
    assert opened.said == []


# the whole page


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_assistive_technology_finds_nothing_wrong(browser: Any, whole_file: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe looks for barriers: pip install axe-playwright-python"
    )
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(whole_file.as_uri())
    page.wait_for_selector("[role=switch]")
    for unfolded in (False, True):
        if unfolded:
            page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
        violations = axe.Axe().run(page).response["violations"]
        worst = [
            f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in violations if v["impact"] in ("serious", "critical")
        ]
        assert worst == []
    context.close()


def test_the_whole_page_is_under_twelve_screens(browser: Any, whole_file: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(whole_file.as_uri())
    page.wait_for_selector("[role=switch]")
    assert page.evaluate("document.documentElement.scrollHeight") < 12 * 800
    assert len(page.query_selector_all("figure")) == 16
    context.close()


def test_nothing_is_torn_in_print(browser: Any, whole_file: Path) -> None:
    """Figures stay in one piece, and what stands above them does not end a sheet."""
    context = browser.new_context(viewport={"width": 718, "height": 1047})
    page = context.new_page()
    page.goto(whole_file.as_uri())
    page.wait_for_selector("[role=switch]")
    page.emulate_media(media="print")
    style = "(all, name) => [...new Set(all.map(e => getComputedStyle(e)[name]))]"
    assert page.eval_on_selector_all("main figure", style, "breakInside") == ["avoid"]
    assert page.eval_on_selector_all("main h2, main h3, main .question", style, "breakAfter") == ["avoid"]
    assert page.eval_on_selector_all("main, section.full > .parts", style, "display") == ["block"]
    page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718  # nothing is cut at the edge of the sheet
    assert page.pdf(format="A4").startswith(b"%PDF")
    context.close()
