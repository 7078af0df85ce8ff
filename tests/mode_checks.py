"""The same numbers whatever torch's defaults and modes are, and on every device, checked on what functions return.

The device is a real one where there is one, else a strict one that needs no hardware (:mod:`devices.pretend`).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from devices import available
from resnet_paths.network import NoBlocksError


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


def numbers(value: Any) -> list[np.ndarray]:
    """All numbers in a result, in order, without timings."""
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


def check_modes(
    function: Callable[..., Any], made: Callable[[str], Any], expected: Any, *, calls_model: bool, timed: bool
) -> None:
    """Runs a function under other defaults and modes, all at once: a function that depends on one of them fails.

    Args:
        function: takes what `made` gives.
        made: model and data on a device, as the user has them: made before the defaults were changed.
        expected: what the function returned under the usual ones, from the same seed, 1.
        calls_model: whether the function is of a test that calls the model in the end: under autocast that is the
            user's own call.
        timed: whether some of its numbers are times: it only has to run.
    """
    modes = [
        ("other defaults and modes", "cpu", other_defaults_in_no_grad if calls_model else other_defaults_and_modes)
    ]
    if available.IS_REAL or available.IS_PRETENDED:
        modes.append(("another device", available.NAME, contextlib.nullcontext))
    for mode, device, around in modes:
        given, values = made(device), []
        torch.manual_seed(1)
        with around(), contextlib.suppress(NoBlocksError):
            values = numbers(function(*given))
        if timed:
            continue
        close = available.CLOSE if mode == "another device" else {"rtol": 1e-5, "atol": 1e-7}
        for one, other in zip(values, numbers(expected), strict=True):
            np.testing.assert_allclose(one, other, err_msg=mode, **close)
