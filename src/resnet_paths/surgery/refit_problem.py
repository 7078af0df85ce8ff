"""The least-squares problem of one block: the features of its layers, their residual target, and the solution.

`refit` decides which blocks to fit and in which order, `refit_sites` where a block's layers enter its sum; this holds
the equations of one block while batches are accumulated. All layers that enter the sum are solved for together, because
fitting one after the other would leave each to explain what the next can do better.
"""

from __future__ import annotations

import math

import torch

from ..data.position_metrics import channels_beside
from ..draws import permutation
from ..graph.compile_node import Values
from ..graph.pieces import Segments
from .least_squares import LeastSquares
from .linear_layers import Layer, channel_axis, features_of, is_convolution, matrix_of, positions_of, rows_of, weight_of
from .refit_layers import LayerFit
from .refit_sites import Readout, Site, Tail


class BlockProblem:
    """Fits the layers of one block, accumulated over batches.

    With D_k the scale with which layer k enters the sum, the unknowns are ``V_k = D_k W_k`` for all layers and one
    constant ``c = sum of D_k b_k``, if at least one layer has a bias to hold it. Solving for V instead of W makes the
    problem linear in the sum and lets layers with a scale of their own share one system.

    Args:
        segments: the graph of the network being fitted.
        site: the block.
        rows_per_feature: rows used per feature; all rows if there are fewer.
        inputs: total number of inputs in all batches.
        generator: generator of the sampled positions.
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

    def add(self, values: Values, target: torch.Tensor, counted: torch.Tensor | None = None) -> bool:
        """Add a batch; False if nothing can be fitted.

        Args:
            values: all values of the block.
            target: what its sum is fitted to.
            counted: which positions of the inputs count, (inputs, positions, ...); None: all. Where the sum has other
                positions, all of its positions count.
        """
        if self._equations is None and not self._choose_layers(values):
            return False
        readouts = [tail.readout(values) for tail in self._tails]
        if broken := [readout for readout in readouts if isinstance(readout, str)]:
            self.reason = str(broken[0])
            return False
        output: torch.Tensor = values[self._tails[0].term.node]
        residual = self._residual(values, readouts, target)  # type: ignore[arg-type]
        elements = _elements(counted, residual, self._tails[0].term.layer)
        source = readouts[0].source  # type: ignore[union-attr]
        if source is not None:
            elements = torch.ones_like(residual, dtype=torch.bool) if elements is None else elements
            residual, elements = _rearranged(source, residual, output), _rearranged(source, elements, output)
        self._add(values, residual, elements, min(1.0, len(target) / self._inputs))
        return True

    def _choose_layers(self, values: Values) -> bool:
        """Leave out layers that cannot be fitted: those without a readout, and a second one with another layout."""
        readouts = [(tail, tail.readout(values)) for tail in self._tails]
        usable = [(tail, readout) for tail, readout in readouts if isinstance(readout, Readout)]
        if len(usable) > 1 and (self._differ_in_layout(usable, values)):
            usable = usable[:1]
        if not usable:
            self.reason = "; ".join(str(readout) for _, readout in readouts)
            return False
        self._tails = [tail for tail, _ in usable]
        self._scales = [readout.scale for _, readout in usable]
        return True

    @staticmethod
    def _differ_in_layout(usable: list[tuple[Tail, Readout]], values: Values) -> bool:
        """Whether layers map positions or groups to the sum differently, so that their rows do not line up."""
        shapes = {tuple(values[tail.term.node].shape) for tail, _ in usable}
        groups = {matrix_of(tail.term.layer).shape[0] for tail, _ in usable} - {1}
        return len(shapes) > 1 or len(groups) > 1 or any(readout.source is not None for _, readout in usable)

    def _residual(self, values: Values, readouts: list[Readout], target: torch.Tensor) -> torch.Tensor:
        fitted = {tail.term.end for tail in self._tails}
        ends = [self._cut.shortcut, *(() if self._site.dropped else self._cut.branch)]
        residual = target
        for end in ends:
            residual = residual if end in fitted else residual - values[end]
        for readout in readouts:
            residual = residual - readout.offset
        return residual

    def _add(self, values: Values, residual: torch.Tensor, counted: torch.Tensor | None, share: float) -> None:
        """Add the rows of a batch: a share of all inputs, of which only some elements of the output may count."""
        layer = self._tails[0].term.layer
        positions = self._positions(values[self._tails[0].term.node], counted, share)
        targets = rows_of(layer, residual, positions)
        features = [features_of(tail.term.layer, tail.term.found_layer.read(values), positions) for tail in self._tails]
        groups = max(len(part) for part in features)
        parts = [part.expand(groups, -1, -1) for part in features]
        if self._constant() is not None:
            parts.append(torch.ones_like(parts[0][..., :1]))
        rows = torch.cat(parts, 2)
        grouped_targets = targets.view(len(targets), groups, -1).permute(1, 0, 2)
        if counted is not None:
            complete = rows_of(layer, counted, positions).all(1)
            rows, grouped_targets = rows[:, complete], grouped_targets[:, complete]
        if self._equations is None:
            self._equations = LeastSquares(groups, rows.shape[2], grouped_targets.shape[2])
        self._equations.add(rows, grouped_targets)

    def _positions(self, output: torch.Tensor, counted: torch.Tensor | None, share: float) -> torch.Tensor:
        """Random positions of this batch among those that count, as many as its share of the rows."""
        layer = self._tails[0].term.layer
        features = 1 + sum(matrix_of(tail.term.layer).shape[1] for tail in self._tails)
        # On the CPU, so that the same seed draws the same positions on every device.
        available = torch.arange(positions_of(layer, output), device="cpu")
        rows_per_position = 1
        if is_convolution(layer):
            rows_per_position = len(output)  # a position gives one row per image
        elif counted is not None:
            available = available[rows_of(layer, counted, available.to(counted.device)).all(1).cpu()]
        count = math.ceil(self._rows_per_feature * features * share / rows_per_position)
        drawn = permutation(len(available), self._generator)[: max(1, count)]
        return available[drawn].to(output.device)

    def _constant(self) -> int | None:
        """The index of the layer that holds the constant: the first with a bias."""
        return next((i for i, tail in enumerate(self._tails) if tail.term.layer.bias is not None), None)

    # solution

    def solve(self, ridge: float) -> tuple[list[LayerFit], float, float]:
        """The fitted layers, and the mean squared error of the sum before and after, on these rows."""
        equations = self._equations
        if equations is None:
            raise RuntimeError("expected at least one batch before solve(); call add() first")
        old = self._old(equations.gram.shape[0])
        new = equations.solve(old, ridge)
        count = equations.rows * old.shape[0] * old.shape[2]
        return self._fits(new), equations.objective(old) / count, equations.objective(new) / count

    def _old(self, groups: int) -> torch.Tensor:
        """The current values of the unknowns, (groups, features, outputs)."""
        parts = []
        for tail, scale in zip(self._tails, self._scales, strict=True):
            matrix = matrix_of(tail.term.layer).cpu().double()
            flat = matrix.mT.flatten(0, 1) * scale.cpu().double()[:, None]  # (outputs of all groups, features)
            parts.append(flat.view(groups, -1, flat.shape[1]).mT)
        if self._constant() is not None:
            parts.append(sum(self._biases()).view(groups, 1, -1))  # type: ignore[union-attr]
        return torch.cat(parts, 1)

    def _biases(self) -> list[torch.Tensor]:
        """Each layer's contribution to the constant."""
        return [
            scale.cpu().double()
            * (0.0 if tail.term.layer.bias is None else tail.term.layer.bias.detach().cpu().double())
            for tail, scale in zip(self._tails, self._scales, strict=True)
        ]

    def _fits(self, new: torch.Tensor) -> list[LayerFit]:
        fits, start, holder = [], 0, self._constant()
        for index, (tail, scale) in enumerate(zip(self._tails, self._scales, strict=True)):
            layer = tail.term.layer
            features = matrix_of(layer).shape[1]
            divisor = scale.cpu().double()
            flat = new[:, start : start + features].mT.flatten(0, 1) / divisor[:, None]
            start += features
            bias = None if layer.bias is None else layer.bias.detach().clone()
            fitted = bias
            if bias is not None and index == holder:
                others = sum((b for i, b in enumerate(self._biases()) if i != index), torch.zeros_like(divisor))
                fitted = ((new[:, -1].flatten() - others) / divisor).to(bias)
            weight = layer.weight.detach().clone()
            names = tail.term.found_layer.weight_name, tail.term.found_layer.bias_name
            fits.append(LayerFit(*names, weight, bias, weight_of(layer, flat), fitted))
        return fits


def _elements(counted: torch.Tensor | None, total: torch.Tensor, layer: Layer) -> torch.Tensor | None:
    """Which elements of a sum count, from the positions that do; None: all, or the sum has other positions."""
    axis = None if counted is None else channels_beside(total, counted, channel_axis(layer, total))
    if counted is None or axis is None:
        return None
    return counted.to(total.device).unsqueeze(axis).expand(total.shape)


def _rearranged(source: torch.Tensor, values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Values of a sum, moved to the elements of a layer's output that they come from; zero (or False) elsewhere."""
    rearranged = values.new_zeros(output.numel())
    rearranged[source] = values.flatten()
    return rearranged.view(output.shape)
