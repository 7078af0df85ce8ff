"""The report: the content of the page, resuming, and reports of errors."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import subprocess
import sys
import textwrap
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import single_deletions
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import unroll
from resnet_paths.plot import plot_single_deletions
from resnet_paths.report import (
    STAGES,
    Expressions,
    NotApplicableError,
    Part,
    Section,
    Stage,
    Subject,
    Table,
    json_schema,
    write_report,
)
from resnet_paths.report.columns import meaning
from resnet_paths.report.effort import quickest_threads
from resnet_paths.report.measure import Measure
from resnet_paths.report.page import everything
from resnet_paths.report.section import Latency
from resnet_paths.report.stages.frontier import Terms, found_of, headline_of
from resnet_paths.report.words import percent
from resnet_paths.sweep import operation_threads
from tiny_report import TINY

pytestmark = pytest.mark.slow

NAMES = [stage.name for stage in STAGES]
VOID = {"meta", "link", "img", "source", "br", "hr", "input"}


def small_model() -> nn.Module:
    return randomise_norms(cifar_resnet(14, in_channels=1, widths=(4, 4, 8), seed=0)).eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """One report of a small model, all stages, tiny options."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(
        small_model(),
        digits("test").subset(slice(0, 40)),
        folder / "report.html",
        training=digits("train").subset(slice(0, 60)),
        options=TINY,
        progress=False,
    )


class Page(HTMLParser):
    """Checks that tags nest, and notes what the page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def decoded(uri: str) -> str:
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def test_every_stage_is_done_and_on_the_page(whole) -> None:
    assert whole.to_pandas()["status"].tolist() == ["done"] * len(STAGES)
    page = Page(whole.path.read_text())
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["explorer", "summary", *NAMES[1:], "provenance"]
    links = {attributes["href"] for attributes in page.all("a")}
    assert {f"#{name}" for name in NAMES} <= links


def test_the_page_needs_nothing_else(whole) -> None:
    text = whole.path.read_text()
    page = Page(text)
    kinds = [(a.get("type"), "src" in a) for a in page.all("script")]  # explorer and surface; and code
    assert kinds == [("application/json", False)] * 2 + [("module", False)]
    (policy,) = [a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    script = text.rpartition('<script type="module">')[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:60])
    assert not re.findall(r"url\((?!#)|@import", text)
    assert not re.findall(r'(?:href|src)="https?:', text)


def test_pictures_have_words_headings_descend_and_ids_are_unique(whole) -> None:
    page = Page(whole.path.read_text())
    pictures = page.all("svg")
    assert len(pictures) >= 13
    assert all(len((attributes["aria-label"] or "").split()) >= 8 for attributes in pictures)
    assert {attributes["role"] for attributes in pictures} == {"img"}
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("html")[0]["lang"] == "en"
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))


def test_the_files_on_the_page_hold_the_numbers_in_full(whole) -> None:
    page = Page(whole.path.read_text())
    files = {a["download"]: decoded(a["href"] or "") for a in page.all("a") if "download" in a}
    everything = json.loads(files.pop("report.json"))
    assert set(files) == {f"{name}.csv" for name in whole.tables}
    assert set(everything["tables"]) == set(whole.tables)
    direct = single_deletions(unroll(small_model()), digits("test").subset(slice(0, 40)), progress=False)
    assert whole.tables["lesion"]["error"].tolist() == direct.values.tolist()
    assert everything["provenance"]["model_fingerprint"] == direct.source.model
    lines = files["lesion.csv"].splitlines()
    assert len(lines) == 1 + 6


def test_every_column_is_described(whole) -> None:
    error = Measure.of("error")
    columns = [(name, column) for name, frame in whole.tables.items() for column in frame]
    assert not [column for column in columns if not meaning(*column, error)]
    heads = Page(whole.path.read_text()).all("th")
    assert {"title": meaning("frontier", "share", error), "scope": "col", "class": "right"} in heads


def test_every_figure_shows_the_numbers_of_the_tables(whole) -> None:
    """The value shown on hover over a figure is in report.json, in the cell that the mark names."""
    page = Page(whole.path.read_text())
    figures = [attributes for attributes in page.all("div") if "drawn" in (attributes.get("class") or "").split()]
    assert len(figures) == len(page.all("svg")) + 1  # the rotatable surface, drawn by the script
    tables = json.loads(decoded(next(a["href"] for a in page.all("a") if a.get("download") == "report.json")))["tables"]
    shown = [attributes for attributes in page.all("circle") if attributes.get("class") == "mark"]
    cells = {}
    for mark in shown:
        table, row, column = mark["data-cell"].split()
        cells.setdefault(table, []).append(int(row))
        assert tables[table][int(row)][column] == float(mark["data-value"])
        assert mark["data-tip"]
    assert {"lesion", "gradient_shares", "effective_paths", "interactions", "surface"} <= set(cells)
    assert cells["lesion"] == list(range(6))
    assert cells["surface"] == list(range(9))


def broken(content: dict, change: str) -> dict:
    """The JSON of a report with one thing wrong."""
    wrong = json.loads(json.dumps(content))
    match change:
        case "another version":
            wrong["version"] = 2
        case "no provenance of the data":
            del wrong["provenance"]["data_fingerprint"]
        case "an unknown status":
            wrong["stages"][0]["status"] = "perhaps"
        case "left out without a reason":
            wrong["stages"][0] |= {"status": "left out", "reason": ""}
        case "an error above one":
            wrong["tables"]["lesion"][0]["error"] = 1.5
        case "a column that is missing":
            del wrong["tables"]["frontier"][0]["latency"]
        case "rows that are lists":
            wrong["tables"]["blocks"] = [[0, "layer1.0"]]
        case "a new key":
            wrong["more"] = 1
    return wrong


def test_the_json_follows_its_schema_and_what_is_broken_does_not(whole) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    content = json.loads(json.dumps(everything(whole), allow_nan=False))
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    validator.validate(content)
    validator.validate(content | {"report": "report.html", "journal": "report.html.journal"})
    for change in (
        "another version", "no provenance of the data", "an unknown status", "left out without a reason",
        "an error above one", "a column that is missing", "rows that are lists", "a new key",
    ):  # fmt: skip
        assert not validator.is_valid(broken(content, change)), change


def test_the_trained_weights_are_a_cell_of_the_surface_whatever_the_steps(tmp_path) -> None:
    report = write_report(
        small_model(),
        digits("test").subset(slice(0, 8)),
        tmp_path / "r.html",
        stages=[stage for stage in STAGES if stage.name == "surface"],
        options={"surface": {"images": 8, "steps": 4}},
        progress=False,
    )
    cells = report.tables["surface"]
    middle = cells[(cells["x"] == 0) & (cells["y"] == 0)]
    assert len(cells) == 9
    with torch.no_grad():
        data = digits("test").subset(slice(0, 8))
        loss = nn.functional.cross_entropy(small_model()(data.x), data.labels)
    assert middle["loss"].item() == pytest.approx(float(loss), rel=1e-4)


def test_the_code_on_the_page_runs(whole) -> None:
    parts = [part for o in whole.outcomes if o.section for part in o.section.parts if part.code]
    assert len(parts) >= 3
    for part in parts:
        values = {"model": small_model(), "data": digits("test").subset(slice(0, 4)), "training": digits("train")}
        exec(compile(part.code, part.title, "exec"), values)
        if "smaller" in values:
            assert isinstance(values["smaller"], nn.Module)


def test_readings_are_of_the_numbers(whole) -> None:
    """Other numbers, other words."""
    other = write_report(
        load_model("embedded"),
        digits("test").subset(slice(0, 40)),
        whole.path.with_name("other.html"),
        skip=[name for name in NAMES if name not in ("checks", "blocks", "lesion")],
        progress=False,
    )
    assert any("27 residual blocks" in text for text in other.findings)
    assert any("6 residual blocks" in text for text in whole.findings)
    frame = other.tables["lesion"]
    worst = frame.loc[frame["error"].idxmax(), "name"]
    assert any(f"{worst} matters most" in text for text in other.findings)
    assert any("not reliably better than guessing" in text for text in whole.warnings)
    assert not any("not reliably better than guessing" in text for text in other.warnings)


def test_the_model_and_the_generators_are_left_unchanged(tmp_path) -> None:
    model, data = small_model(), digits("test").subset(slice(0, 20))
    for module in model.modules():
        module.register_forward_hook(lambda *_: None) if isinstance(module, nn.Linear) else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    skip = ["frontier", "values", "effective", "contributions", "gradient"]
    write_report(model, data, tmp_path / "r.html", skip=skip, options={k: TINY[k] for k in TINY}, progress=False)
    assert (torch.rand(1), np.random.rand()) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [(module.training, len(module._forward_hooks)) for module in model.modules()]
    assert grads == [parameter.requires_grad for parameter in model.parameters()]


# resuming, failing, skipping


def stage(name: str, run, weight: float = 1.0) -> Stage:
    return Stage(name, name.title(), "Why?", run, {"n": 1}, {"n": 2}, weight)


def note(name: str, folder: Path):
    """A stage that leaves a mark each time that it is computed."""

    def run(subject: Subject, options) -> Section:
        with (folder / "ran").open("a") as file:
            file.write(name + "\n")
        return Section((Part(name, (f"n is {options['n']}",)),), (f"{name} found",))

    return stage(name, run)


def failing(subject: Subject, options) -> Section:
    raise RuntimeError("the disk <b>is</b> full")


def refusing(subject: Subject, options) -> Section:
    raise NotApplicableError("nothing to see")


def ran(folder: Path) -> list[str]:
    file = folder / "ran"
    return file.read_text().split() if file.exists() else []


def test_finished_stages_are_not_computed_again(tmp_path) -> None:
    data, stages = digits("test").subset(slice(0, 10)), [note("a", tmp_path), note("b", tmp_path)]
    options = {"out": tmp_path / "r.html", "stages": stages, "progress": False}
    write_report(small_model(), data, **options, skip=["b"])
    write_report(small_model(), data, **options)
    again = write_report(small_model(), data, **options)
    assert ran(tmp_path) == ["a", "b"]
    assert again.findings == ["a found", "b found"]
    write_report(small_model(), data, **options, budget="full")
    assert ran(tmp_path) == ["a", "b", "a", "b"]
    other = small_model()
    with torch.no_grad():
        other.conv1.weight.mul_(1.5)
    write_report(other, data, **options, skip=["b"])
    write_report(small_model(), digits("test").subset(slice(1, 11)), **options, skip=["b"])
    write_report(small_model(), data, **options, skip=["b"], seed=1)
    assert ran(tmp_path)[4:] == ["a", "a", "a"]


def test_the_number_of_threads_is_measured_once_and_the_process_keeps_its_own(tmp_path, monkeypatch) -> None:
    """Another measurement in a later call might give the other number, with which every stage would run again."""

    def threads(subject: Subject, options) -> Section:
        with (tmp_path / "ran").open("a") as file:
            file.write(f"{torch.get_num_threads()}/{subject.threads}\n")
        return Section((Part("a", ()),))

    options = {"out": tmp_path / "r.html", "stages": [stage("a", threads), stage("b", failing)], "progress": False}
    data = digits("test").subset(slice(0, 10))
    with operation_threads(3):
        monkeypatch.setattr(Subject, "quickest_threads", lambda subject: 1)
        report = write_report(small_model(), data, **options)
        monkeypatch.setattr(Subject, "quickest_threads", lambda subject: 3)
        again = write_report(small_model(), data, **options)
        assert torch.get_num_threads() == 3
    assert ran(tmp_path) == ["1/3"]
    assert report.failed == again.failed == ["b"]
    assert [again.provenance[name] for name in ("threads", "threads_of_process")] == ["1", "3"]
    assert "was timed, with 1 CPU thread: with 3" in again.path.read_text()


def test_the_quicker_number_of_threads() -> None:
    """A network that waits longer with more threads, and one that waits less."""

    class Waits(nn.Module):
        def __init__(self, more: bool) -> None:
            super().__init__()
            self.more = more

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02 * (torch.get_num_threads() if self.more else 3 - torch.get_num_threads()))
            return x

    for more, quickest in ((True, 1), (False, 2)):
        network = Waits(more).eval()
        network.model = nn.Identity()
        assert quickest_threads(network, torch.zeros(1), 2) == quickest
        assert quickest_threads(network, torch.zeros(1), 1) == 1


def test_a_failed_stage_is_shown_and_computed_again(tmp_path) -> None:
    data = digits("test").subset(slice(0, 10))
    stages = [note("a", tmp_path), stage("broken", failing), stage("empty", refusing), note("z", tmp_path)]
    report = write_report(small_model(), data, tmp_path / "r.html", stages=stages, progress=False)
    assert report.failed == ["broken"]
    assert report.to_pandas()["status"].tolist() == ["done", "failed", "not applicable", "done"]
    text = report.path.read_text()
    Page(text)
    assert "the disk &lt;b&gt;is&lt;/b&gt; full" in text
    assert "<b>is</b>" not in text
    assert "Not applicable: nothing to see." in text
    mended = [stages[0], note("broken", tmp_path), *stages[2:]]
    again = write_report(small_model(), data, tmp_path / "r.html", stages=mended, progress=False)
    assert not again.failed


def test_a_kill_loses_at_most_the_running_stage(tmp_path) -> None:
    program = textwrap.dedent(
        """
        import multiprocessing, os, signal, sys, time
        from pathlib import Path
        import torch
        from resnet_paths import cifar_resnet, load_data
        from resnet_paths.report import Part, Section, Stage, write_report

        folder = Path(sys.argv[1])

        def run_of(name):
            def run(subject, options):
                with (folder / "ran").open("a") as file:
                    file.write(name + "\\n")
                time.sleep(0.25)
                if name == "three" and not (folder / "go").exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                return Section((Part(name, (name,)),))
            return run

        stages = [Stage(name, name, "?", run_of(name), {}, {}) for name in ("one", "two", "three", "four")]
        quiet = Stage("none", "none", "?", lambda subject, options: Section((Part("none", ("none",)),)), {}, {})

        def report(name="r.html", stages=stages):
            model = cifar_resnet(8, in_channels=1, seed=0).eval()
            write_report(model, load_data("digits", limit=4), folder / name, stages=stages)

        def code():
            child = multiprocessing.get_context("fork").Process(target=report)
            child.start()
            child.join()
            return child.exitcode

        torch.set_num_threads(1)  # none that a fork would lack
        report("imported.html", [quiet])  # what each child would import
        print(code(), (folder / "ran").read_text().split(), (folder / "r.html").exists())
        (folder / "go").touch()
        print(code())
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    caught = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert caught == ["-9 ['one', 'two', 'three'] False", "0"]
    assert ran(tmp_path) == ["one", "two", "three", "three", "four"]
    assert Page((tmp_path / "r.html").read_text())


def test_progress_names_each_stage_that_starts(tmp_path, capsys) -> None:
    data = digits("test").subset(slice(0, 10))
    stages = [note("a", tmp_path), note("b", tmp_path), note("c", tmp_path)]
    heard: list[str] = []
    write_report(small_model(), data, tmp_path / "r.html", stages=stages, progress=heard.append, skip=["c"])
    assert heard == ["a", "b"]
    write_report(small_model(), data, tmp_path / "s.html", stages=stages)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "stage 1 of 3: A"
    assert re.fullmatch(r"stage 2 of 3: B \(.* so far, about .* to go\)", lines[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": "huge"}, "'quick', 'full' or a duration such as 90s, 3min or 1h, got 'huge'"),
        ({"skip": ["lesions"]}, "stages among explorer, checks, blocks.*got 'lesions'"),
        ({"options": {"lesion": {"count": 1}}}, "options of the stage lesion among images, got 'count'"),
        ({"options": {"lesions": {}}}, "stages among"),
    ],
)
def test_wrong_arguments(change, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(small_model(), digits("test").subset(slice(0, 4)), tmp_path / "r.html", **change)
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_reported_on(tmp_path) -> None:
    data = digits("test").subset(slice(0, 4))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        write_report(small_model().train(), data, tmp_path / "r.html")
    with pytest.raises(ValueError, match="never adds two"):
        write_report(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), data, tmp_path / "r.html")
    with pytest.raises(ValueError, match="a file to write, got the folder"):
        write_report(small_model(), data, tmp_path)


def test_models_that_give_nothing_to_report(tmp_path) -> None:
    data = digits("test").subset(slice(0, 4))
    broken = small_model()
    with torch.no_grad():
        broken.linear.weight[0] = torch.nan
    for model, message in (
        (broken, "expected a model with finite outputs, got NaN or infinity for images of digits"),
        (cifar_resnet(8, widths=(2, 2, 2)).eval(), "expected images that the model accepts, got digits .* of 1x8x8"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            write_report(model, data, tmp_path / "r.html")
        assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))


def words_of(model: nn.Module, folder: Path, stages: tuple[str, ...], images: int = 8):
    """The report of a few stages and all sentences of its sections."""
    report = write_report(
        model,
        digits("test").subset(slice(0, images)),
        folder / "r.html",
        skip=[name for name in NAMES if name not in stages],
        options={name: TINY[name] for name in stages if name in TINY},
        progress=False,
    )
    assert report.failed == []
    sections = [outcome.section for outcome in report.outcomes if outcome.section is not None]
    sentences = [text for section in sections for part in section.parts for text in part.reading]
    return report, [*sentences, *report.findings, *report.warnings]


def test_the_words_on_a_model_that_has_learnt_nothing(tmp_path) -> None:
    """All logits are 0: no error rises, no gradient comes back, and no block is worth more than another."""
    model = small_model()
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    stages = ("checks", "deletions", "gradient", "effective", "values")
    report, words = words_of(model, tmp_path, stages)
    whole = " ".join(words)
    assert not re.search(r"\b(nan|inf|not a number)\b", whole)
    assert "half of the way to chance" not in whole
    assert "the effect of deletions cannot be measured" in whole
    assert "they give no ranking" in whole
    reasons = report.to_pandas().set_index("stage")["reason"]
    assert all("gradient of the loss at the input is zero" in reasons[name] for name in ("gradient", "effective"))


class Named(nn.Module):
    """A network whose blocks have names that are formulas to matplotlib, and wrong ones."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(r"a$\frac{$b}", cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, r"a$\frac{$b}")(x)


def test_names_are_not_formulas(tmp_path) -> None:
    report, _ = words_of(Named().eval(), tmp_path, ("lesion", "contributions"))
    assert r"a$\frac{$b}.layer1.0" in report.path.read_text()
    data = digits("test").subset(slice(0, 2))
    data = dataclasses.replace(data, name=r"$\frac{$")
    ax = plot_single_deletions(single_deletions(unroll(Named().eval()), data, progress=False))
    ax.get_figure().canvas.draw()  # type: ignore[union-attr]
    assert ax.get_title().startswith(r"One at a time: \$\frac{\$")


@pytest.mark.parametrize("name", [r"a$\frac{", r"$\frac{$", "$", r"\$x$"])
def test_names_without_stages_are_not_formulas_either(name: str) -> None:
    record = single_deletions(unroll(Named().eval()), digits("test").subset(slice(0, 2)), progress=False)
    record = dataclasses.replace(record, names=tuple(f"{name}{index}" for index in range(len(record.names))))
    ax = plot_single_deletions(record)
    ax.get_figure().canvas.draw()  # type: ignore[union-attr]
    assert ax.get_xticklabels()[0].get_text() == f"{name}0".replace("$", r"\$")


# warnings


def warnings_of(model: nn.Module, data: ImageData, tmp_path: Path, training: ImageData | None = None) -> str:
    skip = [name for name in NAMES if name != "checks"]
    report = write_report(model, data, tmp_path / "r.html", training=training, skip=skip, progress=False)
    return "\n".join(report.warnings)


def test_overlap_of_training_and_test_images_is_counted(tmp_path, small_checkpoint) -> None:
    train, test = digits("train"), digits("test")
    mixed = dataclasses.replace(
        test,
        images=torch.cat([test.images[:30], train.images[:10]]),
        labels=torch.cat([test.labels[:30], train.labels[:10]]),
    )
    model = load_model(str(small_checkpoint))
    clean = warnings_of(model, test.subset(slice(0, 30)), tmp_path, train)
    assert "also among the training images" not in clean
    assert "10 test images of 40 (25 %)" in warnings_of(model, mixed, tmp_path, train)
    assert "No training images were given" in warnings_of(model, mixed, tmp_path)


class Noisy(nn.Module):
    """Adds noise to its input, also in eval mode."""

    def __init__(self, model: nn.Module, batch: bool = False) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x - x.mean((0,)) if self.batch else x + 0.1 * torch.randn_like(x))


def test_models_that_do_not_repeat_are_reported(tmp_path, small_checkpoint) -> None:
    data = digits("test").subset(slice(0, 20))
    assert "Non-deterministic" in warnings_of(Noisy(small_model()).eval(), data, tmp_path)
    batch = warnings_of(Noisy(small_model(), batch=True).eval(), data, tmp_path)
    assert "depend on the other images in its batch" in batch
    assert "Non-deterministic" not in batch
    quiet = warnings_of(load_model(str(small_checkpoint)), data, tmp_path)
    assert "Non-deterministic" not in quiet
    assert "in its batch" not in quiet
    assert "Small sample: 20 images" in quiet


def test_tables_keep_every_bit() -> None:
    import pandas as pd

    values = np.random.default_rng(0).standard_normal(100) * 10.0 ** np.arange(-50, 50)
    assert Table.of("t", "T", pd.DataFrame({"x": values})).frame()["x"].tolist() == values.tolist()


def frontier(tmp_path, small_checkpoint, accuracy_drop: float, **options):
    chosen = {"images": 200, "search_images": 60, "recalibrate_images": 150, "max_blocks": 3, "seconds": 0.01}
    return write_report(
        load_model(str(small_checkpoint)),
        digits("test"),
        tmp_path / "r.html",
        training=digits("train"),
        expressions=Expressions(
            model=f'load_model("{small_checkpoint}")', training='load_data("digits", split="train")'
        ),
        skip=[name for name in NAMES if name != "frontier"],
        options={"frontier": chosen | options},
        accuracy_drop=accuracy_drop,
        progress=False,
    )


def test_the_recommended_drop_is_within_the_tolerance_and_its_code_makes_what_was_measured(
    tmp_path, small_checkpoint
) -> None:
    report = frontier(tmp_path, small_checkpoint, accuracy_drop=0.1)
    frame = report.tables["frontier"]
    (chosen,) = frame["chosen"].to_numpy().nonzero()[0]
    assert chosen > 0
    assert (frame["fall_at_most"][1 : chosen + 1] <= 0.1).all()
    assert chosen == len(frame) - 1 or frame["fall_at_most"][chosen + 1] > 0.1
    section = next(outcome.section for outcome in report.outcomes if outcome.stage.name == "frontier")
    assert [latency.seconds for latency in section.latencies] == frame["latency"].tolist()  # one measurement
    latency = section.latencies[chosen]
    assert section.headline.numbers[0] == ("Latency", percent(latency.share), latency.below)
    assert any(latency.below in text for text in section.parts[0].reading)
    code = section.parts[0].code
    made: dict = {}
    exec(code, made)
    data = digits("test").sample(200)
    with torch.no_grad():
        right = (made["smaller"](data.x).argmax(1) == data.labels).float().mean()
    assert float(right) == pytest.approx(frame["accuracy"][chosen])
    assert "95\xa0% confidence the fall is at most 10.0 points" in report.path.read_text()


@pytest.mark.parametrize(("high", "title", "finding"), [
    (0.98, "2 of 9 blocks can be dropped: 10.0 % less time, accuracy -1.0 points", "Latency falls to 90 %"),
    (1.05, "2 of 9 blocks can be dropped: 25 % fewer parameters, accuracy -1.0 points", "not shown here"),
])  # fmt: skip
def test_no_title_boasts_of_time_that_is_not_shown_to_be_saved(high: float, title: str, finding: str) -> None:
    latency = Latency((1, 2), 32, 0.009, 0.010, 0.9, 0.85, high)
    point = SimpleNamespace(dropped=(1, 2), accuracy=0.89, parameters=75)
    points, images = [SimpleNamespace(accuracy=0.9, parameters=100), point], {"certify": SimpleNamespace(count=100)}
    plan = SimpleNamespace(point=point, points=points, images=images)
    assert headline_of(plan, latency, 9, "", Terms()).title == title
    assert finding in found_of(plan, latency, Terms())
    assert latency.below.endswith("to 98 %") or latency.below.endswith(": not shown to be less")


def test_an_improvement_is_not_called_a_negative_fall() -> None:
    worse = "accuracy falls by 0.20 points, and with 95 % confidence by at most 3.0 points"
    assert Terms().sentence(0.002, 0.03) == worse
    better = "accuracy rises by 0.20 points, and with 95 % confidence it falls by at most 3.0 points"
    assert Terms().sentence(-0.002, 0.03) == better


def test_the_explorer_shows_the_page_s_own_latencies(whole) -> None:
    (shown,) = [a["data-latencies"] for a in Page(whole.path.read_text()).all("div") if "data-latencies" in a]
    frame = whole.tables["frontier"]
    latencies = json.loads(shown)
    assert [share for _, share, _, _ in latencies] == frame["share"].tolist()
    assert latencies[0] == [[], 1.0, "100 %", latencies[0][3]]
    assert all(below.count("ms") + below.count(" s ") >= 1 for *_, below in latencies)


def test_where_no_drop_is_shown_to_be_within_the_tolerance_none_is_recommended(tmp_path, small_checkpoint) -> None:
    """Sixty images cannot show a fall of at most one point, whatever the blocks."""
    report = frontier(tmp_path, small_checkpoint, accuracy_drop=0.01, images=60, max_blocks=2)
    frame = report.tables["frontier"]
    assert frame["chosen"][0]
    page = report.path.read_text()
    assert "No drop is recommended" in page
    assert "too few images to tell" in page or "more than the allowed accuracy drop" in page
    assert "drop_blocks(" not in page.partition('<script type="module">')[0]
    assert "With the first set (1 block: " in page


class Kinked(nn.Module):
    """A residual block with an operation that PyTorch differentiates once only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        x = x + self.second(nn.functional.hardsigmoid(x))
        return self.last(x)


def test_stages_that_cannot_say_anything_say_why(tmp_path) -> None:
    data = digits("test").subset(slice(0, 8))
    wanted = ("deletions", "reordering", "effective", "values", "curvature")
    skip = [name for name in NAMES if name not in wanted]
    torch.manual_seed(0)
    report = write_report(Kinked().eval(), data, tmp_path / "r.html", skip=skip, progress=False)
    frame = report.to_pandas().set_index("stage").loc[list(wanted)]
    assert frame["status"].tolist() == ["not applicable"] * len(wanted)
    assert "1 block" in frame.loc["deletions", "reason"]
    assert "second derivative" in frame.loc["curvature", "reason"]


def test_a_single_image_leaves_stages_out_and_prints_no_nan(tmp_path) -> None:
    skip = [name for name in NAMES if name not in ("contributions", "frontier")]
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    one = digits("test").subset(slice(0, 1))
    report = write_report(model, one, tmp_path / "r.html", skip=skip, options=TINY, progress=False)
    status = report.to_pandas().set_index("stage")["status"]
    assert status["frontier"] == "not applicable"
    assert status["contributions"] == "done"
    assert "error nan" not in report.path.read_text()
    with pytest.raises(ValueError, match="all of them skipped"):
        write_report(model, one, tmp_path / "r.html", skip=NAMES, progress=False)
