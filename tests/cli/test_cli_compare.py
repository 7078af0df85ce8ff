"""``resnet-paths compare``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_paths import compare, load_data, load_model
from resnet_paths.cli import app
from resnet_paths.comparison import Comparison


@pytest.mark.slow
def test_the_same_numbers_as_in_python(small_checkpoint: Path, tmp_path: Path) -> None:
    spec, out = str(small_checkpoint), tmp_path / "out"
    settings = ["--limit", "12", "--draws", "1", "--gradient-images", "3", "--metric", "loss"]
    result = CliRunner().invoke(
        app, ["compare", "--model", spec, "--other", spec, *settings, "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    model, data = load_model(spec), load_data("digits", limit=12)
    record = compare({spec: model, "again": model}, data, metric="loss", draws=1, gradient_images=3, progress=False)
    assert [row["loss"] for row in printed["models"]] == pytest.approx(record.values)
    assert printed["models"][1]["difference"] == 0
    assert printed["models"][1]["model"] == f"{spec} (2)"
    assert len(printed["blocks"]) == 2 * len(record.blocks)
    assert Comparison.load(out / "compare.npz").models == (spec, f"{spec} (2)")
    assert (out / "compare.png").exists()
    assert "<svg" in (out / "compare.html").read_text()
    assert (out / "blocks.csv").exists()


@pytest.mark.slow
def test_in_words(small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # the same pictures, and the same page
    monkeypatch.setattr("resnet_paths.report.write_comparison", lambda record, page: page)
    spec = str(small_checkpoint)
    settings = ["--limit", "6", "--draws", "1", "--gradient-images", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["compare", "--model", spec, "--other", spec, *settings])
    assert result.exit_code == 0, result.output
    assert "No block's damage differs by more than its interval" in result.output
    assert CliRunner().invoke(app, ["compare", "--model", spec]).exit_code == 2


def test_the_option_of_a_model_that_does_not_fit_is_named(small_checkpoint: Path, tmp_path: Path) -> None:
    arguments = [
        "compare",
        "--model",
        str(small_checkpoint),
        "--other",
        "resnet18",
        "--limit",
        "4",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "fit --other" in result.stderr


DATA = """
from references.other_data import case

def series():
    return case("series").model

def classes():
    return case("series", 12).data

def numbers():
    return case("numbers").model

def prices():
    return case("numbers", 12).data
"""


def _compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, data: str, *more: str):
    (tmp_path / "mine.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    model, data = (f"mine.py:{name}" for name in (model, data))
    given = ("--model", model, "--other", model, "--data", data, "--draws", "1", "--gradient-images", "2")
    return CliRunner().invoke(app, ["compare", *given, "--out", str(tmp_path / "out"), *more])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "more", "nouns"),
    [
        ("series", "classes", (), "series"),
        ("numbers", "prices", ("--metric", "squared_error", "--part", "recommended"), "examples"),
    ],
)
def test_data_of_any_form_and_blocks_that_are_called_by_numbers(
    model: str, data: str, more: tuple[str, ...], nouns: str, tmp_path: Path, monkeypatch
) -> None:
    result = _compared(tmp_path, monkeypatch, model, data, *more)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert f"of 12 {nouns}" in words
    assert "nan" not in words
    record = Comparison.load(tmp_path / "out" / "compare.npz")
    assert record.blocks == ("1", "2")
    assert (record.contribution is not None) == (model == "series")
    assert record.difference[1] == 0
    assert "All models see the same 12 " + nouns in (tmp_path / "out" / "compare.html").read_text()


def test_data_that_the_metric_or_a_part_does_not_fit_are_refused(tmp_path: Path, monkeypatch) -> None:
    for more, said in (
        ((), "expected a metric for targets (12,)"),
        (("--metric", "squared_error", "--part", "contributions"), "one class each for contributions"),
    ):
        result = _compared(tmp_path, monkeypatch, "numbers", "prices", *more)
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.stderr.split())
