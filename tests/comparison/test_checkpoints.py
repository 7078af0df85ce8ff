"""A run's checkpoints as a series of curves, and models named by files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from resnet_paths import cifar_resnet, compare
from resnet_paths.cli import app
from resnet_paths.comparison import Comparison, PartSettings
from resnet_paths.data import digits
from resnet_paths.plot import plot_checkpoints, plot_side_by_side
from resnet_paths.training import Recipe, train

DATA = digits("test").subset(slice(0, 8))
CHEAP = {"draws": 1, "gradient_images": 2, "parts": (), "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0)
    train(
        model, digits("train").subset(slice(0, 32)), Recipe(epochs=2, shift=1), folder=folder, keep="all",
        progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def film(run) -> Comparison:
    return compare(run, DATA, **CHEAP)


def test_a_folder_stands_for_its_checkpoints(film, run) -> None:
    assert film.models == ("epoch-0000", "epoch-0001", "epoch-0002")
    assert film.positions.tolist() == [0, 1, 2]
    files = sorted(run.glob("epoch-*.safetensors"))
    listed = compare([str(file) for file in files], DATA, **CHEAP)
    assert listed.models == tuple(map(str, files))
    assert listed.positions.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(listed.damage, film.damage)
    labelled = compare({"step 500": files[2], "step 20": files[0]}, DATA, **CHEAP)
    assert labelled.positions.tolist() == [500, 20]
    np.testing.assert_array_equal(labelled.values, film.values[[2, 0]])


def test_a_folder_without_checkpoints_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"epoch-NNNN\.safetensors, got .* without any"):
        compare(tmp_path, DATA)


def test_names_that_are_not_a_series_count_from_zero(film) -> None:
    from dataclasses import replace

    assert replace(film, models=("a-1", "b-2", "c-3")).positions.tolist() == [0, 1, 2]
    assert film.is_film
    assert not replace(film, models=("resnet18", "resnet34")).is_film
    others = replace(film, models=("embedded", "a1", "a2"))
    assert (others.positions.tolist(), others.series) == ([0, 1, 2], "model")
    assert replace(film, models=("run/step_10.pt", "run/step_20.pt", "run/step_30.pt")).series == "step"
    assert replace(film, models=("run@x-010.pt", "run@x-020.pt", "run@x-7.pt")).positions.tolist() == [10, 20, 7]


@pytest.mark.parametrize("name", ["viridis", "Blues_r"])
def test_the_film_has_the_users_colours_in_order(film, name) -> None:
    with matplotlib.rc_context({"image.cmap": name}):
        deletion, gradient = plot_checkpoints(film)
    scale = matplotlib.colormaps[name]
    for line, place in zip(deletion.lines, (0, 0.45, 0.9), strict=True):
        assert line.get_color() == pytest.approx(scale(place), abs=0.01)
    np.testing.assert_array_equal(deletion.lines[1].get_ydata(), [film.values[1], *film.deletion[1]])
    np.testing.assert_array_equal(deletion.lines[1].get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(gradient.lines[2].get_ydata(), film.gradient_share[2])
    assert deletion.get_figure().axes[-1].get_ylabel() == "epoch"
    with pytest.raises(ValueError, match="as many axes as quantities"):
        plot_checkpoints(film, [deletion])


def test_any_quantity_on_one_axis(film) -> None:
    ax = plot_side_by_side(film, "damage", title="damage")
    assert ax.get_title() == "damage"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(film.models)
    np.testing.assert_array_equal(plot_side_by_side(film, "path_share", ax=None).lines[0].get_xdata(), film.lengths)
    with pytest.raises(ValueError, match="expected a comparison with shapley, got one without"):
        plot_side_by_side(film, "shapley")


@pytest.mark.slow
def test_the_command_takes_the_folder_of_a_run(run, film, tmp_path) -> None:
    settings = ["--limit", "8", "--draws", "1", "--gradient-images", "2", "--json", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["compare", "--model", str(run), *settings])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert [row["model"] for row in printed["models"]] == list(film.models)
    assert [row["error"] for row in printed["models"]] == pytest.approx(film.values)
    assert {"compare.html", "film.png", "lengths.csv"} <= {file.name for file in tmp_path.iterdir()}
    assert 'aria-label="Random blocks deleted, 3 models' in (tmp_path / "compare.html").read_text()


@pytest.mark.integration
@pytest.mark.slow
def test_the_tasks_of_a_slurm_array_divide_the_models_and_a_last_one_merges(run, film, tmp_path, monkeypatch) -> None:
    """The commands of docs/how-to/compare.md, here in a new process and in this one at a time; on few images.

    The tasks of the array draw no pictures, because the last command draws the same ones.
    """
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "compare.md").read_text()
    every, last = re.findall(r"--wrap \\\n    'resnet-paths (compare [^']+)'", page)
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(run)
    first, second = (_words(every.replace("$SLURM_ARRAY_TASK_ID", task)) for task in ("0", "1"))
    task = subprocess.Popen([sys.executable, "-c", UNDRAWN, *first])
    try:
        with monkeypatch.context() as patch:
            patch.setattr("resnet_paths.report.write_comparison", lambda record, page: page)
            patch.setattr("resnet_paths.plot.save", lambda axes, path: path)
            _invoke(second)
    finally:
        assert task.wait() == 0
    assert "0 computed now" in _invoke(_words(last)).stderr
    merged = Comparison.load("compared/compare.npz")
    for name in ("values", "damage", "gradient_difference"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(film, name))
    assert merged.latency is not None
    for task in ("0", "1"):
        assert Comparison.load(f"tasks/{task}/compare.npz").models == film.models


UNDRAWN = """
import resnet_paths.plot, resnet_paths.report
from resnet_paths.__main__ import main
resnet_paths.report.write_comparison = lambda record, page: page
resnet_paths.plot.save = lambda axes, path: path
main()
"""


def _words(command: str) -> list[str]:
    return [*command.split(), "--limit", "8", "--draws", "1", "--gradient-images", "2"]


def _invoke(words: list[str]) -> Result:
    result = CliRunner().invoke(app, words)
    if result.exit_code:
        raise SystemExit(result.output)
    return result


def test_models_that_were_compared_before_are_found_in_the_journal(run, film, tmp_path, capsys) -> None:
    files = sorted(run.glob("epoch-*.safetensors"))
    common = {**CHEAP, "journal": tmp_path / "models.sqlite", "progress": True}
    compare(files[:2], DATA, **common)
    capsys.readouterr()
    latency = PartSettings(latency_batch=1, latency_seconds=0.0)
    again = compare(files[::-1], DATA, **{**common, "parts": ["latency"], "settings": latency})
    assert "1 computed now" in capsys.readouterr().err
    np.testing.assert_array_equal(again.damage, film.damage[::-1])
    assert again.latency is not None
