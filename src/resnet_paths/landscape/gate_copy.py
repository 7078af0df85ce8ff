"""A private copy of a network that is set to any gates, run from the first block whose gate moves.

It exists beside `WorkingCopy` because gates leave the weights unchanged: everything before the first block that moves
is the same at every point, and is computed once per batch. When weights move, nothing can be reused, but the whole
graph runs at once, in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..graph.overwrite import unwatched
from ..network import State, UnrolledNetwork, for_inference
from ..network.inference import inference_copy
from ..surgery import batch_statistics
from ..sweep.fingerprints import deciding
from .cell_inputs import HELD_BYTES, CellInputs
from .cells import CellSettings


@dataclass(frozen=True)
class GatePlane:
    """Gates ``base``, replaced where a block lies on an axis."""

    base: list[float]
    on_x: list[float]
    on_y: list[float]

    def gates(self, point: Mapping[str, float]) -> list[float]:
        """The gates at (x, y)."""
        x, y = point["x"], point.get("y", 0.0)
        return [
            x if on_x else y if on_y else gate for gate, on_x, on_y in zip(self.base, self.on_x, self.on_y, strict=True)
        ]

    @property
    def first(self) -> int:
        """The first block that moves."""
        return next(index for index, pair in enumerate(zip(self.on_x, self.on_y, strict=True)) if any(pair))


@dataclass(frozen=True)
class GatePath:
    """Gates on a polygon."""

    points: list[list[float]]

    def gates(self, point: Mapping[str, float]) -> list[float]:
        """The gates at x, counted in sides of the polygon."""
        k = min(int(point["x"]), len(self.points) - 2)
        s = point["x"] - k
        return [(1 - s) * a + s * b for a, b in zip(self.points[k], self.points[k + 1], strict=True)]

    @property
    def first(self) -> int:
        """The first block that moves (the last, if none does)."""
        columns = list(zip(*self.points, strict=True))
        return next((index for index, column in enumerate(columns) if len(set(column)) > 1), len(columns) - 1)


@dataclass(frozen=True, eq=False)
class GateSpace:
    """The points of a network's gates, on a plane or a path."""

    net: UnrolledNetwork
    line: GatePlane | GatePath

    @property
    def model(self) -> nn.Module:
        """The network's."""
        return self.net.model

    @property
    def origin(self) -> list[float]:
        """All gates open."""
        return [1.0] * len(self.net)

    def at(self, cell: Mapping[str, float]) -> list[float]:
        """The gates of a cell."""
        return self.line.gates(cell)

    def movable(self, settings: CellSettings, device: torch.device, example: Any) -> GatedCopy:
        """A copy of the network."""
        return GatedCopy(self.net, self.line, settings, device)

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        return deciding(self, net=(self.net.model, self.net.output))


class GatedCopy:
    """A copy of a network for inference at gates, with the examples' states at the first block that moves.

    Attributes:
        model: the copy's.
    """

    def __init__(
        self, net: UnrolledNetwork, line: GatePlane | GatePath, settings: CellSettings, device: torch.device
    ) -> None:
        of_batch, fast = settings.batchnorm == "batch", settings.fast
        source = batch_statistics(net) if of_batch else net
        # A norm that uses the batch's statistics is not a fixed map, so it cannot be folded.
        self._net, self._copy = inference_copy(
            source, fold=fast and not of_batch, channels_last=fast, dtype=settings.dtype
        )
        self.model = self._net.model.to(device)
        self._measured: UnrolledNetwork | None = None
        if settings.batchnorm == "recalibrated":
            # Not folded: statistics are measured at the input of each norm, which a folded one never sees.
            self._measured = for_inference(net, fold=False, channels_last=fast)
            self._measured.model.to(device)
        self._gates = line.gates({"x": 0.0})
        self._first, self._before = line.first, self._gates[: line.first]
        self._states: dict[tuple[int, int], State] = {}
        self._held = 0

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once: on a CPU, nothing but known operations, no hooks."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return on_cpu and not self._net.segments.program.opaque and unwatched(tuple(self.model.modules()))

    def move(self, point: Sequence[float], recalibrate: Callable[[nn.Module], object] | None = None) -> None:
        """Set the gates, and the norms' statistics to those that are measured there."""
        self._gates = list(point)
        if recalibrate is not None and self._measured is not None:
            recalibrate(_Gated(self._measured, self._gates))
            model = self._measured.model
            self._copy.fold(dict(model.named_parameters()).__getitem__, model)

    def run(self, inputs: CellInputs, chosen: slice) -> torch.Tensor:
        """The main output for some of the examples."""
        return self._net.run(self._state(inputs, chosen), self._gates).value

    def _state(self, inputs: CellInputs, chosen: slice) -> State:
        """Where to start: after the blocks that do not change, if their statistics do not either."""
        if self._measured is not None or self._gates[: self._first] != self._before:
            return self._net.stem(inputs[chosen])
        key = chosen.start, chosen.stop
        if key in self._states:
            return self._states[key]
        state = self._net.prefix(inputs[chosen], self._first, self._gates)
        size = sum(value.nbytes for value in (state.value, *state.side.values()) if isinstance(value, torch.Tensor))
        if self._held + size <= HELD_BYTES:
            self._held += size
            self._states[key] = state
        return state


class _Gated(nn.Module):
    """A network at gates as a module, for functions that take modules."""

    def __init__(self, net: UnrolledNetwork, gates: list[float]) -> None:
        super().__init__()
        self.model, self._net, self._gates = net.model, net, gates

    def forward(self, *args: Any, **named: Any) -> torch.Tensor:
        x = named or (args if len(args) > 1 else args[0])
        return self._net.run(self._net.stem(x), self._gates).value
