"""A private copy of a model that is set to any point of a plane in parameter space, norms folded anew each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..graph.errors import UnrollError
from ..graph.executor import Whole
from ..graph.inputs import call_model, main_output
from ..graph.overwrite import unwatched
from ..graph.preserve import preserved
from ..graph.private_copy import private_copy
from ..graph.program import Program
from ..graph.recording import record
from ..graph.tracing import trace
from ..network.inference import foldable
from ..network.norms import batch_norms
from ..network.unrolled import TOLERANCE
from .directions import Direction


class WorkingCopy:
    """A copy of a model at ``θ + Σ c_k δ_k``, in eval mode and without gradients.

    Each point is computed from θ anew, so that nothing accumulates from point to point. With `fold`, batch norms
    are folded into the convolutions before them at each point, from the point's own weights: ``W' = W γ/√(σ²+ε)``
    and ``b' = (b - μ) γ/√(σ²+ε) + β``; sums and activations then go in place where nobody reads the value again. The
    model itself is only read, once.

    Attributes:
        model: the copy; its weights are those of the last `move`.
        folded: the number of batch norms folded.
        whole: the copy's graph with operations in place; None where there is none that gives what the copy gives.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: Sequence[Direction],
        example: torch.Tensor,
        *,
        fold: bool = True,
        channels_last: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = private_copy(model).eval().requires_grad_(False)
        self._theta = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._directions = [
            {name: tensor.to(self._theta[name]) for name, tensor in direction.tensors.items()}
            for direction in directions
        ]
        originals = dict(self.model.named_parameters())  # held, so that no other object takes an id
        names = {id(p): name for name, p in originals.items()}
        program = _program(self.model, example) if fold else None
        pairs = [] if program is None else foldable(program)
        self._pairs = [_Pair(self.model, convolution, norm, names) for convolution, norm in pairs]
        self.folded = len(self._pairs)
        moved = {name for direction in self._directions for name in direction}
        # Of weights that two modules share one may be folded, while the other stays.
        left = {path: names[id(p)] for path, p in self.model.named_parameters() if names.get(id(p)) in moved}
        if dtype is not None:
            self.model.to(dtype)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._norms = [(name, norm) for name, norm in batch_norms(self.model).items() if norm.running_mean is not None]
        parameters = dict(self.model.named_parameters())
        self._rest = [(name, parameters[path]) for path, name in left.items()]
        self.whole = None if program is None else self._checked(program, example)

    def _checked(self, program: Program, example: torch.Tensor) -> Whole | None:
        """The graph as one function, if at θ it gives what the model gives."""
        try:
            whole = Whole(program)
        except ValueError:
            return None
        self.move([0.0] * len(self._directions))
        with preserved(self.model), torch.inference_mode():
            x = example.to(next(self.model.parameters()).dtype)
            expected = main_output(call_model(self.model, x)).double()
            found = whole(x).double() if whole.runs() else expected * torch.nan
        bound = TOLERANCE.get(x.dtype, 5e-2) * max(1.0, float(expected.abs().max()))
        return whole if found.shape == expected.shape and float((found - expected).abs().max()) <= bound else None

    @property
    def divides(self) -> bool:
        """Whether several threads may run it at once: on a CPU, nothing but known operations, no hooks."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return on_cpu and self.whole is not None and self.whole.known and unwatched(tuple(self.model.modules()))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The model's main output at the last point, (batch, ...)."""
        if self.whole is not None and self.whole.runs():
            return self.whole(x)
        return main_output(call_model(self.model, x))

    @torch.no_grad()
    def move(self, coefficients: Sequence[float], statistics: nn.Module | None = None) -> None:
        """Set the weights to a point, and norms' statistics to those of `statistics` (the model's own by default)."""
        for name, parameter in self._rest:
            parameter.copy_(self.at(name, coefficients))
        for pair in self._pairs:
            pair.fold(lambda name: self.at(name, coefficients), statistics)
        if statistics is not None:
            for name, norm in self._norms:
                measured = statistics.get_submodule(name)
                norm.running_mean.copy_(measured.running_mean)  # type: ignore[union-attr, arg-type]
                norm.running_var.copy_(measured.running_var)  # type: ignore[union-attr, arg-type]

    def at(self, name: str, coefficients: Sequence[float]) -> torch.Tensor:
        """One parameter at a point, in the model's dtype."""
        value = self._theta[name]
        for coefficient, direction in zip(coefficients, self._directions, strict=True):
            if name in direction:
                value = value.add(direction[name], alpha=coefficient)
        return value


class _Pair:
    """A convolution and the batch norm after it, in a model in which the norm now does nothing."""

    def __init__(self, model: nn.Module, convolution: str, norm: str, names: dict[int, str]) -> None:
        self._module: nn.Module = model.get_submodule(convolution)
        self._norm: nn.Module = model.get_submodule(norm)
        self._norm_path = norm
        self._named = {
            (kind, part): names[id(parameter)]
            for kind, module in (("convolution", self._module), ("norm", self._norm))
            for part, parameter in module.named_parameters(recurse=False)
        }
        weight: torch.Tensor = self._module.weight  # type: ignore[assignment]
        shift = weight.new_zeros(weight.shape[0])
        # New parameters: the old ones may be tied to other modules.
        self._module.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self._module.bias = nn.Parameter(shift, requires_grad=False)
        parent, _, name = norm.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity().eval())

    def fold(self, at: Callable[[str], torch.Tensor], statistics: nn.Module | None) -> None:
        """Set the convolution's weight and bias from the tensors that `at` gives by name."""
        source = self._norm if statistics is None else statistics.get_submodule(self._norm_path)
        values = {key: at(name) for key, name in self._named.items()}
        weight, bias = fuse_conv_bn_weights(
            values["convolution", "weight"],
            values.get(("convolution", "bias")),
            source.running_mean,  # type: ignore[arg-type]
            source.running_var,  # type: ignore[arg-type]
            self._norm.eps,  # type: ignore[arg-type]
            values.get(("norm", "weight")),
            values.get(("norm", "bias")),
        )
        self._module.weight.copy_(weight)  # type: ignore[operator]
        self._module.bias.copy_(bias)  # type: ignore[operator]


def _program(model: nn.Module, example: torch.Tensor) -> Program | None:
    """The model's graph, if it can be found."""
    try:
        return trace(model)
    except UnrollError:
        pass
    try:
        return record(model, example)
    except UnrollError:
        return None


def without_statistics(model: nn.Module) -> list[str]:
    """Batch norms that keep no running statistics, so that none can be frozen."""
    return [name for name, norm in batch_norms(model).items() if norm.running_mean is None]


def use_batch_statistics(model: nn.Module) -> None:
    """Let the batch norms of a private copy normalise by the batch at hand."""
    for norm in batch_norms(model).values():
        norm.train()
