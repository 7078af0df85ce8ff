"""The explorer in a real browser: its numbers are Python's, and the keyboard alone works it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import Exploration, explore, measure_sets
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.network.half_precision import half_precision_copy
from resnet_paths.paths import path_lengths
from resnet_paths.report import STAGES, explorer_data, write_report
from resnet_paths.report.in_page import half_precision_images
from resnet_paths.report.page import explorer_module
from resnet_paths.report.widget import measured
from resnet_paths.statistics import share_interval
from resnet_paths.surgery import drop_blocks
from resnet_paths.tradeoff import count_macs, count_parameters

OPTIONS = {"images": 60, "seconds": 0.001, "draws": 40, "held_out": 20, "max_searched": 30}
SWITCH = "[role=switch]"
MARGIN, LOSS = 1e-9, 1e-9
"""Logits nearer than this may name either class; losses agree to this share. Both compute in double precision."""


def trained() -> torch.nn.Module:
    """A network of six blocks, a little better than chance."""
    torch.manual_seed(0)
    model, train = cifar_resnet(14, in_channels=1, widths=(4, 4, 8), seed=0), digits("train")
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for images, labels in [batch for _ in range(2) for batch in train.batches(100)]:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval()


class Shown:
    """A page, and what Python says of the same network."""

    def __init__(self, model: torch.nn.Module, folder: Path) -> None:
        self.model, self.data = model, digits("test").sample(60, 0)
        self.net: UnrolledNetwork = unroll(model)
        self.path = write_report(
            model, digits("test"), folder / "report.html", progress=False, options={"explorer": OPTIONS},
            stages=[stage for stage in STAGES if stage.name in ("explorer", "lengths")],
        ).path  # fmt: skip
        few = {name: value for name, value in OPTIONS.items() if name not in ("images", "seconds")}
        sets = few if len(self.net) > 16 else {}
        self.record: Exploration = explore(self.net, self.data, progress=False, **sets)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """All 2^6 sets are measured."""
    return Shown(trained(), tmp_path_factory.mktemp("every"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Of 2^27 sets some are measured."""
    return Shown(load_model("embedded"), tmp_path_factory.mktemp("many"))


def opened(watched: Any, path: Path, width: int = 1280, scheme: str = "light") -> Any:
    page = watched(path, width, scheme, own=("data:", "file:", "blob:"), offline=True)
    page.wait_for_selector(SWITCH)
    return page


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def page(request: pytest.FixtureRequest, watched: Any, every: Shown) -> Any:
    return opened(watched, every.path, *request.param)


def switch_to(page: Any, dropped: list[int]) -> None:
    """Flip the switches that do not stand so, as a click does (a driven click waits a tenth of a second)."""
    flip = """(all, dropped) => all.forEach((e, index) => {
      if ((e.getAttribute("aria-checked") === "false") !== dropped.includes(index)) {
        e.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      }
    })"""
    page.eval_on_selector_all(SWITCH, flip, dropped)


def numbers(page: Any) -> dict[str, str]:
    read = "all => Object.fromEntries(all.map(e => [e.dataset.number, e.dataset.value]))"
    return page.eval_on_selector_all("[data-number]", read)


@dataclass(frozen=True)
class Expected:
    """What a page should say of a set: what was measured, or what PyTorch finds with the weights that the page has."""

    how: str
    wrong: np.ndarray
    loss: float
    unsure: int
    "Answers whose two largest logits are too near to each other to name one class."


class Rounded:
    """The network of a page with the weights that the page has, asked by PyTorch."""

    def __init__(self, shown: Shown) -> None:
        self.record, self.images = shown.record, half_precision_images(shown.data)
        self.net = half_precision_copy(shown.net)

    def expected(self, dropped: list[int]) -> Expected:
        answer = self.record.answer(dropped)
        if answer.measured:
            return Expected("measured", answer.wrong, answer.loss, 0)
        gates = torch.ones(len(self.net), dtype=torch.float64)
        gates[dropped] = 0.0
        logits = self.net(self.images.x, gates).detach()
        two = logits.topk(2).values
        loss = float(torch.nn.functional.cross_entropy(logits, self.images.labels))
        wrong = (logits.argmax(1) != self.images.labels).numpy()
        return Expected("computed", wrong, loss, int((two[:, 0] - two[:, 1] < MARGIN).sum()))


@pytest.mark.parametrize("which", ["every", "many"])
def test_twenty_random_sets_have_the_numbers_of_python(
    watched: Any, which: str, request: pytest.FixtureRequest
) -> None:
    shown: Shown = request.getfixturevalue(which)
    page, n, generator = opened(watched, shown.path), len(shown.net), np.random.default_rng(1)
    rounded, hows = Rounded(shown), []
    for turn in range(20):
        dropped = sorted(generator.choice(n, generator.integers(0, n + 1), replace=False).tolist())
        answer = rounded.expected(dropped)
        switch_to(page, dropped)
        page.wait_for_selector(f".explorer[data-how={answer.how}]", timeout=20_000)
        hows.append(answer.how)
        shown_numbers = numbers(page)
        assert abs(float(shown_numbers["accuracy"]) - (1 - answer.wrong.mean())) <= answer.unsure / 60 + 1e-12
        rel = LOSS if answer.how == "computed" else 1e-6  # what was measured is stored in float32
        assert float(shown_numbers["loss"]) == pytest.approx(answer.loss, rel=rel)
        low, high = (f"{100 * end:.1f}\xa0%" for end in share_interval(float(shown_numbers["accuracy"]), 60))
        assert f"{low} to {high}" in page.inner_text(".explorer-numbers")
        if turn < 4:  # the smaller model itself: expensive
            smaller = drop_blocks(shown.model, dropped) if dropped else shown.model
            assert int(shown_numbers["parameters"]) == count_parameters(smaller)
            assert int(shown_numbers["macs"]) == count_macs(smaller, shown.data.x[:1])
        assert int(shown_numbers["paths"]) == path_lengths(shown.net, dropped=dropped).paths
        assert page.inner_text(".explorer-code code") == f"smaller = drop_blocks(model, {dropped})"
        assert answer.unsure or rights(page) == by_class(shown.data, answer.wrong)
    assert set(hows) == {"measured"} if which == "every" else hows.count("computed") > 10
    assert page.said == []


def test_an_answer_is_first_estimated_and_then_computed_and_so_is_what_follows(watched: Any, many: Shown) -> None:
    page, rounded = opened(watched, many.path), Rounded(many)
    page.wait_for_selector(".explorer-how:has-text('Measured with PyTorch')")
    dropped = [0, 5, 11, 20]
    switch_to(page, dropped)
    assert page.get_attribute(".explorer", "data-how") == "estimated"
    assert page.inner_text(".explorer-how").startswith("An estimate; the answer is being computed.")
    page.wait_for_selector(".explorer[data-how=computed]")
    agreement = "answers of 20 measured sets are right or wrong as PyTorch has them."
    assert agreement in page.inner_text(".explorer-how")
    page.wait_for_selector(".explorer-how:not(:has-text('Computing what'))", timeout=120_000)
    further = {block: rounded.expected(sorted([*dropped, block])) for block in range(27) if block not in dropped}
    best = min(further, key=lambda block: (further[block].wrong.sum(), further[block].loss))
    text = page.inner_text(".explorer-next")
    assert text.startswith(f"Next best to drop: {many.net[best].name}, {100 * (1 - further[best].wrong.mean()):.1f}")
    assert "estimate" not in text
    assert page.query_selector_all(".cost.guess") == []
    assert page.said == []


def test_another_switch_stops_the_running_computation(watched: Any, many: Shown) -> None:
    """Of many sets that are passed through quickly, the last alone is answered, and soon."""
    page, rounded = opened(watched, many.path), Rounded(many)
    sets = [[block, block + 2, block + 5] for block in range(20)]
    for dropped in sets:
        switch_to(page, dropped)
    answer = rounded.expected(sets[-1])
    page.wait_for_selector(f".explorer[data-how={answer.how}]", timeout=5_000)
    assert float(numbers(page)["loss"]) == pytest.approx(answer.loss, rel=LOSS)
    assert page.said == []


def test_an_evaluator_that_disagrees_is_not_believed_and_the_page_says_so(
    watched: Any, many: Shown, tmp_path: Path
) -> None:
    changed = re.sub(
        r'"checks": \[\{"kept": (\[[^]]*\]), "loss": ([0-9.]+)',
        r'"checks": [{"kept": \1, "loss": 1\2',
        many.path.read_text(),
    )
    wrong = tmp_path / "wrong.html"
    wrong.write_text(changed)
    assert changed != many.path.read_text()
    page = opened(watched, wrong)
    switch_to(page, [0, 5, 11, 20])
    page.wait_for_selector(".explorer-how:has-text('cannot compute')")
    text = page.inner_text(".explorer-how")
    assert text.startswith("An estimate. This page cannot compute the answer itself: its arithmetic is not PyTorch's: ")
    assert page.get_attribute(".explorer", "data-how") == "estimated"
    assert not page.is_visible(".explorer-how progress")
    answer = many.record.answer([0, 5, 11, 20])
    assert float(numbers(page)["accuracy"]) == pytest.approx(answer.accuracy)
    low, high = (f"{100 * end:.1f}\xa0%" for end in answer.interval)
    assert f"{low} to {high}" in page.inner_text(".explorer-numbers")


def rights(page: Any) -> list[str]:
    return page.eval_on_selector_all("[data-class] td:last-child", "all => all.map(e => e.textContent)")


def by_class(data: ImageData, wrong: np.ndarray) -> list[str]:
    labels = data.labels.numpy()
    return [f"{(~wrong[labels == k]).sum()} of {(labels == k).sum()}" for k in range(10) if (labels == k).any()]


def test_a_click_switches(watched: Any, every: Shown) -> None:
    page = opened(watched, every.path)
    page.click(f"{SWITCH} >> nth=3")
    assert page.get_attribute(f"{SWITCH} >> nth=3", "aria-checked") == "false"
    page.click(f"{SWITCH} >> nth=3")
    assert page.get_attribute(f"{SWITCH} >> nth=3", "aria-checked") == "true"


def test_the_images_that_turn_wrong_are_shown(watched: Any, every: Shown) -> None:
    page = opened(watched, every.path)
    switch_to(page, [2])
    wrong, before = every.record.answer([2]).wrong, every.record.answer([]).wrong
    turned = np.flatnonzero(wrong & ~before)
    text = page.inner_text(".explorer-images p")
    assert text.startswith(f"{len(turned)} of 60 become wrong")
    assert f"{(before & ~wrong).sum()} become right" in text
    labels = page.eval_on_selector_all(".explorer-images svg", "all => all.map(e => e.getAttribute('aria-label'))")
    assert labels == [f"image {image}, class {int(every.data.labels[image])}" for image in turned][: len(labels)]
    assert len(labels) == min(len(turned), 24)


def test_the_buttons_go_to_the_best_sets(watched: Any, every: Shown) -> None:
    page = opened(watched, every.path)
    for count in range(7):
        page.fill("input[type=range]", str(count))
        assert page.inner_text(".explorer-code code").endswith(f"{list(every.record.best(count))})")
    page.click("text=All blocks on")
    assert page.query_selector_all(f"{SWITCH}[aria-checked=false]") == []
    errors = [every.record.answer([index]).wrong.sum() for index in range(6)]
    page.click("text=Drop the next best")
    (off,) = page.query_selector_all(f"{SWITCH}[aria-checked=false]")
    name = off.get_attribute("aria-label")
    assert errors[every.record.names.index(name)] == min(errors)


def test_the_keyboard_alone_reaches_and_switches_every_block(page: Any) -> None:
    focused = "[document.activeElement.getAttribute('role'), document.activeElement.getAttribute('aria-label')]"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(focused)[0] == "switch":
            break
    names = []
    for _ in range(6):
        names.append(page.evaluate(focused)[1])
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
    assert names == ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"]
    assert page.query_selector_all(f"{SWITCH}[aria-checked=true]") == []
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.get_attribute(f"{SWITCH} >> nth=0", "aria-checked") == "true"
    ring = page.evaluate("getComputedStyle(document.activeElement.querySelector('.body')).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Drop the next best"
    assert page.said == []


def test_switches_have_roles_and_names_in_the_accessibility_tree(page: Any) -> None:
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    of = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    assert [name for role, name in of if role == "switch"] == [
        "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1",
    ]  # fmt: skip
    named = {"button", "slider", "img", "image", "table", "switch", "link"}
    assert [role for role, name in of if role in named and not name.strip()] == []
    switch_to(page, [1])
    assert page.inner_text(".explorer-said").startswith("1 of 6 blocks off: accuracy")


def test_it_fits_is_legible_and_has_contrast(page: Any, contrast: str) -> None:
    switch_to(page, [1, 4])
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    texts = ".explorer dt, .explorer dd, .explorer p, .explorer button, .explorer th, .explorer td, .explorer caption"
    assert min(page.evaluate(contrast, f"{texts}, .explorer code")) >= 4.5
    sizes = page.eval_on_selector_all(
        SWITCH, "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert min(min(size) for size in sizes) >= 40  # to be hit with a finger
    ends = "all => all.map(e => e.getBoundingClientRect()).map(r => [r.left, r.right])"
    left, right = zip(*page.eval_on_selector_all(".explorer-net svg *, .explorer dd", ends), strict=True)
    assert min(left) >= 0
    assert max(right) <= page.viewport_size["width"]


def test_names_are_texts_and_not_code(watched: Any, tmp_path: Path) -> None:
    """What a model's modules are called cannot run, or end the element that holds it."""
    inner = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0)

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("</script><img src=x onerror=alert(1)>", inner)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return next(self.children())(x)

    stages = [stage for stage in STAGES if stage.name == "explorer"]
    options = {"explorer": {"images": 10, "seconds": 0.001}}
    report = write_report(
        Named().eval(), digits("test"), tmp_path / "r.html", stages=stages, options=options, progress=False
    )
    page = opened(watched, report.path)
    assert json.dumps(page.get_attribute(f"{SWITCH} >> nth=0", "aria-label")).startswith('"</script><img')
    assert page.said == []


NOTEBOOK = """async ({ module, data }) => {
  const { default: widget } = await import(`data:text/javascript;base64,${module}`);
  let answer = null;
  window.sent = [];
  window.traits = {};
  const model = {
    get: name => (name === "data" ? data : true),
    set: (name, value) => (window.traits[name] = value),
    save_changes: () => {},
    on: (name, call) => name === "msg:custom" && (answer = call),
    send: message => window.sent.push(message),
  };
  window.answer = found => answer(found);
  await widget.render({ model, el: document.body });
}"""


def test_in_a_notebook_what_was_estimated_is_measured(browser: Any, many: Shown) -> None:
    """The interface of anywidget, with Python's side played by this test."""
    data = explorer_data(many.net, many.data, many.record, seconds=0.001, in_page=False)
    module = base64.b64encode(explorer_module().encode()).decode()
    page = browser.new_context().new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.evaluate(NOTEBOOK, {"module": module, "data": data})
    page.wait_for_selector(SWITCH)
    dropped = [0, 5, 11, 20]
    assert not many.record.answer(dropped).measured
    switch_to(page, dropped)
    assert page.evaluate("traits.dropped") == dropped
    assert page.get_attribute(".explorer", "data-how") == "estimated"
    for _ in range(len(dropped)):  # a set on the way may be asked for first
        asked = page.evaluate("sent.shift()")
        if asked is not None:
            page.evaluate("found => answer(found)", measured(many.net, many.data, many.record, asked))
            page.wait_for_timeout(50)
    assert page.get_attribute(".explorer", "data-how") == "measured"
    losses, wrong = measure_sets(many.net, many.data, many.record.kept_without(dropped)[None], progress=False)
    assert float(numbers(page)["accuracy"]) == pytest.approx(1 - wrong.mean())
    assert float(numbers(page)["loss"]) == pytest.approx(losses.mean(), rel=1e-6)
    assert said == []
    page.context.close()
