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
    told = json.loads(result.stdout)
    model, data = load_model(spec), load_data("digits", limit=12)
    record = compare({spec: model, "again": model}, data, metric="loss", draws=1, gradient_images=3, progress=False)
    assert [row["loss"] for row in told["models"]] == pytest.approx(record.values)
    assert told["models"][1]["difference"] == 0
    assert told["models"][1]["model"] == f"{spec} (2)"
    assert len(told["blocks"]) == 2 * len(record.blocks)
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
