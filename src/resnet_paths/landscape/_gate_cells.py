"""One cell of a surface over gates: a copy for inference, run from the first unit that moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data import ImageData
from ..sweep import fingerprint, worker_device
from ..unroll import State, UnrolledNetwork, for_inference
from ._cells import Images, Metric, micro_batch, needs_origin
from ._grid import mean_and_error

_HELD_BYTES = 1 << 30


@dataclass(frozen=True)
class GatePlane:
    """Gates ``base``, replaced where a unit lies on an axis."""

    base: list[float]
    on_x: list[float]
    on_y: list[float]

    def gates(self, point: dict[str, float]) -> list[float]:
        x, y = point["x"], point.get("y", 0.0)
        return [
            x if on_x else y if on_y else gate for gate, on_x, on_y in zip(self.base, self.on_x, self.on_y, strict=True)
        ]

    @property
    def first(self) -> int:
        return next(index for index, pair in enumerate(zip(self.on_x, self.on_y, strict=True)) if any(pair))


@dataclass(frozen=True)
class GatePath:
    """Gates on a polygon."""

    points: list[list[float]]

    def gates(self, point: dict[str, float]) -> list[float]:
        k = min(int(point["x"]), len(self.points) - 2)
        s = point["x"] - k
        return [(1 - s) * a + s * b for a, b in zip(self.points[k], self.points[k + 1], strict=True)]

    @property
    def first(self) -> int:
        """The first unit that moves (the last, if none does)."""
        columns = list(zip(*self.points, strict=True))
        return next((index for index, column in enumerate(columns) if len(set(column)) > 1), len(columns) - 1)


def gate_cell(point: dict[str, float], problem: GateProblem, seed: int) -> dict[str, float]:
    """One cell, for the sweep engine."""
    return mean_and_error(problem.per_image(problem.line.gates(point)))


class GateProblem:
    """What all cells need; it travels once to each worker, where the copy for inference is made."""

    def __init__(
        self,
        net: UnrolledNetwork,
        data: ImageData,
        line: GatePlane | GatePath,
        metrics: dict[str, Metric],
        *,
        batch_size: int | None,
        dtype: torch.dtype | None,
        fast: bool,
        on_workers: bool,
    ) -> None:
        self.net, self.data, self.line, self.metrics = net, data, line, metrics
        self._batch_size, self._dtype, self._fast, self._on_workers = batch_size, dtype, fast, on_workers
        self._runner: _Runner | None = None
        self._fingerprint: str | None = None

    def per_image(self, gates: list[float]) -> dict[str, np.ndarray]:
        """For each metric (images,)."""
        if self._runner is None:
            self._runner = _Runner(
                self.net, self.data, self.line, self._batch_size, self._dtype, self._fast, self._on_workers
            )
        logits = self._runner.logits(gates)
        whole = self._runner.whole if needs_origin(self.metrics) else logits
        labels = self.data.labels.cpu()
        return {name: metric(logits, labels, whole).double().numpy() for name, metric in self.metrics.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runner": None}

    def __sweep_fingerprint__(self) -> str:
        """What decides a cell."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(
                (self.net.model, self.data.fingerprint, str(self.data.dtype), self.line, self.metrics, self._dtype,
                 self._fast)
            )  # fmt: skip
        return self._fingerprint


class _Runner:
    """A copy of the network for inference, with the images' states at the first unit that moves."""

    def __init__(
        self,
        net: UnrolledNetwork,
        data: ImageData,
        line: GatePlane | GatePath,
        batch_size: int | None,
        dtype: torch.dtype | None,
        fast: bool,
        on_workers: bool,
    ) -> None:
        parameter = next(net.model.parameters())
        place = worker_device() if on_workers and parameter.device.type != "cpu" else parameter.device
        wanted = dtype or parameter.dtype
        plain = not fast and dtype is None
        self._net = net if plain else for_inference(net, fold=fast, channels_last=fast, dtype=dtype)
        if place != parameter.device:
            self._net.model.to(place)
        self._images = Images(data, place, wanted, fast)
        self._size = batch_size or micro_batch(self._net.model, self._images[slice(0, 1)])
        origin = {"x": 1.0, "y": 1.0} if isinstance(line, GatePlane) else {"x": 0.0}
        self._first, self._start = line.first, line.gates(origin)
        self._states: list[State] | None = None
        self._whole: torch.Tensor | None = None

    @property
    def whole(self) -> torch.Tensor:
        """The logits of the whole network, which ``disagreement`` reads."""
        if self._whole is None:
            self._whole = self.logits([1.0] * len(self._net), hold=False)
        return self._whole

    def logits(self, gates: list[float], hold: bool = True) -> torch.Tensor:
        """(images, classes) at gates, on the CPU."""
        with torch.inference_mode():
            states = self._prefixes() if hold and self._fits() else self._fresh()
            parts = [self._net.run(state, gates).value.cpu() for state in states]
        logits = torch.cat(parts)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _slices(self) -> list[slice]:
        return [slice(start, start + self._size) for start in range(0, len(self._images), self._size)]

    def _fresh(self) -> Iterator[State]:
        return (self._net.stem(self._images[chosen]) for chosen in self._slices())

    def _fits(self) -> bool:
        """Whether the states of all images may be held."""
        if self._states is not None:
            return True
        state = self._net.prefix(self._images[slice(0, 1)], self._first, self._start)
        size = sum(value.nbytes for value in (state.value, *state.side.values()) if isinstance(value, torch.Tensor))
        return size * len(self._images) <= _HELD_BYTES

    def _prefixes(self) -> list[State]:
        if self._states is None:
            self._states = [
                self._net.prefix(self._images[chosen], self._first, self._start) for chosen in self._slices()
            ]
        return self._states
