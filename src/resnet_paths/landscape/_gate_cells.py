"""One cell of a surface over gates: a copy for inference, run from the first block that moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..choices import NormStatistics
from ..data import ImageData
from ..data.batches import even_slices
from ..graph.overwrite import unwatched
from ..network import State, UnrolledNetwork, for_inference
from ..surgery import batch_statistics, recalibrate_batchnorm
from ..sweep import fingerprint, on_each_core, worker_device
from ._grid import mean_and_error
from .cells import (
    HELD_BYTES,
    STATISTICS_BATCH,
    Images,
    Metric,
    how_measured,
    in_order,
    micro_batch,
    needs_origin,
    one_an_image,
)


@dataclass(frozen=True)
class GatePlane:
    """Gates ``base``, replaced where a block lies on an axis."""

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
        """The first block that moves (the last, if none does)."""
        columns = list(zip(*self.points, strict=True))
        return next((index for index, column in enumerate(columns) if len(set(column)) > 1), len(columns) - 1)


def gate_cell(point: dict[str, float], problem: GateProblem, seed: int) -> dict[str, float]:
    """One cell, for the sweep engine."""
    return mean_and_error(problem.per_image(problem.line.gates(point)))


@dataclass(frozen=True)
class GateSettings:
    """How cells are computed; see :func:`loss_surface`."""

    batchnorm: NormStatistics = "frozen"
    recalibrate: ImageData | None = None
    batch_size: int | None = None
    dtype: torch.dtype | None = None
    fast: bool = True
    on_workers: bool = False


class GateProblem:
    """What all cells need; it travels once to each worker, where the copy for inference is made."""

    def __init__(
        self,
        net: UnrolledNetwork,
        data: ImageData,
        line: GatePlane | GatePath,
        metrics: dict[str, Metric],
        settings: GateSettings,
    ) -> None:
        self.net, self.data, self.line, self.metrics, self.settings = net, data, line, metrics, settings
        self._runner: _Runner | None = None
        self._fingerprint: str | None = None

    def per_image(self, gates: list[float]) -> dict[str, np.ndarray]:
        """For each metric (images,)."""
        if self._runner is None:
            self._runner = _Runner(self.net, self.data, self.line, self.settings)
        logits = self._runner.logits(gates)
        whole = self._runner.whole if needs_origin(self.metrics) else logits
        labels = self.data.labels.cpu()
        return {name: one_an_image(name, metric(logits, labels, whole)) for name, metric in self.metrics.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runner": None}

    def __sweep_fingerprint__(self) -> str:
        """What decides a cell; how many images go at a time does so for batch statistics alone."""
        if self._fingerprint is None:
            chosen = self.settings
            others = None if chosen.recalibrate is None else chosen.recalibrate.fingerprint
            together = chosen.batch_size if chosen.batchnorm == "batch" else None
            self._fingerprint = fingerprint(
                (self.net.model, self.data.fingerprint, str(self.data.dtype), self.line, self.metrics, chosen.dtype,
                 chosen.fast, how_measured(chosen.batchnorm), others, together)
            )  # fmt: skip
        return self._fingerprint


class _Gated(nn.Module):
    """A network at gates as a module, for what runs modules."""

    def __init__(self, net: UnrolledNetwork, gates: list[float]) -> None:
        super().__init__()
        self.model, self._net, self._gates = net.model, net, gates

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._net.run(self._net.stem(x), self._gates).value


class _Runner:
    """A copy of the network for inference, with the images' states at the first block that moves."""

    def __init__(self, net: UnrolledNetwork, data: ImageData, line: GatePlane | GatePath, chosen: GateSettings) -> None:
        parameter = next(net.model.parameters())
        place = parameter.device
        if chosen.on_workers and place.type != "cpu":
            place = worker_device()
        self._chosen = chosen
        self._measured: UnrolledNetwork | None = None
        if chosen.batchnorm == "recalibrated":
            self._measured = for_inference(net, fold=False, channels_last=chosen.fast)
            self._measured.model.to(place)
            self._calibration = Images((chosen.recalibrate or data).shuffled(), place, parameter.dtype, chosen.fast)
        self._net = self._for_inference(batch_statistics(net) if chosen.batchnorm == "batch" else net)
        if place != parameter.device:
            if self._net is net:  # the user's own stays where it is
                self._net = for_inference(net, fold=False, channels_last=False)
            self._net.model.to(place)
        self._order = data.random_order().cpu() if chosen.batchnorm == "batch" else None
        images = data if self._order is None else data.subset(self._order)
        self._images = Images(images, place, chosen.dtype or parameter.dtype, chosen.fast)
        self._slices = self._divided()
        origin = {"x": 1.0, "y": 1.0} if isinstance(line, GatePlane) else {"x": 0.0}
        self._first, self._start = line.first, line.gates(origin)
        self._states: list[State] | None = None
        self._whole: torch.Tensor | None = None

    def _for_inference(self, net: UnrolledNetwork) -> UnrolledNetwork:
        chosen = self._chosen
        if not chosen.fast and chosen.dtype is None:
            return net
        fold = chosen.fast and chosen.batchnorm != "batch"
        return for_inference(net, fold=fold, channels_last=chosen.fast, dtype=chosen.dtype)

    def _divided(self) -> list[slice]:
        if self._chosen.batchnorm == "batch":
            return even_slices(len(self._images), self._chosen.batch_size or STATISTICS_BATCH)
        size = self._chosen.batch_size or micro_batch(self._net.model, self._images[slice(0, 1)])
        return [slice(start, start + size) for start in range(0, len(self._images), size)]

    @property
    def whole(self) -> torch.Tensor:
        """The logits of the full network, which ``disagreement`` reads."""
        if self._whole is None:
            self._whole = self.logits([1.0] * len(self._net), hold=False)
        return self._whole

    def logits(self, gates: list[float], hold: bool = True) -> torch.Tensor:
        """(images, classes) at gates, on the CPU."""
        net = self._net if self._measured is None else self._recalibrated(self._measured, gates)

        def run(start: State | slice) -> torch.Tensor:
            state = start if isinstance(start, State) else net.stem(self._images[start])
            return net.run(state, gates).value

        with torch.inference_mode():
            held = hold and self._measured is None and self._fits()
            starts: Sequence[State | slice] = self._prefixes() if held else self._slices
            divides = len(starts) >= torch.get_num_threads() and _divides(net)
            parts = on_each_core(run, starts) if divides else list(map(run, starts))
        logits = in_order(torch.cat(parts).cpu(), self._order)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _recalibrated(self, net: UnrolledNetwork, gates: list[float]) -> UnrolledNetwork:
        """The network, its running statistics those of the images at these gates."""
        slices = even_slices(len(self._calibration), STATISTICS_BATCH)
        recalibrate_batchnorm(_Gated(net, gates), self._calibration.batches(slices))
        return self._for_inference(net)

    def _fits(self) -> bool:
        """Whether the states of all images may be held."""
        if self._states is not None:
            return True
        state = self._net.prefix(self._images[slice(0, 1)], self._first, self._start)
        size = sum(value.nbytes for value in (state.value, *state.side.values()) if isinstance(value, torch.Tensor))
        return size * len(self._images) <= HELD_BYTES

    def _prefixes(self) -> list[State]:
        if self._states is None:
            self._states = [self._net.prefix(self._images[chosen], self._first, self._start) for chosen in self._slices]
        return self._states


def _divides(net: UnrolledNetwork) -> bool:
    """Whether several threads may run a network at once: on a CPU, nothing but known operations, no hooks."""
    on_cpu = next(net.model.parameters()).device.type == "cpu"
    return on_cpu and not net.segments.program.opaque and unwatched(tuple(net.model.modules()))
