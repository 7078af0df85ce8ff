"""Reports on data other than images: token batches, numbers, masks, flags and series, with their metrics."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from devices import available
from helpers import randomise_norms
from references.other_data import Case, Residual, case
from resnet_paths import block_values, gradient_by_length, single_deletions, unroll
from resnet_paths.cli import app
from resnet_paths.data import Examples
from resnet_paths.data.constant_answers import constant_answer
from resnet_paths.data.metrics import METRICS
from resnet_paths.landscape import curvature_operator
from resnet_paths.lesion import random_deletions, reorderings
from resnet_paths.paths import block_contributions
from resnet_paths.report import STAGES, Report, Subject, write_report
from resnet_paths.report.columns import meaning
from resnet_paths.report.explained import Explained
from resnet_paths.report.losses import loss_for
from resnet_paths.report.measure import Measure
from resnet_paths.report.section import Part, Section, Table
from resnet_paths.tradeoff import AccuracyDrop, Rise
from tiny_report import TINY

KINDS = ("tokens", "numbers", "masks", "flags", "series")
SMALL = {
    **TINY,
    "frontier": {**TINY["frontier"], "max_blocks": 1, "seconds": 0.001, "batch": 2},
    "curvature": {"images": 4, "steps": 3, "basis": 6, "tolerance": 0.1},
}
NOT_THERE = {"explorer"}
LOSSES = {
    "tokens": lambda scores, ids, mask: F.cross_entropy(scores[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]]),
    "numbers": lambda outputs, targets, mask: F.mse_loss(outputs[:, 0], targets),
    "masks": lambda scores, targets, mask: F.cross_entropy(scores, targets),
    "flags": lambda outputs, targets, mask: F.binary_cross_entropy_with_logits(outputs, targets.double()),
    "series": lambda scores, targets, mask: F.cross_entropy(scores, targets),
}


def learnt(kind: str) -> Case:
    """A case whose targets are what the model says, but for a few: better than any constant answer."""
    found = case(kind, 24)
    with torch.no_grad():
        output = unroll(found.model, found.data.subset([0, 1]).x)(found.data.x)
    targets = found.data.targets
    if kind in ("series", "masks"):
        targets = torch.where(torch.arange(24).view(-1, *[1] * (targets.ndim - 1)) < 20, output.argmax(1), targets)
    elif kind == "numbers":
        targets = output[:, 0] + 0.01 * targets
    elif kind == "flags":
        targets = torch.where(torch.arange(24)[:, None] < 20, (output > 0).double(), targets)
    return replace(found, data=replace(found.data, targets=targets))


@cache
def written(kind: str, folder: Path) -> Report:
    found = learnt(kind)
    return write_report(
        found.model, found.data, folder / f"{kind}.html", metric=found.metric, options=SMALL, progress=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("other_data")


def words_on(report: Report) -> str:
    """The text that is visible on a page, without the names of options and the files."""
    text = report.path.read_text().partition('<script type="module">')[0]
    text = re.sub(r"<style>.*?</style>|<table class=\"stages\".*?</table>", "", text, flags=re.S)
    tips = " ".join(re.findall(r'(?:data-tip|aria-label|title)="([^"]*)"', text))
    return unescape(re.sub(r"<[^>]*>", " ", text)) + tips


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_stages_are_done_or_say_why_not(kind: str, folder: Path) -> None:
    frame = written(kind, folder).to_pandas().set_index("stage")
    assert set(frame.index[frame["status"] == "not applicable"]) == NOT_THERE
    assert (frame.loc[~frame.index.isin(NOT_THERE), "status"] == "done").all(), frame
    assert frame.loc[sorted(NOT_THERE), "reason"].str.contains("images with one class each").all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_speaks_of_its_own_data_and_metric(kind: str, folder: Path) -> None:
    report, found = written(kind, folder), learnt(kind)
    text = words_on(report)
    for reason in report.to_pandas()["reason"]:
        text = text.replace(reason, "")  # "images with one class each" is what these stages need
    noun = found.data.noun
    assert found.data.nouns in text
    assert Measure.of(found.metric, noun).words in text
    if noun != "image":
        assert not re.search(r"\bimages?\b", text)
    if kind != "series":
        assert not re.search(r"(?i)\baccurac", text)
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert report.provenance["metric"] == found.metric
    measure, columns = (
        Measure.of(found.metric, noun),
        [(name, column) for name, t in report.tables.items() for column in t],
    )
    assert not [column for column in columns if not meaning(*column, measure, noun)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_functions(kind: str, folder: Path) -> None:
    report, found = written(kind, folder), learnt(kind)
    net, common = unroll(found.model, found.data.subset([0, 1]).x), {"metric": found.metric, "progress": False}
    tables = report.tables

    def close(one, other) -> None:
        np.testing.assert_allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-9, atol=1e-12)

    alone = single_deletions(net, found.data, **common)
    close(tables["lesion"][found.metric], alone.values)
    close(tables["lesion"]["damage"], alone.damage)
    some = found.data.sample(20, 0)
    several = random_deletions(net, some, tables["deletions_by_number"]["deleted"][1:].tolist(), draws=2, **common)
    close(tables["deletions"][found.metric], several.values.ravel())
    orders = reorderings(net, some, (1, 2), draws=2, **common)
    close(tables["reordering"][found.metric], orders.values)
    game = block_values(net, found.data.sample(10, 0), exhaustive=True, **common)
    close(tables["block_values"]["value"], game.values)
    if kind == "tokens":
        hessian = curvature_operator(found.model, found.data.sample(4, 0), loss="next_token_loss")
        largest = float(torch.linalg.eigvalsh(torch.as_tensor(hessian.dense()))[-1])
        assert tables["curvature_extremes"]["largest"][0] == pytest.approx(largest, rel=0.1)  # the tolerance asked for
    cells, loss = tables["surface"], LOSSES[kind]
    middle = cells.loc[(cells["x"] == 0) & (cells["y"] == 0), "loss"]
    at_weights = found.data.sample(TINY["surface"]["images"], 0)
    with torch.no_grad():
        values = loss(net(at_weights.x), at_weights.targets, at_weights.mask)
    close(middle, [float(values)])
    assert tables["frontier"]["metric"].tolist() == [found.metric] * 2
    if kind != "series":  # which has a table of classes
        close(tables["whole"][found.metric], alone.full)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", "masks"])
def test_the_code_on_the_page_runs_as_printed(kind: str, folder: Path) -> None:
    report, found = written(kind, folder), learnt(kind)
    parts = [part for section in report.sections for part in section.parts if part.code]
    assert len(parts) >= 4
    for part in parts:
        exec(compile(part.code, part.title, "exec"), {"model": found.model, "data": found.data})


@pytest.mark.slow
def test_a_recommended_drop_keeps_the_metric_and_its_code_makes_it(tmp_path: Path) -> None:
    data = case("numbers", 54).data
    training, data = (data.subset(part) for part in (slice(0, 30), slice(30, 54)))
    blocks = [Residual(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()) for _ in range(2)]
    model = randomise_norms(nn.Sequential(nn.Linear(4, 6), *blocks, nn.Linear(6, 1))).double().eval()
    skip = [stage.name for stage in STAGES if stage.name != "frontier"]
    given = {"metric": "absolute_error", "rise": 1e6, "training": training, "skip": skip}
    report = write_report(model, data, tmp_path / "r.html", **given, options=SMALL, progress=False)
    (section,) = report.sections
    assert section.headline is not None
    assert len(section.headline.dropped) == 1
    assert "mean absolute error" in section.headline.title
    assert "examples" in section.headline.numbers[0][2]
    space = {"model": model, "data": (data.x, data.targets), "training": training}
    exec(section.parts[0].code, space)
    some = data.sample(20, 0)
    after = METRICS["absolute_error"](space["smaller"](some.x).detach(), some.targets, some.targets)
    chosen = report.tables["frontier"].query("chosen").iloc[0]
    assert chosen["repair"] == "recalibrated"
    assert chosen["value"] == pytest.approx(float(after.mean()))
    assert report.provenance["rise"] == "1000000.0"


def test_another_metric_is_computed_again(tmp_path: Path) -> None:
    found, ran = case("tokens", 12), []

    def report(metric, data=found.data) -> Report:
        ran.clear()
        only = [stage.name for stage in STAGES if stage.name not in ("blocks", "lesion")]
        return write_report(
            found.model, data, tmp_path / "r.html", metric=metric, skip=only, progress=ran.append
        )  # fmt: skip

    assert report(None).provenance["metric"] == "next_token_loss"
    assert ran == ["blocks", "lesion"]
    report("next_token_loss")
    assert ran == []
    assert "perplexity" in report("perplexity").tables["lesion"]
    assert ran == ["blocks", "lesion"]
    report("perplexity", replace(found.data, targets=found.data.targets.flip(0)))
    assert ran == ["blocks", "lesion"]


def test_an_own_metric_is_named_and_taken_from_the_code(tmp_path: Path) -> None:
    found = case("numbers", 12)

    def off_by_half(outputs, targets, full):
        return ((outputs[:, 0] - targets).abs() > 0.5).double()

    wanted = ("lesion", "gradient", "frontier")
    report = write_report(
        found.model, found.data, tmp_path / "r.html", metric=off_by_half, options=SMALL, progress=False,
        skip=[stage.name for stage in STAGES if stage.name not in wanted],
    )  # fmt: skip
    assert "metric=metric" in report.sections[0].parts[0].code
    direct = single_deletions(unroll(found.model), found.data, metric=off_by_half, progress=False)
    assert report.tables["lesion"]["off_by_half"].tolist() == direct.values.tolist()
    reasons = report.to_pandas().set_index("stage")["reason"]
    assert reasons["gradient"] == "the metric off_by_half has no gradient"
    assert "off by half" in report.findings[0]


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("tokens", "error", "expected a metric for targets \\(7, 5\\)"),
        ("numbers", "perplexity", "one of squared_error, absolute_error"),
        ("numbers", "accuracy", "expected"),
        ("embeddings", None, "expected targets in embeddings"),
        ("embeddings", "squared_error", "metrics that need none"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_in_one_line(kind: str, metric, message: str, tmp_path: Path) -> None:
    found = case(kind)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        write_report(found.model, found.data, tmp_path / "r.html", metric=metric)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_data_without_targets_are_compared_with_the_full_network(tmp_path: Path) -> None:
    found = case("embeddings", 12)
    report = write_report(
        found.model, found.data, tmp_path / "r.html", metric="embedding_distance", options=SMALL, progress=False
    )
    frame = report.to_pandas().set_index("stage")
    assert set(frame.index[frame["status"] == "not applicable"]) == {
        *NOT_THERE, "gradient", "effective", "curvature", "frontier", "surface",
    }  # fmt: skip
    assert report.failed == []
    assert "without targets there is no other loss" in frame.loc["gradient", "reason"]
    assert "give one (rise=, --rise)" in frame.loc["frontier", "reason"]


def test_the_goal_follows_from_the_metric() -> None:
    from resnet_paths.report.stages.frontier import goal_of

    tokens, series = case("tokens", 12), case("series", 12)
    subject = Subject(tokens.model, tokens.data, metric="perplexity")
    full = single_deletions(subject.net, tokens.data, metric="perplexity", progress=False).full
    goal = goal_of(subject, tokens.data)
    assert isinstance(goal, Rise)
    assert goal.by == pytest.approx(full / 20, rel=0.05)
    assert goal_of(replace(subject, rise=3.0), tokens.data) == Rise("perplexity", 3.0)
    share = goal_of(replace(subject, metric="next_token_error", accuracy_drop=0.1), tokens.data)
    assert share == Rise("next_token_error", 0.1)
    masks = case("masks", 12)
    assert goal_of(Subject(masks.model, masks.data, metric="iou_error"), masks.data) == Rise("iou_error", 0.02)
    assert goal_of(Subject(series.model, series.data), series.data) == AccuracyDrop(0.02)


# the best answer that is the same for all examples


CONSTANT = {
    "tokens": ("next_token_loss", "perplexity", "next_token_error"),
    "numbers": ("squared_error", "absolute_error"),
    "masks": ("pixel_loss", "pixel_error", "iou_error"),
    "flags": ("multilabel_error", "multilabel_loss"),
    "series": ("error", "loss", "soft_error", "top5_error"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_answer_is_better_than_the_best_one(kind: str) -> None:
    """The metric itself, of constant outputs: equal to what is claimed for the best one, and worse for others."""
    data = case(kind, 40).data
    targets, generator = data.targets, torch.Generator().manual_seed(0)
    names = CONSTANT[kind]
    for name in names:
        best = constant_answer(name, data)
        tried = []
        for answer in (_best(name, targets, data.mask), *torch.randn(5, 8, generator=generator).double()):
            outputs = _spread(kind, answer, targets)
            tried.append(float(METRICS[name](outputs, targets, outputs, data.mask).double().mean()))
        assert tried[0] == pytest.approx(best), name
        assert min(tried) >= best - 1e-6, name


def _best(name: str, targets: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The constant that the best answer has at each output."""
    if name == "multilabel_error":
        return 2 * (targets.double().mean(0) > 0.5).double() - 1
    if name == "multilabel_loss":
        return targets.double().mean(0).logit()
    if targets.is_floating_point():
        return (targets.double().median() if name == "absolute_error" else targets.double().mean())[None]
    labels = targets
    if name.startswith(("next", "perp")):
        labels = targets[:, 1:][mask[:, 1:]]
    counts = torch.bincount(labels.flatten(), minlength=8).double()
    sharp = 1e3 if name == "soft_error" else 1.0
    return sharp * counts.log().clamp_min(-1e4)


def _spread(kind: str, answer: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Outputs that are the same everywhere."""
    if kind == "tokens":
        return answer.expand(*targets.shape, 8)
    if kind == "masks":
        return answer[:3].view(1, 3, 1, 1).expand(len(targets), 3, *targets.shape[1:])
    count = {"numbers": 1, "flags": 3, "series": 3}[kind]
    return answer[:count].expand(len(targets), count)


def test_masked_and_ignored_positions_do_not_make_a_constant_answer() -> None:
    tokens = torch.tensor([[1, 2, 2, 0], [1, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    data = Examples({"input_ids": tokens, "attention_mask": mask}, tokens)
    assert constant_answer("next_token_error", data) == 0.0
    assert constant_answer("next_token_error", Examples(tokens, tokens)) == 0.5
    hidden = torch.where(tokens == 0, -100, tokens)
    assert constant_answer("perplexity", Examples({"input_ids": tokens}, hidden)) == 1.0
    assert constant_answer("perplexity", Examples({"input_ids": tokens}, torch.full_like(tokens, -100))) is None
    assert constant_answer(lambda outputs, targets, full: outputs[:, 0], data) is None


# the loss of which gradients are taken, and what contributions add up to


def test_losses_are_those_of_torch() -> None:
    functional = nn.functional
    for kind, metric, expected in (
        ("tokens", "perplexity", None),
        ("masks", "iou_error", functional.cross_entropy),
        ("flags", "multilabel_error", functional.binary_cross_entropy_with_logits),
        ("numbers", "squared_error", lambda output, target: functional.mse_loss(output[:, 0], target)),
        ("series", "error", functional.cross_entropy),
    ):
        found = case(kind, 6)
        subject = Subject(found.model, found.data, metric=metric)
        output, targets, mask = subject.net(found.data.x), found.data.targets, found.data.mask
        targets = targets.double() if targets.is_floating_point() else targets
        losses = subject.loss(output, targets, mask)
        assert losses.shape == (6,)
        if kind == "tokens":
            counts = mask[:, 1:]
            each = functional.cross_entropy(output[:, :-1].movedim(-1, 1), targets[:, 1:], reduction="none")
            torch.testing.assert_close(losses, (each * counts).sum(1) / counts.sum(1))
        else:
            torch.testing.assert_close(losses.mean(), expected(output, targets))
    assert loss_for("divergence", case("tokens").data).name == "next_token_loss"
    assert loss_for("cosine_distance", case("embeddings").data) is None


def test_gradients_by_length_are_those_of_the_metric(folder: Path) -> None:
    found = case("tokens", 4)
    subject = Subject(found.model, found.data, metric="next_token_loss")
    x, targets, mask = next(subject.batches(4, 4))
    split = gradient_by_length(subject.net, x, targets, at=subject.start, loss=subject.loss.total(mask))
    entry = found.model.embedding(x["input_ids"]) * x["attention_mask"].unsqueeze(-1)
    entry = (entry.cumsum(1) / x["attention_mask"].cumsum(1).clamp_min(1).unsqueeze(-1)).detach().requires_grad_()
    output = found.model.head(found.model.blocks(entry))
    (expected,) = torch.autograd.grad(subject.loss(output, targets, mask).sum(), entry)
    torch.testing.assert_close(split.total, expected)
    assert subject.start == 0
    assert Subject(*_parts("masks")).start == "input"


def _parts(kind: str) -> tuple[nn.Module, Examples]:
    found = case(kind)
    return found.model, found.data


@pytest.mark.parametrize("kind", ["tokens", "masks", "flags", "numbers", "embeddings"])
def test_contributions_add_up_to_a_number_of_each_example(kind: str) -> None:
    found = case(kind, 5)
    subject = Subject(found.model, found.data, metric=found.metric)
    goal = Explained.of(subject)
    x, targets, mask = next(subject.batches(5, 5))
    record = goal.summed(block_contributions(subject.net, x), targets, mask)
    output = subject.net(x).detach()
    if kind == "tokens":
        picked = output[:, :-1].gather(-1, targets[:, 1:, None])[..., 0] * mask[:, 1:]
        expected = picked.sum(1) / mask[:, 1:].sum(1)
    elif kind == "masks":
        expected = output.gather(1, targets[:, None]).mean((1, 2, 3))
    elif kind == "flags":
        expected = ((2 * targets - 1) * output).mean(1)
    else:
        expected = output.mean(1) if kind == "numbers" else output.norm(dim=1)
    torch.testing.assert_close(record.of_target.sum(0).detach(), expected)


@pytest.mark.skipif(not available.IS_PRETENDED, reason="this PyTorch has no back ends written in Python, or a real one")
def test_a_report_of_tokens_on_a_device(tmp_path: Path) -> None:
    found, wanted = case("tokens", 12), ("checks", "gradient", "contributions")
    report = write_report(
        found.model.to(available.NAME), found.data, tmp_path / "r.html", options=SMALL, progress=False,
        skip=[stage.name for stage in STAGES if stage.name not in wanted],
    )  # fmt: skip
    assert report.to_pandas().set_index("stage")["status"][list(wanted)].tolist() == ["done"] * 3
    assert report.provenance["device"] == f"{available.NAME}:0"


def test_blocks_that_are_numbers_are_called_blocks(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), *(Residual(nn.Linear(6, 6)) for _ in range(3)), nn.Linear(6, 1)).eval()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    wanted = ("lesion", "values")
    report = write_report(
        model, (x, x.sum(1)), tmp_path / "r.html", options=SMALL, progress=False,
        skip=[stage.name for stage in STAGES if stage.name not in wanted],
    )  # fmt: skip
    assert report.failed == []
    assert re.search(r"block [123] matters most", " ".join(report.findings))
    assert report.provenance["metric"] == "squared_error"


def test_every_metric_has_words() -> None:
    for name in METRICS:
        measure = Measure.of(name)
        assert measure.words
        assert measure.meaning.endswith(".")
        assert not measure.is_own


# the command


CODE = """
from devices import available
from helpers import randomise_norms
from references.other_data import case

def tokens():
    return case("tokens").model

def texts(split="test"):
    data = case("tokens", 40).data
    return data.subset(slice(0, 20) if split == "train" else slice(20, 40))
"""


@pytest.mark.slow
def test_the_command_takes_a_metric(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "r.html"
    file.write_text(CODE)
    given = ["report", "--model", f"{file}:tokens", "--data", f"{file}:texts", "--out", str(out), "--only", "lesion"]
    result = CliRunner().invoke(app, [*given, "--metric", "next_token_error", "--json"])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "share of wrong tokens" in text
    assert '"metric": "next_token_error"' in result.stdout
    code = re.search(r"(from resnet_paths import.*?)</code>", text, re.S)
    assert code is not None
    exec(unescape(re.sub(r"<[^>]*>", "", code[1])), {})
    wrong = CliRunner().invoke(app, [*given, "--metric", "error"])
    assert wrong.exit_code == 2
    assert "expected a metric for targets (20, 5) of int64" in " ".join(wrong.stderr.split())


def test_names_that_look_like_numbers_stay_names() -> None:
    """Blocks of a Sequential are called 1, 2, 3, and classes of folders 007 or NA."""
    names = ["1", "007", "NA", "1e5", "True", "nan", ""]
    frame = pd.DataFrame({"name": names, "value": np.linspace(0, 1, 7)})
    section = Section((Part("a", (), tables=(Table.of("t", "T", frame),)),))
    for one in (section, Section.from_json(section.to_json())):
        assert [row["name"] for row in one.parts[0].tables[0].rows()] == names
        assert one.parts[0].tables[0].frame()["value"].tolist() == frame["value"].tolist()


def test_numbers_of_a_report_name_blocks_by_their_names(tmp_path: Path) -> None:
    one, rest = case("numbers", 12), [stage.name for stage in STAGES if stage.name not in ("blocks", "lesion")]
    report = write_report(one.model, one.data, tmp_path / "report.html", skip=rest, progress=False)
    assert report.tables["blocks"]["name"].tolist() == ["1", "2"]
    assert report.tables["lesion"]["name"].tolist() == ["1", "2"]
