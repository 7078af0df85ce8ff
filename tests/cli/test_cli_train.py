"""``resnet-paths train`` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from resnet_paths.cli import app
from resnet_paths.models import cifar_resnet, load_model, read_checkpoint
from resnet_paths.network import unroll
from resnet_paths.training import read_trajectory
from resnet_paths.training.run_folder import RunFolder

SMALL = ["--model", "cifar-resnet8", "--widths", "2,2,4", "--limit", "64"]


def run(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def numbers(*arguments: str) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict = json.loads(result.stdout)
    return found


def test_train_then_load(tmp_path: Path) -> None:
    report = numbers(*SMALL, "--epochs", "2", "--out", str(tmp_path))
    assert [row["epoch"] for row in report["epochs"]] == [0, 1]
    assert set(report["epochs"][0]) == {"epoch", "rate", "loss", "train_error", "test_error"}
    assert (report["blocks"], report["resumed_after"]) == (3, 0)
    assert len(unroll(load_model(report["checkpoint"]))) == 3
    facts = read_checkpoint(report["checkpoint"])[1]
    assert facts["architecture"]["in_channels"] == 1
    assert (facts["recipe"]["shift"], facts["recipe"]["flip"]) == (1, False)
    assert (tmp_path / "training.png").stat().st_size > 5000
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert not list(tmp_path.glob("tensorboard"))


@pytest.mark.slow
def test_the_same_command_resumes_where_it_was_stopped(tmp_path: Path, monkeypatch) -> None:
    arguments = [*SMALL, "--epochs", "3", "--keep-last", "0.5", "--mixup", "0.2"]
    whole = numbers(*arguments, "--out", str(tmp_path / "whole"))
    save, calls = RunFolder.save, iter(range(100))

    def stopped(*given) -> None:
        save(*given)
        if next(calls) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", stopped)
        result = run(*arguments, "--out", str(tmp_path / "broken"))
    assert result.exit_code == 130
    assert "resumes after the last finished epoch" in result.stderr
    again = numbers(*arguments, "--out", str(tmp_path / "broken"))
    assert again["resumed_after"] == 2
    assert again["epochs"] == whole["epochs"]
    one, other = (load_model(report["checkpoint"]).state_dict() for report in (whole, again))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_fresh_begins_again_and_removes_nothing_else(tmp_path: Path) -> None:
    numbers(*SMALL, "--epochs", "1", "--out", str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    other = run(*SMALL, "--epochs", "2", "--out", str(tmp_path))
    assert other.exit_code == 2
    assert "got another recipe" in " ".join(other.stderr.split())
    report = numbers(*SMALL, "--epochs", "2", "--fresh", "--keep", "all", "--out", str(tmp_path))
    assert report["resumed_after"] == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert read_trajectory(tmp_path).epochs == (0, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        (["--plain"], 0),
        (["--preactivation", "--shortcut", "B"], 3),
        (["--model", "cifar-resnet11", "--block", "bottleneck", "--groups", "2", "--shortcut", "D"], 3),
        (["--stem", "deep", "--zero-init-residual", "--no-decay-vectors", "--precision", "bfloat16"], 3),
    ],
)
def test_families(tmp_path: Path, options: list[str], blocks: int) -> None:
    report = numbers(*SMALL, *options, "--epochs", "1", "--no-test", "--out", str(tmp_path))
    assert report["blocks"] == blocks
    assert "test_error" not in report["epochs"][0]


@pytest.mark.slow
def test_the_seed_decides_the_initial_values(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    still = ["--limit", "64", "--epochs", "1", "--learning-rate", "0", "--no-test"]
    weights = []
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        options = ["--model", f"{tmp_path / 'mine.py'}:net", *still, "--seed", seed]
        weights.append(read_checkpoint(numbers(*options, "--out", str(tmp_path / folder))["checkpoint"])[0]["1.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    report = numbers(*SMALL, *still, "--seed", "5", "--out", str(tmp_path / "family"))
    expected = cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=5).conv1.weight
    assert torch.equal(load_model(report["checkpoint"]).conv1.weight, expected)


@pytest.mark.slow
def test_models_of_other_libraries_and_weights_to_go_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split in ("train", "test"):
        for label, level in (("dark", 0), ("light", 255)):
            (folder / split / label).mkdir(parents=True)
            from PIL import Image

            for index in range(3):
                Image.new("RGB", (32, 32), (level, level, level)).save(folder / split / label / f"{index}.png")
    arguments = ["--data", str(folder), "--epochs", "1", "--batch-size", "6"]
    report = numbers("--model", "resnet18", *arguments, "--out", str(tmp_path / "one"))
    assert read_checkpoint(report["checkpoint"])[0]["fc.weight"].shape == (2, 512)
    assert report["blocks"] == 8
    start = load_model("embedded").conv1.weight
    options = ["--limit", "64", "--epochs", "1", "--learning-rate", "0", "--no-test"]
    report = numbers("--model", "embedded", *options, "--out", str(tmp_path / "on"))
    assert torch.equal(load_model(report["checkpoint"]).conv1.weight, start)


def test_test_images_that_are_training_images_are_pointed_out(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.arange(2)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    result = run(*SMALL[:4], "--data", str(tmp_path / "x.npz"), "--epochs", "1", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "the test error is the training error" in " ".join(result.stdout.split())
    assert "Next: resnet-paths lesion" in " ".join(result.stdout.split())


def test_help_has_examples() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "resnet-paths train --epochs 20" in text
    assert "resumes an interrupted run" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "cifar-resnet9"], "nearest are 8 and 14"),
        (
            ["--model", "resnet18", "--plain", "--widths", "4"],
            "expected --plain, --widths only with --model cifar-resnetDEPTH",
        ),
        (["--widths", "8,x"], "--widths as comma-separated numbers"),
        (["--shortcut", "E"], "'A', 'B', 'C', 'D'"),
        (["--epochs", "0"], "epochs to be an integer of at least 1"),
        (["--schedule", "linear"], "'cosine', 'step'"),
        (["--precision", "half"], "'half' is not one of"),
        (["--keep-last", "0.5", "--plain"], "nothing bypasses"),
        (["--device", "cuda:99"], "--device to be an available device"),
        (["--model", "resnet18"], "choose --data to fit --model"),
        (["--data", "nowhere"], "neither a known name nor a file"),
        ([*SMALL, "--keep", "some"], "'last', 'all'"),
        ([*SMALL, "--learning-rate", "1e30", "--warmup", "0", "--epochs", "9"], "lower learning_rate"),
    ],
)
def test_invalid_use_gives_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run(*arguments, "--out", str(tmp_path))
    assert result.exit_code == 2, result.output
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
