"""Commands on data that are no images, returned by the user's own function."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_paths.cli import app

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


def told(result) -> str:
    return " ".join(result.stderr.split())


def test_studies_take_metrics_that_fit(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:tokens", "--data", f"{mine}:texts", "--out", tmp_path)
    result = run("lesion", *given, "--metric", "perplexity", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["metric"] == "perplexity"
    assert len(content["rows"]) == 3
    assert "Data: 20 sequences of texts (test)" in told(result)
    result = run("lesion", *given, "--study", "random", "--draws", 2)
    assert result.exit_code == 0, result.output
    assert "next_token_loss" in result.stdout
    assert "over sequences" in " ".join(result.stdout.split())
    result = run("lesion", *given, "--metric", "error")
    assert result.exit_code == 2
    assert "expected a metric for targets (20, 5) of int64" in told(result)


@pytest.mark.filterwarnings("default:prices takes no split")
def test_a_plan_states_a_rise(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:numbers", "--data", f"{mine}:prices", "--out", tmp_path, "--repair", "none")
    quick = ("--latency-seconds", 0.001, "--latency-batch", 2)
    result = run("plan", *given, *quick, "--rise", 1000, "--json")
    assert result.exit_code == 0, result.output
    assert "prices takes no split: 8 of its 40 examples" in told(result)
    plan = json.loads(result.stdout)
    assert plan["goal"] == {
        "kind": "Rise", "metric": "squared_error", "by": 1000.0, "confidence": 0.95, "distribution_free": False,
    }  # fmt: skip
    assert (tmp_path / "plan.png").exists()
    result = run("plan", *given, *quick, "--rise", 1000)
    assert result.exit_code == 0, result.output
    assert "squared_error on 8 examples" in " ".join(result.stdout.split())


@pytest.mark.filterwarnings("default:prices takes no split")
def test_what_needs_images_says_so(mine: Path, tmp_path: Path) -> None:
    given = ("--model", f"{mine}:numbers", "--data", f"{mine}:prices", "--out", tmp_path)
    for command in (("plan",), ("shrink", "--no-onnx", "--count", 1), ("paths",)):
        result = run(*command, *given)
        assert result.exit_code == 2, result.output
        reason = (
            "expected one of --latency" if command == ("plan",) else "expected --data with images of one class each"
        )
        assert reason in told(result)
