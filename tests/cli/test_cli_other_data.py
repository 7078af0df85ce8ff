"""Commands on data other than images, returned by the user's own function."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from references.other_data import case
from resnet_paths import single_deletions, unroll
from resnet_paths.cli import app
from resnet_paths.landscape import Surface
from resnet_paths.lesion import METRICS
from resnet_paths.models import load_model
from resnet_paths.tradeoff import load_plan
from resnet_paths.tradeoff.measures import answers

CODE = """
from references.other_data import case

def tokens():
    return case("tokens").model

def numbers():
    return case("numbers").model

def texts(split="test"):
    data = case("tokens", 40).data
    return data.subset(slice(0, 20) if split == "train" else slice(20, 40))

def prices():
    return case("numbers", 40).data
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output_of(result) -> str:
    return " ".join(result.stderr.split())


def test_studies_take_metrics_that_fit(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:tokens", "--data", f"{mine}:texts", "--out", tmp_path)
    result = run("lesion", *given, "--metric", "perplexity", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["metric"] == "perplexity"
    assert len(content["rows"]) == 3
    assert "Data: 20 sequences of texts (test)" in output_of(result)
    result = run("lesion", *given, "--study", "random", "--draws", 2)
    assert result.exit_code == 0, result.output
    assert "next_token_loss" in result.stdout
    assert "over sequences" in " ".join(result.stdout.split())
    result = run("lesion", *given, "--metric", "error")
    assert result.exit_code == 2
    assert "expected a metric for targets (20, 5) of int64" in output_of(result)


@pytest.mark.parametrize("ways", [("--line",), ("--gates", "blocks.0")])
def test_a_landscape_of_texts(mine: Path, tmp_path: Path, ways: tuple[str, ...]) -> None:
    given = ("--model", f"{mine}:tokens", "--data", f"{mine}:texts", "--out", tmp_path, "--points", 3)
    result = run("landscape", *given, *ways, "--range=0:1", "--json")
    assert result.exit_code == 0, result.output
    model, data = case("tokens").model, case("tokens", 40).data.subset(slice(20, 40))
    net, metric = unroll(model, data.subset(slice(0, 2)).x), METRICS["next_token_loss"]
    surface = Surface.load(tmp_path / "landscape.npz")
    assert surface.images == 20
    with torch.no_grad():
        outputs = net(data.x)
        lesioned = net(data.x, [0.0] + [1.0] * (len(net) - 1))
    at_origin, there = (float(metric(one, data.targets, one, data.mask).mean()) for one in (outputs, lesioned))
    gated = "--gates" in ways
    assert surface.values["loss"][-1 if gated else 0] == pytest.approx(at_origin, rel=1e-6)
    if gated:
        assert surface.values["loss"][0] == pytest.approx(there, rel=1e-6)


@pytest.mark.filterwarnings("default:prices takes no split")
def test_a_plan_states_a_rise(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:numbers", "--data", f"{mine}:prices", "--out", tmp_path, "--repair", "none")
    quick = ("--latency-seconds", 0.001, "--latency-batch", 2)
    result = run("plan", *given, *quick, "--rise", 1000, "--json")
    assert result.exit_code == 0, result.output
    assert "prices takes no split: 8 of its 40 examples" in output_of(result)
    plan = json.loads(result.stdout, parse_constant=pytest.fail)  # JSON has no NaN
    assert plan["points"][0]["accuracy"] is None
    assert plan["goal"] == {
        "kind": "Rise", "metric": "squared_error", "by": 1000.0, "confidence": 0.95, "distribution_free": False,
    }  # fmt: skip
    assert (tmp_path / "plan.png").exists()
    result = run("plan", *given, *quick, "--rise", 1000)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "squared_error on 8 examples" in words
    assert "Next: resnet-paths drop --plan" in words


@pytest.mark.filterwarnings("default:prices takes no split")
def test_what_needs_images_says_so(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:numbers", "--data", f"{mine}:prices", "--out", tmp_path)
    for command in ("plan", "paths"):
        result = run(command, *given)
        assert result.exit_code == 2, result.output
        reason = "expected one of --latency" if command == "plan" else "expected --data with images of one class each"
        assert reason in output_of(result)


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["none", "refit"])
def test_the_command_of_a_plan_makes_the_planned_network(repair: str, mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:tokens", "--data", f"{mine}:texts", "--out", tmp_path, "--repair", repair)
    result = run("plan", *given, "--latency-seconds", 0.001, "--latency-batch", 2, "--rise", 1000)
    assert result.exit_code == 0, result.output
    assert "images" not in result.stdout
    assert "next_token_loss on 20 sequences" in result.stdout
    words = shlex.split(" ".join(result.stdout.split()).partition("Next: resnet-paths ")[2])
    written = run(*words, *["--no-onnx"] * (repair == "none"), "--out", tmp_path / "smaller")
    assert written.exit_code == 0, written.output
    test = case("tokens", 40).data.subset(slice(20, 40))
    full = case("tokens").model
    net, smaller = unroll(full, test.x), load_model(str(tmp_path / "smaller")).double()
    value = single_deletions(net, test, metric="next_token_loss", progress=False).full
    plan = load_plan(tmp_path / "plan.json")
    assert "20 held-out sequences" in plan.summary
    assert plan.points[0].value == pytest.approx(value)
    after = answers(smaller, test, net.followed).values(METRICS["next_token_loss"], answers(full, test, net.followed))
    assert plan.point.value == pytest.approx(after.mean())


CLASSES = """
import torch
from resnet_paths.models import cifar_resnet

def model():
    return cifar_resnet(14, in_channels=1, widths=(2, 2, 4), num_classes=4, seed=0).eval()

def images(split="test"):
    x, y = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    chosen = torch.arange(60) < 30 if split == "train" else (torch.arange(60) >= 30) & (y < 3)
    return x[chosen], y[chosen]
"""


@pytest.mark.slow
def test_a_plan_is_dropped_though_the_test_images_lack_a_class(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CLASSES)
    given = ("--model", f"{file}:model", "--data", f"{file}:images", "--out", tmp_path / "plan", "--count", 1)
    result = run("plan", *given, "--latency-seconds", 0.001, "--latency-batch", 2)
    assert result.exit_code == 0, result.output
    result = run("drop", "--plan", tmp_path / "plan" / "plan.json", "--no-onnx", "--out", tmp_path / "smaller")
    assert result.exit_code == 0, result.output
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    del plan["source"]["limit"]
    (tmp_path / "cut.json").write_text(json.dumps(plan))
    result = run("drop", "--plan", tmp_path / "cut.json", "--no-onnx", "--out", tmp_path / "other")
    assert result.exit_code == 2, result.output
    assert "expected a plan written by resnet-paths plan" in output_of(result)
