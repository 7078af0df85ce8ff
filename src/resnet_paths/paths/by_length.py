"""The gradient split by path length, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, overload

import pandas as pd
import torch
import xarray as xr

from .._display import shown
from ..network import UnitRef, UnrolledNetwork
from ..provenance import Provenance, dataset, provenance, table
from ._graph_tape import GraphTape
from ._objective import Loss, loss_name
from ._polynomial import LeafSums, pull_graph_polynomial, pull_polynomial, pull_stem
from ._tape import Tape
from .block_graph import contract, start_node


@shown
@dataclass(frozen=True, eq=False)
class GradientByLength:
    """The gradient of a loss at the input or at a unit's entry, by path length.

    Attributes:
        wrt: ``"input"`` or the name of the unit at whose entry it is.
        loss: the loss's name.
        units: names of the units whose branches are counted.
        lengths: 0..K, (L,).
        gradient: the sum of all paths' gradients of each length, (L, batch, ...).
        total: the ordinary gradient, from one backward pass, (batch, ...).
        norms: Euclidean norm of each example's gradient of each length, (L, batch).
        total_norm: of the ordinary gradient, (batch,).
        share: ``<G_k, G> / |G|^2``, the signed part of the gradient that each length gives, (L, batch);
            sums to one over all lengths.
        cosine: of each length's gradient and the ordinary one, (L, batch); nan where one of them is zero.
        entry_units: names of the units that the recursion passed, input side first, (m,).
        entry_norms: norms at each of those units' entries, (m, L, batch).
        stages: the stage of each of those units (a stage ends where the shape changes), (m,).
        residual: ``|sum_k G_k - G| / |G|`` over the batch; None where lengths were cut off.
        vjps: rows pulled back, by kind of piece.
        looped: pieces whose rows went one by one for lack of a batching rule, with the reason.
        source: model, data, type and versions.
    """

    wrt: str
    loss: str
    units: tuple[str, ...]
    lengths: torch.Tensor
    gradient: torch.Tensor
    total: torch.Tensor
    norms: torch.Tensor
    total_norm: torch.Tensor
    share: torch.Tensor
    cosine: torch.Tensor
    entry_units: tuple[str, ...]
    entry_norms: torch.Tensor
    stages: tuple[int, ...]
    residual: float | None
    vjps: Mapping[str, int]
    looped: Mapping[str, str]
    source: Provenance = field(repr=False)

    def stage_norms(self) -> torch.Tensor:
        """Norms by length at the entry of each stage's first recorded unit, (stages, L, batch)."""
        first = [self.stages.index(stage) for stage in sorted(set(self.stages))]
        return self.entry_norms[first]

    def to_xarray(self) -> xr.Dataset:
        """All arrays but the gradient itself, with dimensions length, example and unit."""
        return dataset(
            {
                "norm": (("length", "example"), self.norms),
                "share": (("length", "example"), self.share),
                "cosine": (("length", "example"), self.cosine),
                "total_norm": (("example",), self.total_norm),
                "entry_norm": (("unit", "length", "example"), self.entry_norms),
                "stage": (("unit",), self.stages),
            },
            {"length": self.lengths, "unit": list(self.entry_units)},
            self.source,
            wrt=self.wrt,
            loss=self.loss,
            residual=self.residual,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each length and example: norm, share, cosine."""
        return table(self.to_xarray()[["norm", "share", "cosine"]])


@shown
@dataclass(frozen=True, eq=False)
class ParameterGradientByLength:
    """The gradient of a loss with respect to parameters, by path length.

    Attributes:
        loss: the loss's name.
        units: names of the units whose branches are counted.
        lengths: 0..K, (L,).
        gradient: for each parameter, (L, *shape).
        norms: norm of each parameter's gradient of each length, (L,) each.
        total: for each parameter the ordinary gradient.
        residual: ``|sum_k G_k - G| / |G|`` over all parameters; None where lengths were cut off.
        vjps: rows pulled back, by kind of piece.
        looped: pieces whose rows went one by one for lack of a batching rule, with the reason.
        source: model, data, type and versions.
    """

    loss: str
    units: tuple[str, ...]
    lengths: torch.Tensor
    gradient: Mapping[str, torch.Tensor]
    norms: Mapping[str, torch.Tensor]
    total: Mapping[str, torch.Tensor]
    residual: float | None
    vjps: Mapping[str, int]
    looped: Mapping[str, str]
    source: Provenance = field(repr=False)

    def to_xarray(self) -> xr.Dataset:
        """The norms, with dimensions parameter and length."""
        names = list(self.norms)
        norms = torch.stack([self.norms[name] for name in names])
        totals = torch.stack([self.total[name].norm() for name in names])
        return dataset(
            {"norm": (("parameter", "length"), norms), "total_norm": (("parameter",), totals)},
            {"parameter": names, "length": self.lengths},
            self.source,
            loss=self.loss,
            residual=self.residual,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each parameter and length: norm."""
        return table(self.to_xarray()[["norm"]])


@overload
def gradient_by_length(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    wrt: Literal["parameters"],
    loss: Loss = ...,
    max_length: int | None = ...,
    units: Sequence[UnitRef] | None = ...,
    max_bytes: int | None = ...,
) -> ParameterGradientByLength: ...
@overload
def gradient_by_length(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    wrt: UnitRef = ...,
    loss: Loss = ...,
    max_length: int | None = ...,
    units: Sequence[UnitRef] | None = ...,
    max_bytes: int | None = ...,
) -> GradientByLength: ...
@torch.inference_mode(False)
def gradient_by_length(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    wrt: UnitRef = "input",
    loss: Loss = "cross_entropy",
    max_length: int | None = None,
    units: Sequence[UnitRef] | None = None,
    max_bytes: int | None = None,
) -> GradientByLength | ParameterGradientByLength:
    """The gradient split exactly by the number of branches that it came back through.

    At the activations of one ordinary forward pass, unit i multiplies a gradient by ``D_i'(S_i' + J_i')`` with
    the Jacobians of its join, shortcut and branch. Written out, that is a sum over 2^n paths. Replacing J_i by
    t J_i makes it a polynomial in t whose coefficient G_k sums all C(n, k) paths of length k:

        G_k  <-  S_i' D_i' G_k + J_i' D_i' G_{k-1},        sum_k G_k = the ordinary gradient.

    With respect to parameters, length counts the branches from the loss back to the parameter, the branch that
    holds it included: a parameter of unit i's branch gets ``(db_i/dw)' D_i' G_{k-1}`` (G at that unit's exit),
    a parameter of a shortcut, a join, the stem or the head ``G_k`` pulled back through its own piece, and one that
    is used in several places the sum over these. So each parameter's coefficients again sum to its ordinary gradient.

    Args:
        net: the unrolled network, its model in eval mode. A copy made by
            :func:`~resnet_paths.network.for_inference` gives the same numbers sooner (not for parameters).
        x: the model's input, batch first.
        target: class indices (batch,), or what the loss takes.
        wrt: ``"input"``, ``"parameters"`` (those that require gradients), or a unit, for the gradient at its
            entry, whose paths run through that unit and those after it.
        loss: ``"cross_entropy"`` or ``"logit"``, both summed over the batch so that each example has a gradient
            of its own; or a function of output and target that gives a scalar.
        max_length: keep the lengths 0..max_length only.
        units: count only these units' branches (a stage's, say); paths then pass the others in both ways.
        max_bytes: memory for the values of one batched product. None: 4 MiB on a CPU, where more would
            leave the cache, else a quarter of the free memory. Halved whenever memory runs out.

    Returns:
        The coefficients, their norms, shares and cosines with the total, also at every unit's entry.

    Raises:
        ValueError: the model is in training mode, the loss is not a scalar, a target is out of range, or there
            is no gradient.

    Cost: one forward pass, one backward pass, and n(n+1)/2 branch products (nK with max_length K) for n units.
    Memory: the forward pass's activations (on a CPU those before a ReLU twice where they are not stored channels
    last), and two copies of the coefficients at the largest entry, ``2 (n+1)`` times its size. Branches of
    convolutions, norms and ReLUs are pulled back without autograd's engine, which the total is still computed by. A
    branch with an operation that has no batching rule is pulled back one coefficient at a time; `looped` names it. A
    shared parameter costs, for each use but the first, a pass back through all that comes before it.

    Source: the unrolled view is that of Veit, Wilber and Belongie (2016), section 3; the recursion is ours.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> split = gradient_by_length(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 3]))
        >>> split.gradient.shape
        torch.Size([9, 2, 3, 32, 32])
        >>> split.residual < 1e-4
        True
        >>> bool(torch.allclose(split.share.sum(0), torch.ones(2), atol=1e-3))
        True
    """
    from_unit = None if wrt in ("input", "parameters") else net.index(wrt)
    name = "input" if from_unit is None else net[from_unit].name
    contraction = contract(net.segments, [start_node(net.segments, from_unit)])
    tape: Tape | GraphTape
    if not contraction.is_chain:
        tape = _graph_tape(net, x, target, loss, max_bytes, from_unit, units, wrt == "parameters")
    else:
        tape = Tape(net, x, target, loss, from_unit, max_bytes)
    counted = _counted(net, units, tape)
    longest = tape.graph.max_length if isinstance(tape, GraphTape) else len(counted)
    lengths = longest if max_length is None else min(_not_negative(max_length), longest)
    described = _Described(net, x, target, loss, tape, counted, lengths + 1, lengths == longest)
    if wrt == "parameters":
        return _of_parameters(described)
    return _of_values(described, name)


@dataclass(frozen=True, eq=False)
class _Described:
    """What both kinds of split need."""

    net: UnrolledNetwork
    x: Any
    target: Any
    loss: Loss
    tape: Tape | GraphTape
    counted: frozenset[int]
    lengths: int
    whole: bool

    def common(self) -> dict[str, Any]:
        return {
            "loss": loss_name(self.loss),
            "units": tuple(self.net[index].name for index in sorted(self.counted)),
            "lengths": torch.arange(self.lengths),
            "vjps": dict(self.tape.vjps),
            "looped": dict(self.tape.looped),
            "source": provenance(self.net.model, [self.x, self.target], self.tape.seed.dtype),
        }


def _graph_tape(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    loss: Loss,
    max_bytes: int | None,
    from_unit: int | None,
    units: Sequence[UnitRef] | None,
    everything: bool,
) -> GraphTape:
    """The record of a pass through a graph, cut at the sums and at the entries (their norms are told)."""
    counted = None if units is None else frozenset(net.indices(units))
    plan = net.segments
    starts = [] if everything else [start_node(plan, from_unit)]
    entries = [cut.entry for cut in plan.cuts]
    contraction = contract(plan, starts, through=entries, everything=everything, counted=counted)
    return GraphTape(net, x, target, contraction, loss, max_bytes)


def _of_values(described: _Described, wrt: str) -> GradientByLength:
    tape = described.tape
    if isinstance(tape, GraphTape):
        gradient, entries = _pull_graph(tape, described.lengths)
        (total,) = tape.ordinary_gradient()
    else:
        gradient, entries = _pull_chain(tape, described.lengths, described.counted)
        (total,) = tape.gradient([tape.start])
    norms, total_norm = example_norms(gradient), example_norms(total[None])[0]
    products = torch.einsum("kbi,bi->kb", gradient.flatten(2), total.flatten(1).to(gradient.dtype))
    return GradientByLength(
        wrt=wrt,
        gradient=gradient,
        total=total,
        norms=norms,
        total_norm=total_norm,
        share=products / total_norm**2,
        cosine=products / (norms * total_norm),
        entry_units=tuple(described.net[unit].name for unit in entries.units),
        entry_norms=entries.norms,
        stages=entries.stages,
        residual=relative_gap([gradient.sum(0)], [total]) if described.whole else None,
        **described.common(),
    )


@dataclass(frozen=True, eq=False)
class _Entries:
    """Norms by length at the entries that a recursion passed: the units' indices, (m, L, batch), their stages."""

    units: tuple[int, ...]
    norms: torch.Tensor
    stages: tuple[int, ...]


def _pull_chain(tape: Tape, lengths: int, counted: frozenset[int]) -> tuple[torch.Tensor, _Entries]:
    entry_norms = tape.seed.new_zeros((tape.n, lengths, len(tape.seed)))

    def note(index: int, rows: torch.Tensor) -> None:
        entry_norms[index - tape.first, : len(rows)] = example_norms(rows)

    gradient = pull_stem(tape, pull_polynomial(tape, lengths, counted, visit=note))
    units = tuple(range(tape.first, tape.first + tape.n))
    return gradient, _Entries(units, entry_norms, stages([unit.total for unit in tape.units]))


def _pull_graph(tape: GraphTape, lengths: int) -> tuple[torch.Tensor, _Entries]:
    """Lengths to which no gradient came are zeros, as are examples of entries without a batch of their own."""
    entry_of = {block: tape.place(tape.net.segments.cuts[block].entry) for block in tape.graph.blocks}
    units = tuple(block for block, place in entry_of.items() if place is not None)
    norms = tape.seed.new_zeros((len(units), lengths, len(tape.seed)))

    def note(place: int, rows: torch.Tensor) -> None:
        own = example_norms(rows)
        for row, unit in enumerate(units):
            if entry_of[unit] == place and own.shape[1] in (1, norms.shape[2]):
                norms[row, : len(own)] = own

    start = pull_graph_polynomial(tape, lengths, visit=note)
    leaf = tape.leaf(tape.graph.starts[0])
    gradient = leaf.new_zeros((lengths, *leaf.shape)).detach()
    if start is not None:
        gradient[: len(start)] = start
    sums = {vertex.block: tape.leaf(place) for place, vertex in enumerate(tape.graph.vertices) if vertex.block in units}
    return gradient, _Entries(units, norms, stages([sums[unit] for unit in units]))


def _of_parameters(described: _Described) -> ParameterGradientByLength:
    tape = described.tape
    named = described.net.model.named_parameters()
    wanted: dict[str, torch.Tensor] = {name: value for name, value in named if value.requires_grad}
    if not wanted:
        raise ValueError(
            "expected parameters that require gradients, got none; call model.requires_grad_(True), or pass the "
            "network itself rather than a copy made for inference"
        )
    leaves = LeafSums(wanted, described.lengths)
    if isinstance(tape, GraphTape):
        pull_graph_polynomial(tape, described.lengths, leaves=leaves)
        ordinary = tape.ordinary_gradient(list(wanted.values()))
    else:
        pull_stem(tape, pull_polynomial(tape, described.lengths, described.counted, leaves=leaves), leaves)
        ordinary = tape.gradient(list(wanted.values()))
    totals = dict(zip(wanted, ordinary, strict=True))
    gradient = {
        name: leaves.sums.get(name, value.new_zeros((described.lengths, *value.shape)).detach())
        for name, value in wanted.items()
    }
    summed = [value.sum(0) for value in gradient.values()]
    return ParameterGradientByLength(
        gradient=gradient,
        norms={
            name: torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1) for name, value in gradient.items()
        },
        total=totals,
        residual=relative_gap(summed, list(totals.values())) if described.whole else None,
        **described.common(),
    )


def example_norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each example in each row: (rows, batch, ...) to (rows, batch)."""
    inner = tuple(range(2, rows.ndim))
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=inner) if inner else rows.abs()
    return norms


def relative_gap(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """``|found - expected| / |expected|`` over all tensors together."""
    gap = sum(float((a - b).norm()) ** 2 for a, b in zip(found, expected, strict=True))
    size = sum(float(b.norm()) ** 2 for b in expected)
    return (gap / size) ** 0.5 if size else gap**0.5


def stages(sums: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """The stage of each unit: a new one begins with a unit whose sum has another shape."""
    numbers = [0] if sums else []
    for before, value in pairwise(sums):
        numbers.append(numbers[-1] + int(before.shape[1:] != value.shape[1:]))
    return tuple(numbers)


def _counted(net: UnrolledNetwork, units: Sequence[UnitRef] | None, tape: Tape | GraphTape) -> frozenset[int]:
    """The units whose branches are counted.

    Raises:
        ValueError: one of them lies on no path.
    """
    passed = tape.graph.blocks if isinstance(tape, GraphTape) else range(tape.first, len(net))
    indices = passed if units is None else net.indices(units)
    apart = [index for index in indices if index not in passed]
    if apart and isinstance(tape, GraphTape):
        raise ValueError(
            f"expected units on paths from the output to where the gradient is asked for, got {net[apart[0]].name}, "
            "through which no path leads"
        )
    if apart:
        raise ValueError(
            f"expected units from {passed[0]} on, where the gradient is asked for, got unit {apart[0]} before it"
        )
    return frozenset(indices)


def _not_negative(length: int) -> int:
    if length < 0:
        raise ValueError(f"expected a max_length of at least 0, got {length}")
    return length
