"""Images and checkpoints of your own on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from resnet_paths import drop_blocks
from resnet_paths.checkpoints.reading import read_facts
from resnet_paths.cli import app
from resnet_paths.models import cifar_resnet, load_checkpoint, load_model, save_checkpoint

pytestmark = pytest.mark.slow

LEVELS = {"ant": 20, "bee": 90, "cow": 160, "dog": 230}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output_of(result) -> str:
    return " ".join(result.stderr.split())


def picture(path: Path, level: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (level,) * 3).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Four classes, of which the validation images lack one."""
    root = tmp_path_factory.mktemp("photos")
    for label, level in LEVELS.items():
        for k in range(6):
            picture(root / "train" / label / f"{k}.png", level + k)
    for label in ("ant", "cow", "dog"):
        picture(root / "val" / label / "9.png", LEVELS[label] + 9)
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    """A network that recognises grey levels: each class's logit is highest at its own level."""
    out = tmp_path_factory.mktemp("run")
    result = run(
        "train", "--model", "cifar-resnet8", "--widths", "4,4,8", "--data", photos, "--epochs", 12, "--batch-size", 8,
        "--shift", 0, "--out", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (out / "report.json").write_text(result.stdout)
    return out


def test_errors_count_by_the_names_of_the_classes(photos, trained, tmp_path) -> None:
    """The validation images lack a class in the middle: by their own numbers two thirds would be of another class."""
    checkpoint = trained / "model.safetensors"
    model = load_checkpoint(checkpoint)
    names = sorted(LEVELS)
    wrong = 0
    for label in ("ant", "cow", "dog"):
        pixels = torch.full((1, 3, 8, 8), (LEVELS[label] + 9) / 255)
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        x = (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        with torch.no_grad():
            wrong += names[int(model(x).argmax())] != label
    expected = wrong / 3
    assert expected < 0.5  # by their own numbers two of three would be wrong
    rows = json.loads((trained / "report.json").read_text())["epochs"]
    assert rows[-1]["test_error"] == pytest.approx(expected)
    for data in (photos, photos / "val"):  # numbered by the checkpoint
        result = run(
            "lesion", "--model", checkpoint, "--data", data, "--study", "shortcut", "--out", tmp_path, "--json"
        )
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["full"] == pytest.approx(expected)
    assert "3x8x8, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, as its checkpoint says" in output_of(result)


def test_classes_that_the_checkpoint_does_not_know_are_refused(photos, trained, tmp_path) -> None:
    picture(tmp_path / "set" / "eel" / "1.png", 5)
    result = run("lesion", "--model", trained / "model.safetensors", "--data", tmp_path / "set", "--out", tmp_path)
    assert result.exit_code == 2
    assert "the given classes (ant, bee, cow, dog), got also eel" in output_of(result)


def test_the_normalisation_asked_for(photos, tmp_path) -> None:
    model = save_checkpoint(cifar_resnet(8, widths=(4, 4, 8), num_classes=4), tmp_path / "net.safetensors")
    options = ("lesion", "--model", model, "--data", photos, "--study", "shortcut", "--metric", "loss", "--json")
    plain = run(*options, "--out", tmp_path)
    asked = run(*options, "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--out", tmp_path)
    assert json.loads(plain.stdout)["data_fingerprint"] != json.loads(asked.stdout)["data_fingerprint"]
    assert "as the source says" in output_of(plain)
    assert "mean 0.5 0.5 0.5, std 0.25 0.25 0.25, as asked" in output_of(asked)
    for wrong, message in (
        (("--mean", "0.5"), "--mean and --std together, got --mean"),
        (("--mean", "x", "--std", "1"), "--mean as comma-separated numbers"),
        (("--mean", "0.5", "--std", "0.5"), "each of 3 channels"),
    ):
        result = run(*options, *wrong, "--out", tmp_path)
        assert result.exit_code == 2
        assert message in output_of(result)


def test_a_timm_models_own_normalisation_and_size(tmp_path) -> None:
    pytest.importorskip("timm")
    for k, size in enumerate((40, 50)):
        picture(tmp_path / "set" / "a" / f"{k}.png", 100, size)
    (tmp_path / "own.py").write_text(
        "import timm\ndef build():\n    model = timm.create_model('test_vit', num_classes=2)\n"
        "    model.pretrained_cfg = {**model.pretrained_cfg, 'mean': (0.5,) * 3, 'std': (0.4,) * 3,"
        " 'input_size': (3, 160, 160)}\n    return model\n"
    )
    result = run(
        "lesion", "--model", f"{tmp_path / 'own.py'}:build", "--data", tmp_path / "set", "--study", "shortcut",
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3x160x160, mean 0.5 0.5 0.5, std 0.4 0.4 0.4, as timm's configuration of it says" in output_of(result)


def test_images_of_a_function(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef images():\n    return torch.randn(12, 1, 8, 8), torch.arange(12) % 10\n"
    )
    spec = f"{tmp_path / 'mine.py'}:images"
    model = save_checkpoint(cifar_resnet(8, in_channels=1, widths=(2, 2, 2)), tmp_path / "net.safetensors")
    result = run("lesion", "--model", model, "--data", spec, "--study", "shortcut", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert "Images: 12 of images, 1x8x8, mean 0, std 1" in output_of(result)
    (tmp_path / "bad.py").write_text("def images():\n    return 3\n")
    result = run("lesion", "--data", f"{tmp_path / 'bad.py'}:images", "--out", tmp_path)
    assert result.exit_code == 2
    assert "expected an ImageData, a pair" in output_of(result)


@pytest.mark.filterwarnings("default")  # which the command reports in one line
def test_images_without_parts_are_parted_for_training(tmp_path) -> None:
    for label, level in LEVELS.items():
        for k in range(5):
            picture(tmp_path / "set" / label / f"{k}.png", level + k)
    result = run(
        "train", "--model", "cifar-resnet8", "--widths", "2,2,2", "--data", tmp_path / "set", "--epochs", 1,
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "warning:" in output_of(result)
    assert "4 of its 20 images, a fifth of each class drawn with seed 0, are the test part" in output_of(result)
    assert "Images: 16 of" in output_of(result)
    assert "Images: 4 of" in output_of(result)
    assert np.isfinite(json.loads(result.stdout)["epochs"][0]["test_error"])


def test_what_drop_writes_is_read_again(photos, tmp_path) -> None:
    model = cifar_resnet(14, widths=(4, 4, 8), num_classes=4, seed=0).eval()
    path = save_checkpoint(model, tmp_path / "net.safetensors")
    result = run("drop", "--model", path, "--data", photos, "--blocks", "layer1.1", "--no-onnx", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    x = torch.randn(2, 3, 8, 8)
    expected = drop_blocks(model, ["layer1.1"])(x)
    for spec in (tmp_path / "model.safetensors", f"cifar-resnet14@{tmp_path / 'model.safetensors'}"):
        if "@" in str(spec):
            assert run("unroll", "--model", spec).exit_code == 2  # other widths: reported in one line
        else:
            assert torch.equal(load_model(str(spec))(x), expected)
    assert read_facts(tmp_path / "model.safetensors")["classes"] == sorted(LEVELS)


@pytest.mark.filterwarnings("default")  # which the command reports in one line
def test_a_checkpoint_of_any_name(photos, tmp_path) -> None:
    model = cifar_resnet(8, widths=(4, 4, 8), num_classes=4)
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "epoch": 1}
    content["state_dict"]["criterion.weight"] = torch.ones(4)
    torch.save(content, tmp_path / "last.ckpt")
    result = run("unroll", "--model", tmp_path / "last.ckpt", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)) == 3
    assert "warning: last.ckpt contains 1 tensors that are not part of the model" in output_of(result)
