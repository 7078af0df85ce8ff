"""Tensors are made on a named device and drawn in one place; other defaults of torch's change no images.

That they change no number of any function of a model: test_leaves_no_mark.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from mode_checks import default_device, default_dtype
from resnet_paths.data import digits
from resnet_paths.training import augmented

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).resolve().parents[1] / "src" / "resnet_paths"


@pytest.mark.parametrize("around", [default_device, default_dtype])
def test_seeds_draw_the_same_images(around: Any) -> None:
    data = digits("test").subset(slice(0, 12))
    expected = [augmented(data, 1, True, seed=3).images, data.sample(5, seed=2).images, data.halves(1)[0].images]
    with around():
        data = digits("test").subset(slice(0, 12))
        found = [augmented(data, 1, True, seed=3).images, data.sample(5, seed=2).images, data.halves(1)[0].images]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_tensors_are_made_on_a_named_device_and_drawn_in_one_place() -> None:
    """A default device would take them elsewhere, a default type would change what is drawn."""
    made = {"zeros", "ones", "empty", "full", "eye", "arange", "linspace", "tensor", "as_tensor"}
    drawn = {"rand", "randn", "randint", "randperm", "bernoulli"}
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"):
                continue
            name = node.func.attr
            named = any(keyword.arg == "device" for keyword in node.keywords)
            if (name in made or name in drawn) and not named and path.name != "draws.py":
                wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)[:60]}")
    assert not wrong
