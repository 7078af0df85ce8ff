"""The studies of ``resnet-paths lesion --study`` give the numbers of the API."""

import json
import sqlite3
from contextlib import closing

import pandas as pd
import pytest
from typer.testing import CliRunner

from resnet_paths import unroll
from resnet_paths.cli import app
from resnet_paths.data import digits
from resnet_paths.lesion import block_values, reorderings
from resnet_paths.models import load_model

pytestmark = pytest.mark.slow


def run(tmp_path, *arguments: str):
    common = ["lesion", "--limit", "20", "--out", str(tmp_path)]
    return CliRunner().invoke(app, [*common, *arguments])


@pytest.mark.parametrize(
    ("study", "rows", "columns"),
    [
        ("random", 6, ["deleted", "median", "low", "high", "tenth", "ninetieth"]),
        ("reorder", 6, ["swaps", "tau", "tenth", "median", "ninetieth", "low", "high"]),
        ("stage", 3, ["stage", "blocks", "full_stage"]),
        ("shortcut", 6, ["block", "name", "shortcut", "error", "low", "high", "damage", "damage_low", "damage_high"]),
        ("predictors", 8, None),
    ],
)
def test_each_study(tmp_path, small_checkpoint, study: str, rows: int, columns: list[str] | None) -> None:
    result = run(tmp_path, "--model", str(small_checkpoint), "--study", study, "--draws", "2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["study"] == study
    assert len(report["rows"]) == rows
    assert columns is None or list(report["rows"][0]) == columns
    assert (tmp_path / f"{study}.png").stat().st_size > 5000
    assert len(pd.read_csv(tmp_path / f"{study}.csv")) == rows


def test_the_same_numbers_as_in_python(tmp_path, small_checkpoint) -> None:
    model = str(small_checkpoint)
    arguments = ["--model", model, "--study", "reorder", "--draws", "2", "--metric", "loss", "--json"]
    report = json.loads(run(tmp_path, *arguments).stdout)
    record = reorderings(unroll(load_model(model)), digits("test").subset(slice(0, 20)), draws=2, metric="loss")
    assert [row["median"] for row in report["rows"]] == pytest.approx(record.by_swaps()["median"].tolist())
    assert report["full"] == pytest.approx(record.full)


def test_the_game_in_words(tmp_path) -> None:
    result = run(tmp_path, "--study", "game", "--draws", "2", "--journal", str(tmp_path / "game.journal"))
    assert result.exit_code == 0, result.output
    record = block_values(unroll(load_model("embedded")), digits("test").subset(slice(0, 20)), max_permutations=4)
    text = " ".join(result.stdout.split())
    assert "Shapley values from 4 orders, 106 coalitions" in text
    assert f"sum to {record.empty - record.full:+.4g}" in text
    assert (tmp_path / "game.journal").exists()


def test_single_deletions_go_on_from_a_journal(tmp_path, small_checkpoint, monkeypatch) -> None:
    journal = tmp_path / "single.journal"

    def computed() -> list[tuple[bytes, float]]:
        with closing(sqlite3.connect(journal)) as database:
            return database.execute("SELECT key, seconds FROM results ORDER BY key").fetchall()

    arguments = ["--model", str(small_checkpoint), "--count", "2", "--json", "--journal", str(journal)]
    first = json.loads(run(tmp_path, *arguments).stdout)
    once = computed()
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # the same picture
    second = json.loads(run(tmp_path, *arguments).stdout)
    assert len(once) == 3  # all images; those that choose; those kept apart
    assert computed() == once
    assert second["blocks"] == first["blocks"]
    assert second["drop"]["dropped"] == first["drop"]["dropped"]
    assert second["drop"]["after"]["accuracy"] == first["drop"]["after"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "random", "--metric", "accuracy"], "disagreement"),
        (["--study", "game", "--tolerance", "0"], "above"),
    ],
)
def test_wrong_use(tmp_path, arguments: list[str], message: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.strip().splitlines()) == 1
    assert "predictors" in run(tmp_path, "--study", "all").output
