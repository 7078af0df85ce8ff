"""The least-squares problem of one block: its layers' features, what is left of the target for them, their solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..draws import permutation
from ..graph.compile_node import Values
from ..graph.pieces import Segments
from .least_squares import LeastSquares
from .linear_layers import features_of, matrix_of, positions_of, rows_of
from .refit_layers import LayerFit
from .refit_sites import Readout, Site, Tail


@dataclass(frozen=True, eq=False)
class _Batch:
    """One batch at one block.

    Attributes:
        values: all values of the block, by node.
        readouts: how each fitted layer enters the sum.
        left: what the fitted layers together have to give: the target without the other terms and all offsets.
    """

    values: Values
    readouts: list[Readout]
    left: torch.Tensor


class BlockProblem:
    """Fits the layers of one block, from batch to batch.

    With D_k the scale with which layer k enters the sum, the unknowns are ``V_k = D_k W_k`` for all layers and one
    constant ``c = sum of D_k b_k``, where at least one of them has a bias to hold it.

    Args:
        segments: the graph of the network that is fitted.
        site: the block.
        rows_per_feature: rows that decide the fit, for each feature; all of them where there are fewer.
        inputs: number of inputs in all batches together.
        generator: of the positions that are drawn.
    """

    def __init__(
        self, segments: Segments, site: Site, rows_per_feature: int, inputs: int, generator: torch.Generator
    ) -> None:
        cut = segments.cuts[site.block]
        self._cut, self._site = cut, site
        pieces = dict.fromkeys(cut.branch, segments.branches[site.block])
        if (shortcut := segments.shortcuts[site.block]) is not None:
            pieces[cut.shortcut] = shortcut
        self._tails = [Tail(pieces[term.end], term, segments.program) for term in site.terms]
        self._rows_per_feature, self._inputs, self._generator = rows_per_feature, inputs, generator
        self._equations: LeastSquares | None = None
        self._scales: list[torch.Tensor] = []
        self.reason = ""

    def add(self, values: Values, target: torch.Tensor) -> bool:
        """One batch: all values of the block, and the sum that it should have; False where nothing can be fitted."""
        if self._equations is None and not self._choose(values):
            return False
        readouts = [tail.readout(values) for tail in self._tails]
        if broken := [readout for readout in readouts if isinstance(readout, str)]:
            self.reason = str(broken[0])
            return False
        self._add(_Batch(values, readouts, self._left(values, readouts, target)))  # type: ignore[arg-type]
        return True

    def _choose(self, values: Values) -> bool:
        """Leave out layers that cannot be fitted: those with no plain way to the sum, and a second one out of step."""
        found = [(tail, tail.readout(values)) for tail in self._tails]
        good = [(tail, readout) for tail, readout in found if isinstance(readout, Readout)]
        if len(good) > 1 and (self._out_of_step(good, values)):
            good = good[:1]
        if not good:
            self.reason = "; ".join(str(readout) for _, readout in found)
            return False
        self._tails = [tail for tail, _ in good]
        self._scales = [readout.scale for _, readout in good]
        return True

    @staticmethod
    def _out_of_step(good: list[tuple[Tail, Readout]], values: Values) -> bool:
        """Whether layers do not give the same element of the sum at the same place, group by group."""
        shapes = {tuple(values[tail.term.node].shape) for tail, _ in good}
        groups = {matrix_of(tail.term.layer).shape[0] for tail, _ in good} - {1}
        return len(shapes) > 1 or len(groups) > 1 or any(readout.source is not None for _, readout in good)

    def _left(self, values: Values, readouts: list[Readout], target: torch.Tensor) -> torch.Tensor:
        fitted = {tail.term.end for tail in self._tails}
        ends = [self._cut.shortcut, *(() if self._site.dropped else self._cut.branch)]
        left = target
        for end in ends:
            left = left if end in fitted else left - values[end]
        for readout in readouts:
            left = left - readout.offset
        return left

    def _add(self, batch: _Batch) -> None:
        first = self._tails[0].term
        output: torch.Tensor = batch.values[first.node]
        positions = self._positions(output, min(1.0, len(batch.left) / self._inputs))
        left, readout = batch.left, batch.readouts[0]
        used = None
        if readout.source is not None:
            left, used = self._sent_back(readout.source, left, output)
        targets = rows_of(first.layer, left, positions)
        features = [features_of(tail.term.layer, tail.term.found.read(batch.values), positions) for tail in self._tails]
        groups = max(len(part) for part in features)
        parts = [part.expand(groups, -1, -1) for part in features]
        if self._constant() is not None:
            parts.append(torch.ones_like(parts[0][..., :1]))
        rows = torch.cat(parts, 2)
        aims = targets.view(len(targets), groups, -1).permute(1, 0, 2)
        if used is not None:
            whole = rows_of(first.layer, used, positions).all(1)
            rows, aims = rows[:, whole], aims[:, whole]
        if self._equations is None:
            self._equations = LeastSquares(groups, rows.shape[2], aims.shape[2])
        self._equations.add(rows, aims)

    def _positions(self, output: torch.Tensor, share: float) -> torch.Tensor:
        """As many positions of this batch as its share of the rows, drawn at random."""
        layer = self._tails[0].term.layer
        features = 1 + sum(matrix_of(tail.term.layer).shape[1] for tail in self._tails)
        there = positions_of(layer, output)
        every = 1 if isinstance(layer, nn.Linear) else len(output)  # a convolution's position is one in each image
        wanted = math.ceil(self._rows_per_feature * features * share / every)
        return permutation(there, self._generator)[: max(1, wanted)].to(output.device)

    @staticmethod
    def _sent_back(source: torch.Tensor, left: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is left, in the places of the layer's output that it comes from, and which of them are used."""
        back = torch.zeros(output.numel(), dtype=left.dtype, device=left.device)
        used = torch.zeros(output.numel(), dtype=torch.bool, device=left.device)
        back[source], used[source] = left.flatten(), True
        return back.view(output.shape), used.view(output.shape)

    def _constant(self) -> int | None:
        """Which layer holds the constant: the first with a bias."""
        return next((i for i, tail in enumerate(self._tails) if tail.term.layer.bias is not None), None)

    # solved

    def solve(self, ridge: float) -> tuple[list[LayerFit], float, float]:
        """The fitted layers, and the mean squared error of the sum before and after, on these rows."""
        equations = self._equations
        if equations is None:
            raise RuntimeError("expected at least one batch before the solution")
        old = self._old(equations.gram.shape[0])
        new = equations.solve(old, ridge)
        count = equations.rows * old.shape[0] * old.shape[2]
        return self._fits(new), equations.objective(old) / count, equations.objective(new) / count

    def _old(self, groups: int) -> torch.Tensor:
        """The present unknowns, (groups, features, outputs)."""
        parts = []
        for tail, scale in zip(self._tails, self._scales, strict=True):
            matrix = matrix_of(tail.term.layer).cpu().double()
            flat = matrix.mT.flatten(0, 1) * scale.cpu().double()[:, None]  # (outputs of all groups, features)
            parts.append(flat.view(groups, -1, flat.shape[1]).mT)
        if self._constant() is not None:
            parts.append(sum(self._biases()).view(groups, 1, -1))  # type: ignore[union-attr]
        return torch.cat(parts, 1)

    def _biases(self) -> list[torch.Tensor]:
        """Each layer's share of the constant."""
        return [
            scale.cpu().double()
            * (0.0 if tail.term.layer.bias is None else tail.term.layer.bias.detach().cpu().double())
            for tail, scale in zip(self._tails, self._scales, strict=True)
        ]

    def _fits(self, new: torch.Tensor) -> list[LayerFit]:
        fits, place, holder = [], 0, self._constant()
        for index, (tail, scale) in enumerate(zip(self._tails, self._scales, strict=True)):
            layer = tail.term.layer
            features = matrix_of(layer).shape[1]
            divisor = scale.cpu().double()
            flat = new[:, place : place + features].mT.flatten(0, 1) / divisor[:, None]
            place += features
            bias = None if layer.bias is None else layer.bias.detach().clone()
            fitted = bias
            if bias is not None and index == holder:
                others = sum((b for i, b in enumerate(self._biases()) if i != index), torch.zeros_like(divisor))
                fitted = ((new[:, -1].flatten() - others) / divisor).to(bias)
            weight = layer.weight.detach().clone()
            names = tail.term.found.weight_name, tail.term.found.bias_name
            fits.append(LayerFit(*names, weight, bias, flat.view(weight.shape).to(weight), fitted))
        return fits
