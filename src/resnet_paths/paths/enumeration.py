"""The gradient of every single path, for networks with few blocks.

It is the exact reference for `sampling` and `energy`, and the only analysis that shows individual paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..arguments import checked
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ._norms import example_norms
from ._objective import Loss, loss_name
from .block_graph import BRANCH, PathGraph, path_graph
from .forward_pass import ForwardPass, pass_to_start

MOST_BLOCKS = 16
"""A chain of this many blocks has 65,536 paths; each further block doubles time and memory."""
ROOM_BYTES = 64 * 2**20
"""Rows that continue together from one vertex. The traversal is depth first, so this bounds the memory per block."""


@checked
@dataclass(frozen=True)
class Path:
    """One path through the unrolled network.

    Attributes:
        blocks: the blocks whose branch it takes, input side first; at the others it takes the shortcut.
        passed: the blocks whose sums lie on it; None if that is all of them (as in a chain).
    """

    blocks: tuple[int, ...]
    passed: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """The number of branches that it takes."""
        return len(self.blocks)


@dataclass(frozen=True, eq=False)
class EnumeratedPathGradients(Record):
    """The gradient of every path, in order of rank (in a chain, bit i is set if branch i is taken).

    A chain has 2^n paths.

    Attributes:
        n: number of blocks that the paths choose among.
        loss: the loss's name.
        norms: Euclidean norm per path and example, (2^n, batch).
        lengths: each path's length, (2^n,).
        gradient: (2^n, batch, ...); None unless requested.
        graph: the graph of the blocks' sums, which numbers the paths.
        vjps: number of rows pulled back, by kind of piece.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "norms": "path example",
        "lengths": "path",
        "gradient": "path example ...",
    }
    TABLE: ClassVar = ("norms", "lengths")

    n: int
    loss: str
    norms: torch.Tensor
    lengths: torch.Tensor
    gradient: torch.Tensor | None
    vjps: Mapping[str, int]
    source: Provenance = field(repr=False)
    graph: PathGraph = field(repr=False)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of paths of each length."""
        return self.graph.counts

    def path(self, rank: int) -> Path:
        """The path at an index of the arrays; its blocks are indices in the network."""
        taken, passed = [], []
        for position, term, _ in reversed(self.graph.walk(rank)):
            block = self.graph.vertices[position].block
            if block is not None:
                passed.append(block)
                taken += [block] if term.kind == BRANCH else []
        return Path(tuple(taken), None if tuple(passed) == self.graph.blocks else tuple(passed))

    def mean_by_length(self) -> torch.Tensor:
        """The mean norm over all paths of each length, (n + 1, batch); 0 for a length without paths."""
        return (
            self.energy_by_length(power=1)
            / torch.tensor(self.counts, device="cpu").clamp_min(1).to(self.norms)[:, None]
        )

    def energy_by_length(self, power: int = 2) -> torch.Tensor:
        """The sum of squared norms (or of another power) over all paths of each length, (n + 1, batch)."""
        return torch.stack([self.norms[self.lengths == k].pow(power).sum(0) for k in range(len(self.counts))])


@checked
@torch.inference_mode(False)
def enumerate_path_gradients(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    at: BlockRef = "input",
    loss: Loss = "cross_entropy",
    keep_gradients: bool = False,
    max_bytes: int | None = None,
) -> EnumeratedPathGradients:
    """The gradient along each of the 2^n paths, where paths share the computation up to where they diverge.

    Backwards from the loss the paths form a binary tree: every gradient at a block's exit continues once through the
    shortcut and once through the branch. Each of the 2^(n+1) - 1 nodes is visited once, depth first in bounded memory.
    If the blocks are not a chain, a path continues to each of the sums that a shortcut or branch reads (see
    :func:`path_lengths`).

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts.
        at: ``"input"``, or a block, for the paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        keep_gradients: whether to keep the gradients and not only their norms, which takes 2^n times the input.
        max_bytes: as in :func:`gradient_by_length`.

    Raises:
        ValueError: there are more than 2^16 paths (16 blocks in a chain), or as :func:`gradient_by_length`.

    Cost: one forward pass and 2^n - 1 branch products (path by path it would be n 2^(n-1)). Memory: at most 64 MiB of
    rows per block, and the result.

    Source: Veit, Wilber and Belongie (2016), section 3, for the paths.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> every = enumerate_path_gradients(net, torch.randn(1, 3, 32, 32), [0], at=2)
        >>> every.norms.shape, every.vjps["branch"], every.path(5).blocks
        (torch.Size([64, 1]), 63, (2, 4))
    """
    start = None if at == "input" else net.index(at)
    graph = path_graph(net, start)
    if graph.paths > 2**MOST_BLOCKS:
        raise ValueError(
            f"expected at most {MOST_BLOCKS} blocks, got {graph.n}, which have {_number(graph.paths)} paths; use "
            "sample_path_gradients or path_energy, or request the paths from a later block on "
            f"(at={len(net) - MOST_BLOCKS} or more)"
        )
    record = pass_to_start(net, x, target, loss, at, max_bytes)
    walks = _Walks(record, keep_gradients)
    walks.descend({len(record.graph.vertices) - 1: (record.seed[None], torch.zeros(1, dtype=torch.long, device="cpu"))})
    return EnumeratedPathGradients(
        n=record.n,
        loss=loss_name(loss),
        norms=walks.norms,
        lengths=torch.tensor(graph.lengths_by_rank(), device="cpu"),
        gradient=walks.gradient,
        vjps=record.vjps,
        source=provenance(net.model, [x, target], record.seed.dtype),
        graph=graph,
    )


def _number(count: int) -> str:
    """A number of paths in words: exact, or as a power of two if very large."""
    return str(count) if count < 10**18 else f"about 2^{count.bit_length() - 1}"


class _Walks:
    """The traversal of all paths of a graph, with its results.

    Partial paths wait at the vertices that they have reached. The latest vertex continues first, so that all paths that
    can reach it have arrived and continue together. If there are too many of them, they continue in parts.
    """

    def __init__(self, record: ForwardPass, keep_gradients: bool) -> None:
        self.record, self.graph = record, record.graph
        count = self.graph.paths
        self.norms = record.seed.new_zeros((count, len(record.seed)))
        self.gradient = record.start.new_zeros((count, *record.start.shape)).detach() if keep_gradients else None

    def descend(self, waiting: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Follow rows, labelled by their partial ranks, from the vertices where they wait to the start."""
        while waiting:
            position = max(waiting)
            rows, ranks = waiting.pop(position)
            if not self.graph.vertices[position].terms:
                self._arrive(rows, ranks)
                continue
            edges = list(self.graph.edges(position))
            room = max(1, ROOM_BYTES // (len(edges) * rows[0].numel() * rows.element_size()))
            if len(rows) > room:
                for part in zip(rows.split(room), ranks.split(room), strict=True):
                    self.descend({position: part})
                continue
            before = dict(zip(edges, self.graph.offsets(position), strict=True))
            for term in self.graph.vertices[position].terms:
                for source, values in self.record.pull(position, term, rows)[0]:
                    new_ranks = ranks + before[term, source]
                    if source in waiting:
                        others, their_ranks = waiting[source]
                        values, new_ranks = torch.cat([others, values]), torch.cat([their_ranks, new_ranks])
                    waiting[source] = values, new_ranks

    def _arrive(self, rows: torch.Tensor, ranks: torch.Tensor) -> None:
        self.norms[ranks] = example_norms(rows).to(self.norms.dtype)
        if self.gradient is not None:
            self.gradient[ranks] = rows.to(self.gradient.dtype)
