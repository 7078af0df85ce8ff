"""Gradients of single paths, sampled at random within each length (Veit et al.).

The method of the paper, kept beside `energy` although that is cheaper: it yields the distribution of the norms over
paths and not only their mean square, and it is what published figures show. Examples of a batch share the pullback of a
branch even though each draws its own path; that makes the sampling affordable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from ..arguments import checked
from ..draws import seeded, uniform
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record, as_array
from ..statistics import norm_intervals, pooled_norm_intervals
from ._norms import example_norms
from ._objective import Loss, loss_name
from .block_graph import PathGraph
from .forward_pass import ForwardPass, pass_to_start
from .pulling import zeros_for


@dataclass(frozen=True, eq=False)
class SampledPathGradients(Record):
    """Norms of the gradients that single random paths carry, stratified by length.

    Attributes:
        n: number of blocks that the paths choose among.
        loss: the loss's name.
        lengths: the lengths sampled, (L,).
        norms: Euclidean norm per length, draw and example, (L, draws, batch); 0 if no path has that length.
        mean: mean over the draws, (L, batch), which estimates the mean over all C(n, k) paths.
        standard_error: standard error of `mean`, (L, batch); 0 for lengths with one path (0 and n in a chain).
        vjps: number of rows pulled back, by kind of piece.
        source: model, data, seed and versions.
        counts: the number of paths of each length, from 0 to the longest.
    """

    DIMENSIONS: ClassVar = {
        "norms": "length sample example",
        "mean": "length example",
        "standard_error": "length example",
    }
    COORDINATES: ClassVar = {"length": "lengths"}
    TABLE: ClassVar = ("mean", "standard_error")

    n: int
    loss: str
    lengths: torch.Tensor
    norms: torch.Tensor
    mean: torch.Tensor
    standard_error: torch.Tensor
    vjps: Mapping[str, int]
    source: Provenance = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)

    def over_examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over the batch and its standard error for this batch, (L,) each.

        Examples draw their paths independently: ``se = sqrt(sum_b se_b^2) / B``.
        """
        return pooled(self.mean, self.standard_error)

    def interval(self, confidence: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
        """Confidence interval of the mean, (L, batch) each, for skewed norms.

        See :func:`resnet_paths.statistics.norm_intervals`. It is the mean itself for lengths with one path; the upper
        end is infinite if all draws are equal although there are several paths.
        """
        norms = as_array(self.norms.double()).transpose(0, 2, 1)
        return self._ends(*norm_intervals(norms, confidence), self.mean)

    def over_examples_interval(self, confidence: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
        """Confidence interval of the mean over the batch, for these examples, (L,) each.

        See :func:`resnet_paths.statistics.pooled_norm_intervals`.
        """
        low, high = pooled_norm_intervals(as_array(self.norms.double()), confidence)
        return self._ends(low, high, self.mean.mean(-1))

    def _ends(self, low: np.ndarray, high: np.ndarray, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends as tensors like `mean`; both equal the mean where there is only one path."""
        single = torch.tensor([self.counts[length] <= 1 for length in self.lengths.tolist()], device=mean.device)
        single = single.view(-1, *[1] * (mean.ndim - 1))
        ends = [torch.from_numpy(np.asarray(end)).to(mean) for end in (low, high)]
        return torch.where(single, mean, ends[0]), torch.where(single, mean, ends[1])


@checked
@torch.inference_mode(False)
def sample_path_gradients(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    lengths: Sequence[int] | None = None,
    draws: int = 16,
    at: BlockRef = "input",
    loss: Loss = "cross_entropy",
    seed: int = 0,
    max_bytes: int | None = None,
) -> SampledPathGradients:
    """The norm of the gradient along single paths, by the sampling of Veit et al.

    For a length k, draw k of the n blocks; pull the loss's gradient back through only the branches of these blocks and
    only the shortcuts of the others, at the activations of one ordinary forward pass; and record the norm at the input.
    Every example of the batch draws its own path, anew for every draw. If the blocks are not a chain, the path is drawn
    from the output back, with all paths of length k (see :func:`path_lengths`) equally likely.

    The norm of a single path is not a share of the norm of the gradient, because paths cancel. For their sum use
    :func:`gradient_by_length`.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts.
        lengths: the lengths to sample; None: 0..n.
        draws: number of draws per length and example, at least 2.
        at: ``"input"``, or a block, for paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        seed: seed of the sampled paths.
        max_bytes: as in :func:`gradient_by_length`.

    Returns:
        All norms, and their mean and standard error per length and example.

    Raises:
        ValueError: a length is out of range, there are too few draws, or as :func:`gradient_by_length`.

    Cost: one forward pass, and per length and draw one row of at most n branch products (a branch that no
    example of the batch takes is skipped). Memory: `draws` times the largest entry.

    Source: Veit, Wilber and Belongie (2016), section 5 and figure 6.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> drawn = sample_path_gradients(net, torch.randn(2, 3, 32, 32), [0, 3], lengths=[1, 8], draws=3)
        >>> drawn.norms.shape
        torch.Size([2, 3, 2])
        >>> drawn.standard_error[1].tolist()
        [0.0, 0.0]
    """
    if draws < 2:
        raise ValueError(f"expected at least 2 draws, as a standard error requires, got {draws}")
    record = pass_to_start(net, x, target, loss, at, max_bytes)
    counts = record.graph.counts
    longest = len(counts) - 1
    sampled = list(range(longest + 1)) if lengths is None else list(lengths)
    out_of_range = [length for length in sampled if not 0 <= length <= longest]
    if out_of_range or not sampled:
        raise ValueError(f"expected lengths from 0 to {longest}, got {out_of_range or sampled}")
    generator = seeded(seed)
    norms = torch.stack([_norms_of(record, length, draws, generator) for length in sampled])
    single = torch.tensor([counts[length] <= 1 for length in sampled], device=norms.device)[:, None]
    error = (norms.std(1) / math.sqrt(draws)).masked_fill(single, 0.0)
    return SampledPathGradients(
        n=record.n,
        loss=loss_name(loss),
        lengths=torch.tensor(sampled, device="cpu"),
        norms=norms,
        mean=norms.mean(1),
        standard_error=error,
        vjps=record.vjps,
        source=provenance(net.model, [x, target], record.seed.dtype, seed),
        counts=counts,
    )


def pooled(mean: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over examples of independent estimates (..., batch), with its standard error."""
    return mean.mean(-1), error.square().sum(-1).sqrt() / error.shape[-1]


def draw_masks(n: int, length: int, rows: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform random sets of `length` of n blocks, one per row and example, as bool (rows, batch, n)."""
    order = uniform((rows, batch, n), generator).argsort(-1)
    masks = torch.zeros(rows, batch, n, dtype=torch.bool, device="cpu")
    return masks.scatter_(-1, order[..., :length], True)


def _norms_of(record: ForwardPass, length: int, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Norms at the start, (draws, batch), each example along its own path, drawn uniformly among those of the length.

    At each vertex, an example takes an edge with probability proportional to the number of paths that continue along it
    with the remaining length. In a chain, that is a uniform random set of blocks, which is drawn at once.
    """
    graph = record.graph
    count, last = graph.counts[length], len(graph.vertices) - 1
    result = record.seed.new_zeros((draws, len(record.seed)))
    if not count:
        return result
    rows = 1 if count == 1 else draws
    remaining_at = {
        last: torch.full((rows, len(record.seed)), length, device="cpu")
    }  # number of branches still to enter; -1: the path is not at this vertex
    values = {last: record.seed.expand(rows, *record.seed.shape)}
    sets = draw_masks(graph.n, length, rows, len(record.seed), generator) if graph.is_chain else None
    for position in reversed(range(len(graph.vertices))):
        if position not in values:
            continue
        vertex, here = graph.vertices[position], values.pop(position)
        if not vertex.terms:
            return example_norms(here).expand(draws, -1)
        if sets is None:
            remaining = remaining_at.pop(position)
            choice = draw_edges(graph, position, remaining, generator)
            _note_remaining(graph, position, remaining, choice, remaining_at)
        elif vertex.block is None:
            choice = torch.zeros(here.shape[:2], dtype=torch.long, device="cpu")
        else:
            choice = sets[..., graph.blocks.index(vertex.block)].long()
        for part in record.chunks(rows, position, *{source for _, source in graph.edges(position)}):
            _send(record, position, here[part], choice[part], part, rows, values)
    return result


def _note_remaining(
    graph: PathGraph,
    position: int,
    remaining: torch.Tensor,
    choice: torch.Tensor,
    remaining_at: dict[int, torch.Tensor],
) -> None:
    """Record, at each vertex that paths continue to, how many branches they still have to enter."""
    for edge, (term, source) in enumerate(graph.edges(position)):
        going = torch.where(choice == edge, remaining - graph.shift(graph.vertices[position], term), -1)
        remaining_at[source] = torch.maximum(remaining_at[source], going) if source in remaining_at else going


def _send(
    record: ForwardPass,
    position: int,
    here: torch.Tensor,
    choice: torch.Tensor,
    part: slice,
    rows: int,
    values: dict[int, torch.Tensor],
) -> None:
    """Pull a part of the rows at a vertex along the chosen edges, into the rows that wait at the sources.

    Each path is at one vertex at a time, so what arrives replaces zeros.
    """
    first = 0
    for term in record.graph.vertices[position].terms:
        edges = range(first, first := first + len(term.sources))
        used = ((choice >= edges.start) & (choice < edges.stop)).any(1)
        if not used.any():
            continue
        all_used, at = bool(used.all()), used.nonzero()[:, 0].to(here.device)
        at_sources = dict(record.pull(position, term, here if all_used else here[at])[0])
        for edge, source in zip(edges, term.sources, strict=True):
            if source not in at_sources:
                continue
            arrived = at_sources[source]
            if source not in values:
                values[source] = zeros_for(arrived, rows)
            waiting, mask = values[source][part], (choice[used] == edge).to(here.device)
            arrived = arrived.to(waiting.dtype)
            mask = mask.view(*mask.shape, *(1,) * (arrived.ndim - 2))
            if all_used:
                torch.where(mask, arrived, waiting, out=waiting)
            else:
                waiting[at] = torch.where(mask, arrived, waiting[at])


def draw_edges(graph: PathGraph, position: int, remaining: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random edge for each entry of `remaining` (branches still to enter; -1: nothing to draw, and the result is -1).

    Probabilities come from exact path counts, divided as integers since they may exceed any float.
    """
    choice = torch.full_like(remaining, -1)
    edges = list(graph.edges(position))
    for length in remaining.unique().tolist():
        if length < 0:
            continue
        numbers = []
        for term, source in edges:
            counts, after = graph.counts_from(source), length - graph.shift(graph.vertices[position], term)
            numbers.append(counts[after] if 0 <= after < len(counts) else 0)
        total = sum(numbers)
        upper = torch.tensor(
            [sum(numbers[: edge + 1]) / total for edge in range(len(edges))], dtype=torch.float64, device="cpu"
        )
        selected = remaining == length
        coins = uniform((int(selected.sum()),), generator, torch.float64)
        choice[selected] = torch.searchsorted(upper, coins, right=True).clamp_max(len(edges) - 1)
    return choice
