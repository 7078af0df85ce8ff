"""How long a model takes, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..unroll._guard import preserved
from ..unroll.network import call_model


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median: seconds.
        low: first quartile, seconds.
        high: third quartile, seconds.
        runs: number of timings.
        batch: images in the input.
        device: where it ran.
        threads: CPU threads.
    """

    median: float
    low: float
    high: float
    runs: int
    batch: int
    device: str
    threads: int


_LEAST = 5


def measure_latency(
    model: nn.Module | Callable[[Any], Any], x: Any, *, seconds: float = 1.0, threads: int | None = None
) -> Latency:
    """The time of one forward pass in inference mode.

    Measured by ``torch.utils.benchmark``, after a warm-up, waiting for the device, at least five times.

    Args:
        model: a model, left as it is, in the mode in which it is; or a function of the input.
        x: its input.
        seconds: how long to measure, at least.
        threads: CPU threads (default: as torch is set).

    Returns:
        Median and quartiles.

    Example:
        >>> measured = measure_latency(torch.nn.Linear(4, 4).eval(), torch.randn(2, 4), seconds=0.05)
        >>> 0 < measured.low <= measured.median <= measured.high
        True
    """
    from torch.utils.benchmark import Timer  # looks for a CUDA toolkit when it is imported

    count = threads or torch.get_num_threads()
    first = next(iter(x.values())) if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
    with _left_as_it_is(model), torch.inference_mode():
        timer = Timer("call(model, x)", globals={"call": call_model, "model": model, "x": x}, num_threads=count)
        timer.timeit(2)
        measured = timer.blocked_autorange(min_run_time=seconds)
        times = list(measured.times)
        while len(times) < _LEAST:  # a machine that paused may have filled the time with one
            times += timer.timeit(measured.number_per_run).times
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    return Latency(float(median), float(low), float(high), len(times), len(first), str(first.device), count)


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, x: Any) -> int:
    """Floating-point operations of one forward pass on x, by torch's own counter (a multiply-add counts two).

    Example:
        >>> count_flops(torch.nn.Linear(4, 8), torch.randn(2, 4))
        128
    """
    with _left_as_it_is(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call_model(model, x)
    return int(counter.get_total_flops())


def _left_as_it_is(model: object) -> AbstractContextManager[None]:
    """Within the block the model may run, in whatever mode; a function is run as it is."""
    return preserved(model) if isinstance(model, nn.Module) else nullcontext()
