import json

import pytest
from typer.testing import CliRunner

from resnet_paths.cli import app
from resnet_paths.data import digits
from resnet_paths.landscape import Surface
from resnet_paths.models import cifar_resnet, load_model, save_checkpoint

SMALL = ["--limit", "10", "--points", "3"]


def run(*arguments: str, out) -> object:
    return CliRunner().invoke(app, ["landscape", *arguments, "--out", str(out)])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    options = {"in_channels": 1, "widths": (4, 4, 8)}
    made = {
        "skip": cifar_resnet(8, seed=0, **options),
        "other": cifar_resnet(8, seed=1, **options),
        "plain": cifar_resnet(8, seed=0, residual=False, **options),
    }
    paths = []
    for name, model in made.items():
        save_checkpoint(model, folder / f"{name}.safetensors")
        paths.append(str(folder / f"{name}.safetensors"))
    return paths


@pytest.mark.slow
def test_twins_in_a_plane(checkpoints, tmp_path) -> None:
    skip, _, plain = checkpoints
    result = run("--model", skip, "--twin", plain, "--html", "--y-range", "0:2", *SMALL, "--json", out=tmp_path)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [row["cells"] for row in report["surfaces"].values()] == [9, 9]
    assert all(0 <= row["convex cells"] <= 1 for row in report["surfaces"].values())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "landscape.png", "landscape.html", "landscape.csv", "landscape.npz", "landscape.vtk",
        "landscape_twin.csv", "landscape_twin.npz", "landscape_twin.vtk",
    }  # fmt: skip
    surface = Surface.load(tmp_path / "landscape.npz")
    assert (surface.x[0], surface.y[0], surface.y[-1]) == (-1, 0, 2)


@pytest.mark.slow
def test_a_line_to_another_checkpoint(checkpoints, tmp_path) -> None:
    skip, other, _ = checkpoints
    result = run("--model", skip, "--to", other, "--batchnorm", "batch", *SMALL, out=tmp_path)
    assert result.exit_code == 0, result.output
    assert "deviation" in result.stdout or "cells" in result.stdout
    surface = Surface.load(tmp_path / "landscape.npz")
    assert surface.x.tolist() == [0, 0.5, 1]
    assert (surface.x_name, surface.batchnorm) == ("between", "batch")


@pytest.mark.slow
def test_gates(checkpoints, tmp_path) -> None:
    result = run("--model", checkpoints[0], "--gates", "0,layer3.0", *SMALL, out=tmp_path)
    assert result.exit_code == 0, result.output
    surface = Surface.load(tmp_path / "landscape.npz")
    assert (surface.x_name, surface.y_name) == ("gate of layer1.0", "gate of layer3.0")
    result = run("--model", checkpoints[0], "--gates", "1", "--batchnorm", "recalibrated", *SMALL, out=tmp_path)
    assert result.exit_code == 0, result.output
    line = Surface.load(tmp_path / "landscape.npz")
    assert (line.y, line.batchnorm) == (None, "recalibrated")


@pytest.mark.slow
def test_a_picture_before_the_end(checkpoints, tmp_path, monkeypatch) -> None:
    from resnet_paths.cli import landscape

    drawn = []
    real = landscape._draw
    monkeypatch.setattr(landscape, "_draw", lambda surfaces, *rest: drawn.append(surfaces) or real(surfaces, *rest))
    result = run("--model", checkpoints[0], "--line", "--limit", "4", "--points", "9", out=tmp_path)
    assert result.exit_code == 0, result.output
    shares = [int(next(iter(surfaces.values())).finished.sum()) for surfaces in drawn]
    assert shares == [2, 3, 5, 9, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "cifar-resnet20"], "choose --data to fit --model"),
        (["--range", "1"], "a range LOW:HIGH"),
        (["--range", "1:0"], "a range LOW:HIGH"),
        (["--dtype", "int8"], "not one of 'bfloat16'"),
        (["--to", "a", "--gates", "0"], "either --to or --gates"),
        (["--to", "a", "--twin", "b"], "--twin with random directions"),
        (["--gates", "0,1,2"], "with --gates, got 3"),
        (["--gates", "0", "--line"], "--gates without --line"),
        (["--batchnorm", "moving"], "'--batchnorm': 'moving' is not one of"),
        (["--line", "--y-range", "0:1"], "--y-range only with two axes"),
        (["--gates", "0", "--seed", "3"], "--seed only with random directions, got --gates"),
        (["--to", "a", "--normalise", "layer"], "--normalise only with random directions, got --to"),
        (["--loss", "perplexity"], "expected a metric for targets"),
        (["--loss", "mse"], "'--loss': 'mse' is not one of 'error', 'loss'"),
        (["--normalise", "row"], "'--normalise': 'row' is not one of"),
    ],
)
def test_invalid_use_gives_one_line(checkpoints, arguments: list[str], message: str, tmp_path) -> None:
    result = run("--model", checkpoints[0], *SMALL, *arguments, out=tmp_path)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_another_loss_than_the_usual_one(checkpoints, tmp_path) -> None:
    given = ("--model", checkpoints[0], "--line", *SMALL)
    result = run(*given, "--loss", "soft_error", "--json", out=tmp_path)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["loss"] == "soft_error"
    model, data = load_model(checkpoints[0]), digits("test").subset(slice(0, 10))
    surface = Surface.load(tmp_path / "landscape.npz")
    probability = model(data.x).softmax(1)[range(10), data.labels].detach()
    assert surface.loss == "soft_error"
    assert surface.values["loss"][1] == pytest.approx(float(1 - probability.mean()), rel=1e-5)
    assert "Surface of soft_error" in run(*given, "--loss", "soft_error", out=tmp_path).stdout
    assert "Loss surface" in run(*given, out=tmp_path).stdout
