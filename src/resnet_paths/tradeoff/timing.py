"""How long a forward pass takes, and how long several models take relative to one another.

Other work on the machine slows a model by more than what is to be measured. So models are run in turn, in rounds, and
only ratios within a round are compared.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..graph.inputs import call_model
from ..graph.preserve import preserved
from ..graph.trees import leaves
from ..statistics import median_interval
from ..sweep import operation_threads


@dataclass(frozen=True)
class Timing:
    """Time of one forward pass.

    Attributes:
        median: median in seconds.
        low: first quartile in seconds.
        high: third quartile in seconds.
        runs: number of timings, taken in rounds; each round is represented by its median.
        batch: number of images in the input.
        device: the device that it ran on.
        threads: number of CPU threads.
        rounds: measured seconds of each round.
    """

    median: float
    low: float
    high: float
    runs: int
    batch: int
    device: str
    threads: int
    rounds: tuple[float, ...] = ()

    def share_of(self, full: Timing, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
        """This time as a share of another measured in turn with it: the median over rounds, and its interval.

        The interval comes from order statistics, which assume nothing about the distribution of times; it extends to
        infinity if there are too few rounds for the confidence (six give 95 %).

        Raises:
            ValueError: the two were not measured in the same rounds.

        Example:
            >>> full, half = (Timing(t, t, t, 7, 1, "cpu", 1, (t,) * 7) for t in (2.0, 1.0))
            >>> half.share_of(full)
            (0.5, (0.5, 0.5))
        """
        if len(self.rounds) != len(full.rounds) or not self.rounds:
            raise ValueError(
                f"expected two timings from the same rounds, got {len(self.rounds)} and {len(full.rounds)}; use "
                "latencies_in_turn"
            )
        shares = np.array(self.rounds) / np.array(full.rounds)
        return float(np.median(shares)), median_interval(shares, confidence)


_ROUNDS = 7  # enough for an interval of the median at 95 %
_SHORTEST = 0.005  # seconds of one timing: far above the resolution of the clock and the cost of a call


@checked
def measure_latency(
    model: nn.Module | Callable[[Any], Any], x: Any, *, seconds: float = 1.0, threads: int | None = None
) -> Timing:
    """The time of one forward pass in inference mode.

    Measured like ``torch.utils.benchmark`` does (whose import changes ``sys.path``): after a warm-up, synchronised with
    the device, without garbage collection, in seven rounds. To compare models use :func:`latencies_in_turn`.

    Args:
        model: a model, used in its current mode and left unchanged; or a function of the input.
        x: its input.
        seconds: minimum time to measure for.
        threads: number of CPU threads (default: torch's setting).

    Returns:
        Median and quartiles.

    Example:
        >>> measured = measure_latency(torch.nn.Linear(4, 4).eval(), torch.randn(2, 4), seconds=0.05)
        >>> 0 < measured.low <= measured.median <= measured.high
        True
    """
    return latencies_in_turn([model], x, seconds=seconds, threads=threads)[0]


@checked(rounds=COUNT)
def latencies_in_turn(
    models: Sequence[nn.Module | Callable[[Any], Any]],
    x: Any,
    *,
    seconds: float = 1.0,
    threads: int | None = None,
    rounds: int | None = None,
) -> list[Timing]:
    """The times of one forward pass of several models, run in turn so that other work on the machine slows all equally.

    Each model after the first is measured by its share of the first one's time in the same round; its quartiles are
    those of the shares, times the first one's median.

    Args:
        models: models or functions, as for :func:`measure_latency`.
        x: their input.
        seconds: minimum time to measure each for.
        threads: number of CPU threads (default: torch's setting).
        rounds: number of rounds of timings; every model has a turn in each round (default: seven).

    Returns:
        One record per model; :meth:`Timing.share_of` compares two.

    Raises:
        ValueError: there are no models.
        TypeError: the input contains no tensor.

    Example:
        >>> layers = [torch.nn.Linear(8, 8).eval() for _ in range(4)]
        >>> models = torch.nn.Sequential(*layers), torch.nn.Sequential(*layers[:2])
        >>> full, half = latencies_in_turn(models, torch.randn(2, 8), seconds=0.05)
        >>> half.low <= half.median <= half.high
        True
    """
    if not len(models):
        raise ValueError("expected at least one model, got none")
    rounds = rounds or _ROUNDS
    count = threads or torch.get_num_threads()
    x = dict(x) if isinstance(x, Mapping) else x
    first = next((leaf for leaf in leaves(x) if isinstance(leaf, torch.Tensor)), None)
    if first is None:
        raise TypeError(f"expected an input that contains a tensor, got {type(x).__name__}; convert arrays first")
    batch = len(x) if isinstance(x, list) else len(first) if first.ndim else 1
    with ExitStack() as restoring, torch.inference_mode(), operation_threads(count):
        for model in models:
            restoring.enter_context(_restored_afterwards(model))
        calls: list[Callable[[], Any]] = [partial(call_model, model, x) for model in models]
        for call in calls:
            _warm_up(call, 200)  # twice: compilers and allocators settle in the first passes
        seconds_once = [_seconds_a_call(call, 2) for call in calls]
        numbers = [max(1, math.ceil(_SHORTEST / max(time, 1e-9))) for time in seconds_once]
        each = list(zip(calls, numbers, strict=True))
        timed = [[_round(*one, seconds / rounds) for one in each] for _ in range(rounds)]
    times = np.array([[np.median(one) for one in of_round] for of_round in timed])
    runs = [sum(map(len, of_one)) for of_one in zip(*timed, strict=True)]
    scaled = times / times[:, :1] * np.median(times[:, 0])
    scaled[:, 0] = times[:, 0]
    quartiles = np.quantile(scaled, (0.25, 0.5, 0.75), axis=0).T.tolist()
    return [
        Timing(median, low, high, total_runs, batch, str(first.device), count, tuple(of_model))
        for (low, median, high), total_runs, of_model in zip(quartiles, runs, times.T.tolist(), strict=True)
    ]


def _round(call: Callable[[], Any], number: int, seconds: float) -> list[float]:
    """Timings of a call for the given number of seconds, at least one.

    One warm-up suffices, and only here: the model has run in every round before, and what another model has displaced
    from the caches in between is back after one pass.
    """
    _warm_up(call, number)
    times, began = [_seconds_a_call(call, number)], monotonic()
    while monotonic() - began < seconds:
        times.append(_seconds_a_call(call, number))
    return times


def _warm_up(call: Callable[[], Any], number: int) -> None:
    for _ in range(max(number // 100, 1)):
        call()


def _seconds_a_call(call: Callable[[], Any], number: int) -> float:
    """The mean time of `number` calls."""
    return timeit.Timer(call, timer=device_clock).timeit(number) / number


def device_clock() -> float:
    """The time, once an accelerator has finished its queued work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return perf_counter()


def _restored_afterwards(model: object) -> AbstractContextManager[None]:
    """Within the block, the model may run in any mode and is restored afterwards; nothing to do for a function."""
    return preserved(model) if isinstance(model, nn.Module) else nullcontext()
