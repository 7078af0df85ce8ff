"""``resnet-paths paths``: files, numbers, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_paths.cli import app
from resnet_paths.paths import path_lengths


@pytest.mark.slow
def test_paths_of_a_network(tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["paths", "--model", str(small_checkpoint), "--limit", "2", "--draws", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert numbers["blocks"] == 6
    assert numbers["residual"] < 1e-3
    assert sum(numbers["gradient_share"]) == pytest.approx(1, abs=1e-3)
    effective = numbers["effective"]
    assert effective["path_share"] == path_lengths(6).share(effective["low"], effective["high"])
    assert all(Path(picture).stat().st_size > 1000 for picture in numbers["pictures"])
    assert len((tmp_path / "effective_paths.csv").read_text().splitlines()) == 8

    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # the same pictures
    readable = CliRunner().invoke(app, arguments)
    assert "2^6 paths" in readable.output
    assert "of the gradient" in readable.output


def test_errors_of_the_user_are_one_line() -> None:
    result = CliRunner().invoke(app, ["paths", "--model", "no-such-model"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
