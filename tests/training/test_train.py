import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.training import Recipe, augment, error_rate, train

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.training import Recipe, train
model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
train(model, digits("train").subset(slice(0, 256)), Recipe(epochs=12, shift=1), folder=sys.argv[1], progress=False)
torch.save(model.state_dict(), sys.argv[2])
"""


def test_a_killed_run_ends_with_the_same_weights(tmp_path) -> None:
    whole = [sys.executable, "-c", SCRIPT, str(tmp_path / "whole"), str(tmp_path / "whole.pt")]
    subprocess.run(whole, check=True)
    broken = [sys.executable, "-c", SCRIPT, str(tmp_path / "broken"), str(tmp_path / "broken.pt")]
    process = subprocess.Popen(broken)
    log = tmp_path / "broken" / "log.csv"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 4):
        time.sleep(0.01)
    killed = process.poll() is None
    os.kill(process.pid, signal.SIGKILL) if killed else None
    process.wait()
    assert killed
    subprocess.run(broken, check=True)
    one, other = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "broken.pt")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "whole" / "log.csv").read_text() == log.read_text()


def test_training_learns() -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(8, 8, 16), seed=0), digits("train")
    before = error_rate(model, data)
    rows = train(model, data, Recipe(epochs=4, batch_size=64, shift=0, flip=False), progress=False, test=digits("test"))
    assert before > 0.7
    assert rows[-1]["test_error"] < 0.1
    assert not model.training


def test_another_recipe_is_refused(tmp_path) -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(4, 4, 8)), digits("train").subset(slice(0, 64))
    train(model, data, Recipe(epochs=1, shift=1), folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="same recipe and data"):
        train(model, data, Recipe(epochs=2, shift=1), folder=tmp_path, progress=False)


def test_schedules() -> None:
    cosine, step = Recipe(epochs=10, warmup=2), Recipe(epochs=8, warmup=0, schedule="step")
    assert cosine.rate(1) == pytest.approx(0.05)
    assert cosine.rate(2) == pytest.approx(0.1)
    assert cosine.rate(10) == pytest.approx(0)
    assert [round(step.rate(t), 6) for t in (0, 3.9, 4, 6)] == [0.1, 0.1, 0.01, 0.001]


def test_augmentation_moves_and_mirrors() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(200, 1, 4, 4)
    moved = augment(image, 1, False, torch.Generator().manual_seed(0))
    kinds = {tuple(value.flatten().tolist()) for value in moved}
    assert len(kinds) == 9
    assert tuple(image[0].flatten().tolist()) in kinds
    mirrored = augment(image, 0, True, torch.Generator().manual_seed(0))
    assert {tuple(value.flatten().tolist()) for value in mirrored} == {
        tuple(image[0].flatten().tolist()),
        tuple(image[0].flip(2).flatten().tolist()),
    }


def test_error_rate_puts_train_flags_back() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8)).train()
    model.layer1.eval()
    error_rate(model, digits("test").subset(slice(0, 20)))
    assert model.training
    assert not model.layer1.training
