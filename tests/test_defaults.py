"""Every public function gives the same numbers whatever torch's defaults and modes are, and on every device.

The device is a real one where there is one, else a strict one that needs no hardware (:mod:`devices.pretend`).
"""

import ast
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from devices import available
from resnet_paths import network as unrolling
from resnet_paths.data import digits
from resnet_paths.training import augmented
from test_leaves_no_mark import FUNCTIONS, subject

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).resolve().parents[1] / "src" / "resnet_paths"
TIMED = {"latencies_in_turn", "measure_latency", "latency_by_block", "plan_drop"}
NOTHING = {"export_model", "recalibrate_batchnorm", "train", "lesioned"}
"""Listed there without a value."""
RUNS_IT = {"drop_blocks", "batch_statistics", "elastic", "cascade"}
"""What is listed there calls the model itself in the end: under autocast that is the user's own call."""


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    with torch.device("meta"):
        yield


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def other_defaults_and_modes() -> Iterator[None]:
    with default_device(), default_dtype(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


@contextlib.contextmanager
def other_defaults_in_no_grad() -> Iterator[None]:
    with default_device(), default_dtype(), torch.no_grad():
        yield


# All at a time: a function that minds one of them fails for all, at a third of the calls.
AROUND: dict[str, Any] = {
    "other defaults and modes": other_defaults_and_modes,
    "another device": contextlib.nullcontext,
}
DEVICES = {"another device": available.NAME}


def numbers(value: Any) -> list[np.ndarray]:
    """All numbers in a result, in order; what was timed is left out."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu().double().numpy()]
    if isinstance(value, np.ndarray):
        return [value] if value.dtype.kind in "iufb" else []
    if isinstance(value, bool | int | float | np.number):
        return [np.asarray(float(value))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [
            field.name
            for field in dataclasses.fields(value)
            if field.name not in ("seconds", "source") and not field.name.startswith("latency")
        ]
        return [number for name in names for number in numbers(getattr(value, name))]
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return []


def result_of(name: str) -> list[np.ndarray]:
    torch.manual_seed(0)
    with contextlib.suppress(unrolling.NoBlocksError):
        return numbers(FUNCTIONS[name](*subject()))
    return []


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in NOTHING])
@pytest.mark.filterwarnings("ignore")
def test_modes_and_devices_change_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_paths.tradeoff.timing._SHORTEST", 0.0)  # one run a timing
    expected = result_of(name)
    around_all = {**AROUND, "other defaults and modes": other_defaults_in_no_grad} if name in RUNS_IT else AROUND
    for mode, around in around_all.items():
        there = mode in DEVICES
        if there and not (available.IS_REAL or available.IS_PRETENDED):
            continue
        made = subject(DEVICES.get(mode, "cpu"))  # as the user has it: made before the defaults were changed
        torch.manual_seed(0)
        values: list[np.ndarray] = []
        with around(), contextlib.suppress(unrolling.NoBlocksError):
            values = numbers(FUNCTIONS[name](*made))
        if name in TIMED:
            continue
        assert len(values) == len(expected), mode
        for one, other in zip(values, expected, strict=True):
            close = available.CLOSE if there else {"rtol": 1e-5, "atol": 1e-7}
            np.testing.assert_allclose(one, other, err_msg=mode, **close)


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
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.")):
                continue
            name = ast.unparse(node.func).removeprefix("torch.")
            named = any(keyword.arg == "device" for keyword in node.keywords)
            if (name in made or name in drawn) and not named and path.name != "draws.py":
                wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)[:60]}")
    assert not wrong
