"""The gradient of every single path, for networks of few units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
import xarray as xr

from .._display import shown
from ..network import UnitRef, UnrolledNetwork
from ..provenance import Provenance, dataset, provenance, table
from ._objective import Loss, loss_name
from ._polynomial import pull_stem
from ._tape import Tape
from .by_length import example_norms
from .path import Path

MOST_UNITS = 16
ROOM_BYTES = 64 * 2**20


@shown
@dataclass(frozen=True, eq=False)
class EnumeratedPathGradients:
    """The gradient of every path, in the order of the paths' rank (bit i set: branch i taken).

    Attributes:
        n: number of units that the paths choose among.
        first: index of the first of them in the network.
        loss: the loss's name.
        norms: Euclidean norm for each path and example, (2^n, batch).
        lengths: each path's length, (2^n,).
        gradient: (2^n, batch, ...), where it was asked for.
        vjps: rows pulled back, by kind of piece.
        source: model, data and versions.
    """

    n: int
    first: int
    loss: str
    norms: torch.Tensor
    lengths: torch.Tensor
    gradient: torch.Tensor | None
    vjps: Mapping[str, int]
    source: Provenance = field(repr=False)

    def path(self, rank: int) -> Path:
        """The path at a place of the arrays; its units are indices in the network."""
        taken = tuple(self.first + unit for unit in range(self.n) if rank >> unit & 1)
        return Path(taken, self.first + self.n)

    def mean_by_length(self) -> torch.Tensor:
        """The mean norm over all paths of each length, (n + 1, batch)."""
        return torch.stack([self.norms[self.lengths == k].mean(0) for k in range(self.n + 1)])

    def energy_by_length(self) -> torch.Tensor:
        """The sum of squared norms over all paths of each length, (n + 1, batch)."""
        return torch.stack([self.norms[self.lengths == k].square().sum(0) for k in range(self.n + 1)])

    def to_xarray(self) -> xr.Dataset:
        """Norms with dimensions path and example; each path's length."""
        variables = {"norm": (("path", "example"), self.norms), "length": (("path",), self.lengths)}
        return dataset(variables, {}, self.source, n=self.n, loss=self.loss)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each path and example."""
        return table(self.to_xarray())


@torch.inference_mode(False)
def enumerate_path_gradients(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    wrt: UnitRef = "input",
    loss: Loss = "cross_entropy",
    keep_gradients: bool = False,
    max_bytes: int | None = None,
) -> EnumeratedPathGradients:
    """The gradient along each of the 2^n paths, paths that end alike sharing the way back.

    Backwards from the loss the paths form a binary tree: every gradient at a unit's exit goes on once by the
    shortcut and once by the branch. All its 2^(n+1) - 1 nodes are visited once, depth first in bounded memory.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or what the loss takes.
        wrt: ``"input"``, or a unit, for the paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        keep_gradients: keep the gradients, not only their norms: 2^n times the input.
        max_bytes: as in :func:`gradient_by_length`.

    Raises:
        ValueError: more than 16 units, or as :func:`gradient_by_length`.

    Cost: one forward pass and 2^n - 1 branch products (one by one: n 2^(n-1)). Memory: at most 64 MiB of rows
    a unit, and the result.

    Source: Veit, Wilber and Belongie (2016), section 3, for the paths.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> every = enumerate_path_gradients(net, torch.randn(1, 3, 32, 32), [0], wrt=2)
        >>> every.norms.shape, every.vjps["branch"], every.path(5).units
        (torch.Size([64, 1]), 63, (2, 4))
    """
    start = None if wrt == "input" else net.index(wrt)
    n = len(net) - (start or 0)
    if n > MOST_UNITS:
        raise ValueError(
            f"expected at most {MOST_UNITS} units, got {n}, which have {2**n} paths; use sample_path_gradients or "
            f"path_energy, or ask for the paths from a later unit on (wrt={len(net) - MOST_UNITS} or more)"
        )
    tape = Tape(net, x, target, loss, start, max_bytes)
    tree = _Tree(tape, keep_gradients)
    tree.descend(n - 1, tape.seed[None], torch.zeros(1, dtype=torch.long))
    lengths = torch.tensor([rank.bit_count() for rank in range(2**n)])
    return EnumeratedPathGradients(
        n=n,
        first=tape.first,
        loss=loss_name(loss),
        norms=tree.norms,
        lengths=lengths,
        gradient=tree.gradient,
        vjps=dict(tape.vjps),
        source=provenance(net.model, [x, target], tape.seed.dtype),
    )


class _Tree:
    """The walk through the tree of paths and where its leaves are put."""

    def __init__(self, tape: Tape, keep_gradients: bool) -> None:
        self.tape = tape
        count = 2**tape.n
        self.norms = tape.seed.new_empty((count, len(tape.seed)))
        self.gradient = tape.start.new_empty((count, *tape.start.shape)).detach() if keep_gradients else None

    def descend(self, place: int, rows: torch.Tensor, ranks: torch.Tensor) -> None:
        """Follow rows at a unit's exit, known by the branches taken after it, to the start."""
        if place < 0:
            self._arrive(rows, ranks)
            return
        unit = self.tape.units[place]
        room = max(1, ROOM_BYTES // (2 * unit.entry.numel() * unit.entry.element_size()))
        for begin in range(0, len(rows), room):
            some, known = rows[begin : begin + room], ranks[begin : begin + room]
            result = unit.entry.new_empty((2 * len(some), *unit.entry.shape))
            by_shortcut, by_branch = result[: len(some)], result[len(some) :]
            for part in self.tape.chunks(len(some), unit.entry, unit.total):
                (total,) = self.tape.through_join(unit, some[part])
                by_shortcut[part] = self.tape.through_shortcut(unit, total)[0]
                by_branch[part] = self.tape.through_branch(unit, total)[0]
            self.descend(place - 1, result, torch.cat([known, known + (1 << place)]))

    def _arrive(self, rows: torch.Tensor, ranks: torch.Tensor) -> None:
        rows = pull_stem(self.tape, rows)
        self.norms[ranks] = example_norms(rows).to(self.norms.dtype)
        if self.gradient is not None:
            self.gradient[ranks] = rows.to(self.gradient.dtype)
