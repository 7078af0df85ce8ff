"""A warning's place is the line of the user's code, whatever lies between."""

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resnet_paths import landscape, lesion, load_data, load_model, models, sweep, unroll
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import recalibrate_batchnorm

SOURCE = Path(__file__).resolve().parents[1] / "src" / "resnet_paths"


def images(folder: Path) -> None:
    """A folder of two classes without parts."""
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name / f"{number}.png")


def small() -> nn.Module:
    return cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()


def with_a_criterion(folder: Path) -> Path:
    """A checkpoint of a model and of something else."""
    torch.save({**small().state_dict(), "loss.weight": torch.ones(3)}, folder / "net.pt")
    return folder / "net.pt"


def too_precise(folder: Path) -> Any:
    net = unroll(cifar_resnet(56, in_channels=1, widths=(1, 1, 1)).eval())
    data = digits("test").subset(slice(0, 4))
    return lesion.block_values(net, data, tolerance=1e-12, max_permutations=4, progress=False)


def failing_surface(folder: Path) -> Any:
    calls = iter(range(100))

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if next(calls) == 1:
            raise ValueError("no")
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    direction = landscape.random_direction(small(), seed=0)
    data = digits("test").subset(slice(0, 4))
    return landscape.loss_surface(
        small(),
        data,
        directions=direction,
        x=[0.0, 1.0, 2.0],
        loss=loss,
        settings=landscape.CellSettings(fast=False),
        progress=False,
    )


def split_of_arrays(folder: Path) -> Any:
    np.savez(folder / "a.npz", images=np.zeros((8, 4, 4), np.uint8), labels=np.arange(8) % 2)
    return load_data(str(folder / "a.npz"), "train")


def split_of_a_folder(folder: Path) -> Any:
    images(folder)
    return load_data(str(folder), "test")


WARNINGS: dict[str, Callable[[Path], Any]] = {
    "a drawn part of a folder": split_of_a_folder,
    "a drawn part of arrays": split_of_arrays,
    "foreign tensors": lambda folder: models.load_checkpoint(with_a_criterion(folder), small()),
    "foreign tensors in a model by name": lambda folder: load_model(
        "cifar-resnet8", weights=with_a_criterion(folder), in_channels=1, widths=(2, 2, 2)
    ),
    "an entry chosen": lambda folder: (
        torch.save({"state_dict": small().state_dict(), "ema": small().state_dict()}, folder / "two.pt"),
        models.read_checkpoint(folder / "two.pt"),
    ),
    "cells that failed": failing_surface,
    "a tolerance that was not reached": too_precise,
    "no norms": lambda folder: recalibrate_batchnorm(nn.Flatten(), [torch.ones(2, 1)]),
    "a changed context": lambda folder: sweep.sweep(
        lambda point, context, seed: float(context(torch.ones(2, 1) * point).sum()), [1.0],
        context=nn.BatchNorm1d(1), version="1", progress=False,
    ),
    "a module that was not looked into": lambda folder: unroll(nn.Sequential(small(), nn.Flatten(), Closed())),
}  # fmt: skip


class Closed(nn.Module):
    """What symbolic tracing cannot follow, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale if x.sum() > 0 else -x


@pytest.mark.slow
@pytest.mark.parametrize("what", WARNINGS)
def test_warnings_point_at_the_callers_line(what: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        WARNINGS[what](tmp_path)
    ours = [one for one in caught if issubclass(one.category, UserWarning | RuntimeWarning)]
    assert ours
    assert {one.filename for one in ours} == {__file__}


@pytest.mark.slow
def test_all_warnings_are_given_in_one_place() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn" and path.name != "warned.py"
    ]
    assert found == []
