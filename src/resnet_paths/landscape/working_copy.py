"""A private copy of a model that is set to any point of a plane in parameter space, norms folded anew each time.

`for_inference` makes such a copy for weights that stay as they are. Here they move from cell to cell, so θ and the
directions are kept beside the copy, and each point is computed from them anew: a step added to the previous point would
accumulate rounding errors, and a cell would depend on those before it. Then norms are folded, from the point's own
weights and statistics, and the graph runs with sums and activations in place (`Whole`), which is never done to a user's
model. At θ the folded copy is compared with the model, and the graph with the copy: if the former differ, nothing is
folded; if the latter do, the copy's own forward runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..graph.errors import UnrollError
from ..graph.executor import Whole
from ..graph.inputs import call_model, main_output, placed, relative_difference
from ..graph.overwrite import unwatched
from ..graph.preserve import preserved
from ..graph.private_copy import private_copy, private_use
from ..graph.program import Program
from ..graph.recording import record
from ..graph.tracing import trace
from ..network.inference import FoldedCopy
from ..network.norms import batch_norms
from ..network.unrolled import TOLERANCE
from ..sweep import fingerprint
from ..sweep.fingerprints import deciding
from .cell_inputs import CellInputs
from .cells import CellSettings
from .directions import Direction


class WorkingCopy:
    """A copy of a model at ``θ + Σ c_k δ_k``, in eval mode and without gradients.

    Each point is computed from θ anew, so that nothing accumulates from point to point. With `fold`, batch norms
    are folded into the convolutions before them at each point, from the point's own weights: ``W' = W γ/√(σ²+ε)``
    and ``b' = (b - μ) γ/√(σ²+ε) + β``; sums and activations then run in place where nothing reads the value again. The
    model itself is only read, once.

    Attributes:
        model: the copy; its weights are those of the last `move`.
        folded: the number of batch norms folded.
        whole: the copy's graph with operations in place; None where none reproduces the copy's output.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: Sequence[Direction],
        example: Any,
        *,
        fold: bool = True,
        channels_last: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._theta = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._directions = [
            {name: tensor.to(self._theta[name]) for name, tensor in direction.tensors.items()}
            for direction in directions
        ]
        self._copy = _folded(model, example) if fold else FoldedCopy(model, lambda _: None)
        self._copy.store(channels_last=channels_last, dtype=dtype)
        self.model, self.folded = self._copy.model, self._copy.folded
        if channels_last:  # also weights of one input channel, by whose strides a convolution recognises the format
            self.model.to(memory_format=torch.channels_last)
        moved = {name for direction in self._directions for name in direction}
        parameters = dict(self.model.named_parameters())
        self._rest = [(name, parameters[path]) for path, name in self._copy.names.items() if name in moved]
        self.whole = None if self._copy.program is None else self._checked(self._copy.program, example)

    def _checked(self, program: Program, example: Any) -> Whole | None:
        """The graph as one function of one tensor, if at θ it reproduces the model's output."""
        if not isinstance(example, torch.Tensor):
            return None
        try:
            whole = Whole(program)
        except ValueError:
            return None
        self.move([0.0] * len(self._directions))
        with torch.inference_mode():
            if not whole.runs():
                return None
            actual = whole(placed(example, self.model))
        return whole if _agree(actual, _output(self.model, example)) else None

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once: on a CPU, nothing but known operations, no hooks."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return on_cpu and self.whole is not None and self.whole.known and unwatched(tuple(self.model.modules()))

    def __call__(self, x: Any) -> torch.Tensor:
        """The model's main output at the last point, (batch, ...)."""
        if self.whole is not None and self.whole.runs():
            return self.whole(x)
        return main_output(call_model(self.model, x))

    @torch.no_grad()
    def move(self, coefficients: Sequence[float], statistics: nn.Module | None = None) -> None:
        """Set the weights to a point, and norms' statistics to those of `statistics` (the model's own by default)."""
        for name, parameter in self._rest:
            parameter.copy_(self.at(name, coefficients))
        self._copy.fold(lambda name: self.at(name, coefficients), statistics)

    def at(self, name: str, coefficients: Sequence[float]) -> torch.Tensor:
        """One parameter at a point, in the model's dtype."""
        value = self._theta[name]
        for coefficient, direction in zip(coefficients, self._directions, strict=True):
            if name in direction:
                value = value.add(direction[name], alpha=coefficient)
        return value


def _folded(model: nn.Module, example: Any) -> FoldedCopy:
    """A copy with its norms folded, if that computes the same; otherwise one that is not folded.

    It does not where a forward inspects what folding replaces (``if isinstance(self.norm, nn.BatchNorm2d)``).
    """
    expected: list[torch.Tensor] = []

    def find(own: nn.Module) -> Program | None:
        expected.append(_output(own, example))
        return _program(own, placed(example, own))

    copy = FoldedCopy(model, find)
    copy.fold(dict(model.named_parameters()).__getitem__)
    try:
        same = not copy.folded or _agree(_output(copy.model, example), *expected)
    except Exception:  # the forward reads a module that folding has replaced
        same = False
    return copy if same else FoldedCopy(model, lambda _: None)


def _output(model: nn.Module, example: Any) -> torch.Tensor:
    """The main output of a model for an example, which is converted to the model's type."""
    with preserved(model), torch.inference_mode():
        return main_output(call_model(model, placed(example, model)))


def _agree(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two outputs are the same up to rounding."""
    return actual.shape == expected.shape and relative_difference(actual, expected) <= TOLERANCE.get(
        expected.dtype, 5e-2
    )


def _program(model: nn.Module, example: Any) -> Program | None:
    """The model's graph, if it can be found."""
    try:
        return trace(model)
    except UnrollError:
        pass
    try:
        return record(model, example)
    except UnrollError:
        return None


@dataclass(frozen=True, eq=False)
class WeightSpace:
    """The points ``θ + Σ c_k δ_k`` around a model's weights."""

    model: nn.Module
    directions: Sequence[Direction]

    @property
    def origin(self) -> list[float]:
        """The model's own weights."""
        return [0.0] * len(self.directions)

    def at(self, cell: Mapping[str, float]) -> list[float]:
        """The coefficients of a cell."""
        return [cell[name] for name in ("x", "y") if name in cell]

    def movable(self, settings: CellSettings, device: torch.device, example: Any) -> MovedWeights:
        """A copy of the model."""
        return MovedWeights(self, settings, device, example)

    def __sweep_fingerprint__(self) -> str:
        with private_use(self.model) as own:  # cells are computed in eval mode, whatever the model's train flags
            return fingerprint(deciding(self, model=own.eval()))


class MovedWeights:
    """A copy of a model that is moved to other weights, and another on which its norms' statistics are measured.

    Attributes:
        model: the copy.
        divides: whether several threads may run it at once.
    """

    def __init__(self, space: WeightSpace, settings: CellSettings, device: torch.device, example: Any) -> None:
        model, fast, of_batch = space.model, settings.fast, settings.batchnorm == "batch"
        if next(model.parameters()).device != device:
            model = private_copy(model).to(device)
        self._copy = WorkingCopy(
            model, space.directions, example, fold=fast and not of_batch, channels_last=fast, dtype=settings.dtype
        )
        self.model = self._copy.model
        for norm in batch_norms(self.model).values() if of_batch else ():
            norm.train()
        self._measured: WorkingCopy | None = None
        if settings.batchnorm == "recalibrated":
            self._measured = WorkingCopy(model, space.directions, example, fold=False, channels_last=fast)

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once."""
        return self._copy.divides

    def move(self, point: Sequence[float], recalibrate: Callable[[nn.Module], object] | None = None) -> None:
        """Set the weights, and the norms' statistics to those that are measured there."""
        statistics = None
        if recalibrate is not None and self._measured is not None:
            self._measured.move(point)
            statistics = self._measured.model
            recalibrate(statistics)
        self._copy.move(point, statistics)

    def run(self, inputs: CellInputs, chosen: slice) -> torch.Tensor:
        """The main output for some of the examples."""
        return self._copy(inputs[chosen])
