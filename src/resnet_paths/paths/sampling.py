"""Gradients of single paths, drawn at random within each length (Veit et al.)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arguments import checked
from ..draws import seeded, uniform
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, dataset, provenance, table
from ..records import Record, as_array
from ..statistics import norm_intervals, pooled_norm_intervals
from ._norms import example_norms
from ._objective import Loss, loss_name
from .block_graph import PathGraph
from .forward_pass import ForwardPass, pass_to_start
from .pulling import zeros_for

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, eq=False)
class SampledPathGradients(Record):
    """Norms of the gradients that single random paths carry, stratified by length.

    Attributes:
        n: number of blocks that the paths choose among.
        loss: the loss's name.
        lengths: the lengths sampled, (L,).
        norms: Euclidean norm for each length, draw and example, (L, draws, batch); 0 where no path has that length.
        mean: over the draws, (L, batch): the estimate of the mean over all C(n, k) paths.
        standard_error: of that mean, (L, batch); 0 for lengths of one path (0 and n of a chain).
        vjps: rows pulled back, by kind of piece.
        source: model, data, seed and versions.
        counts: the number of paths of each length, from 0 to the longest.
    """

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

        See :func:`resnet_paths.statistics.norm_intervals`; the mean itself for lengths of one path, infinite above
        where all draws are alike though there are several paths.
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
        """As tensors of the mean's kind, and the mean where there is but one path."""
        single = torch.tensor([self.counts[length] <= 1 for length in self.lengths.tolist()], device=mean.device)
        single = single.view(-1, *[1] * (mean.ndim - 1))
        ends = [torch.from_numpy(np.asarray(end)).to(mean) for end in (low, high)]
        return torch.where(single, mean, ends[0]), torch.where(single, mean, ends[1])

    def to_xarray(self) -> xr.Dataset:
        """The norms with dimensions length, sample and example; mean and standard error."""
        return dataset(
            {
                "norm": (("length", "sample", "example"), self.norms),
                "mean": (("length", "example"), self.mean),
                "standard_error": (("length", "example"), self.standard_error),
            },
            {"length": self.lengths},
            self.source,
            n=self.n,
            loss=self.loss,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each length and example: mean, standard_error."""
        return table(self.to_xarray()[["mean", "standard_error"]])


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
    """The norm of the gradient along single paths, by Veit's sampling.

    For a length k draw k of the n blocks; pull the loss's gradient back through those blocks' branches alone and
    elsewhere through the shortcut alone, at the activations of the one ordinary forward pass; record the norm
    at the input. Every example of the batch draws a path of its own, anew for every sample. Where the blocks are no
    chain, the path is drawn from the output back, each of the paths of length k (see :func:`path_lengths`) equally
    likely.

    The norm of one path is not a part of the norm of the gradient: paths cancel. What they sum up to is
    :func:`gradient_by_length`.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or what the loss takes.
        lengths: the lengths to sample; None: 0..n.
        draws: draws for each length and example, at least 2.
        at: ``"input"``, or a block, for paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        seed: of the paths drawn.
        max_bytes: as in :func:`gradient_by_length`.

    Returns:
        All norms, and their mean and standard error for each length and example.

    Raises:
        ValueError: a length is out of range, there are too few draws, or as :func:`gradient_by_length`.

    Cost: one forward pass, and for each length and sample one row of at most n branch products (a branch that
    no example of the batch takes is skipped). Memory: `draws` times the largest entry.

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
        raise ValueError(f"expected at least 2 draws, which a standard error needs, got {draws}")
    record = pass_to_start(net, x, target, loss, at, max_bytes)
    counts = record.graph.counts
    longest = len(counts) - 1
    wanted = list(range(longest + 1)) if lengths is None else list(lengths)
    wrong = [length for length in wanted if not 0 <= length <= longest]
    if wrong or not wanted:
        raise ValueError(f"expected lengths from 0 to {longest}, got {wrong or wanted}")
    generator = seeded(seed)
    norms = torch.stack([_norms_of(record, length, draws, generator) for length in wanted])
    single = torch.tensor([counts[length] <= 1 for length in wanted], device=norms.device)[:, None]
    error = (norms.std(1) / math.sqrt(draws)).masked_fill(single, 0.0)
    return SampledPathGradients(
        n=record.n,
        loss=loss_name(loss),
        lengths=torch.tensor(wanted, device="cpu"),
        norms=norms,
        mean=norms.mean(1),
        standard_error=error,
        vjps=record.vjps,
        source=provenance(net.model, [x, target], record.seed.dtype, seed),
        counts=counts,
    )


def pooled(mean: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over examples of independent estimates (..., batch), and its standard error."""
    return mean.mean(-1), error.square().sum(-1).sqrt() / error.shape[-1]


def draw_masks(n: int, length: int, rows: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform random sets of `length` of n blocks, one for each row and example: (rows, batch, n) of bool."""
    order = uniform((rows, batch, n), generator).argsort(-1)
    chosen = torch.zeros(rows, batch, n, dtype=torch.bool, device="cpu")
    return chosen.scatter_(-1, order[..., :length], True)


def _norms_of(record: ForwardPass, length: int, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Norms at the start, (draws, batch): each example along a path of its own, all of the length alike likely.

    At each vertex an example goes on along an edge with probability proportional to the number of paths, of the length
    that is left, that begin with it. In a chain that is a uniform random set of blocks, drawn at once.
    """
    graph = record.graph
    count, last = graph.counts[length], len(graph.vertices) - 1
    result = record.seed.new_zeros((draws, len(record.seed)))
    if not count:
        return result
    rows = 1 if count == 1 else draws
    left = {
        last: torch.full((rows, len(record.seed)), length, device="cpu")
    }  # branches still to enter; -1: the path is not here
    values = {last: record.seed.expand(rows, *record.seed.shape)}
    sets = draw_masks(graph.n, length, rows, len(record.seed), generator) if graph.is_chain else None
    for place in reversed(range(len(graph.vertices))):
        if place not in values:
            continue
        vertex, here = graph.vertices[place], values.pop(place)
        if not vertex.terms:
            return example_norms(here).expand(draws, -1)
        if sets is None:
            remaining = left.pop(place)
            choice = draw_edges(graph, place, remaining, generator)
            _note_left(graph, place, remaining, choice, left)
        elif vertex.block is None:
            choice = torch.zeros(here.shape[:2], dtype=torch.long, device="cpu")
        else:
            choice = sets[..., graph.blocks.index(vertex.block)].long()
        for part in record.chunks(rows, place, *{source for _, source in graph.edges(place)}):
            _send(record, place, here[part], choice[part], part, rows, values)
    return result


def _note_left(
    graph: PathGraph, place: int, remaining: torch.Tensor, choice: torch.Tensor, left: dict[int, torch.Tensor]
) -> None:
    """For each vertex that paths go on to: how many branches they are still to enter there."""
    for edge, (term, source) in enumerate(graph.edges(place)):
        going = torch.where(choice == edge, remaining - graph.shift(graph.vertices[place], term), -1)
        left[source] = torch.maximum(left[source], going) if source in left else going


def _send(
    record: ForwardPass,
    place: int,
    here: torch.Tensor,
    choice: torch.Tensor,
    part: slice,
    rows: int,
    values: dict[int, torch.Tensor],
) -> None:
    """Send a part of the rows at a vertex on along the edges chosen, to those that wait at the sources.

    Each path is at one vertex at a time, so what arrives takes the place of the zeros that wait there.
    """
    first = 0
    for term in record.graph.vertices[place].terms:
        edges = range(first, first := first + len(term.sources))
        used = ((choice >= edges.start) & (choice < edges.stop)).any(1)
        if not used.any():
            continue
        every, at = bool(used.all()), used.nonzero()[:, 0].to(here.device)
        handed_on = dict(record.pull(place, term, here if every else here[at])[0])
        for edge, source in zip(edges, term.sources, strict=True):
            if source not in handed_on:
                continue
            arrived = handed_on[source]
            if source not in values:
                values[source] = zeros_for(arrived, rows)
            waiting, mask = values[source][part], (choice[used] == edge).to(here.device)
            arrived = arrived.to(waiting.dtype)
            mask = mask.view(*mask.shape, *(1,) * (arrived.ndim - 2))
            if every:
                torch.where(mask, arrived, waiting, out=waiting)
            else:
                waiting[at] = torch.where(mask, arrived, waiting[at])


def draw_edges(graph: PathGraph, place: int, remaining: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each entry of `remaining` (branches still to enter; -1: nothing to draw) a random edge, -1 for none.

    Exact numbers of paths decide; they are divided as integers, so that huge ones do no harm.
    """
    choice = torch.full_like(remaining, -1)
    edges = list(graph.edges(place))
    for left in remaining.unique().tolist():
        if left < 0:
            continue
        numbers = []
        for term, source in edges:
            counts, rest = graph.counts_from(source), left - graph.shift(graph.vertices[place], term)
            numbers.append(counts[rest] if 0 <= rest < len(counts) else 0)
        total = sum(numbers)
        upper = torch.tensor(
            [sum(numbers[: edge + 1]) / total for edge in range(len(edges))], dtype=torch.float64, device="cpu"
        )
        here = remaining == left
        coins = uniform((int(here.sum()),), generator, torch.float64)
        choice[here] = torch.searchsorted(upper, coins, right=True).clamp_max(len(edges) - 1)
    return choice
