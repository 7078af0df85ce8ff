"""The gradient split exactly by path length.

2^n paths have only n + 1 lengths, so the recursion carries one row per length through the blocks: a branch adds one to
the length of every path that takes it. The rows add up to the ordinary gradient, and the difference is reported as
`residual`. Beside `energy`, which does not let paths cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch

from ..arguments import checked
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ._norms import example_norms, relative_gap
from ._objective import Loss, loss_name
from .forward_pass import ForwardPass, pass_to_start
from .polynomial import kept_lengths, pull_polynomial


@dataclass(frozen=True, eq=False)
class GradientByLength(Record):
    """The gradient of a loss at the input or at a block's entry, by path length.

    Attributes:
        at: ``"input"``, or the name of the block at whose entry the gradient is taken.
        loss: the loss's name.
        blocks: names of the blocks whose branches are counted.
        lengths: 0..K, (L,).
        gradient: for each length, the sum of the gradients of all its paths, (L, batch, ...).
        total: the ordinary gradient, from one backward pass, (batch, ...).
        norms: Euclidean norm of `gradient` per length and example, (L, batch).
        total_norm: norm of the ordinary gradient, (batch,).
        share: ``<G_k, G> / |G|^2``, the signed share of each length in the gradient, (L, batch); the shares of all
            lengths sum to one.
        cosine: cosine between each length's gradient and the ordinary one, (L, batch); NaN where one of them is zero.
        entry_blocks: names of the blocks that the recursion passed, input side first, (m,).
        entry_norms: norms at each of these blocks' entries, (m, L, batch).
        stages: the stage of each of these blocks (a stage ends where the shape changes), (m,).
        residual: ``|sum_k G_k - G| / |G|`` over the batch; None if `max_length` cut off lengths.
        vjps: number of rows pulled back, by kind of piece.
        looped: pieces whose rows were pulled back one by one because an operation has no batching rule, with the
            reason.
        source: model, data, type and versions.
    """

    DIMENSIONS: ClassVar = {
        "gradient": "length example ...",
        "total": "example ...",
        "norms": "length example",
        "share": "length example",
        "cosine": "length example",
        "total_norm": "example",
        "entry_norms": "block length example",
        "stages": "block",
    }
    COORDINATES: ClassVar = {"length": "lengths", "block": "entry_blocks"}
    TABLE: ClassVar = ("norms", "share", "cosine")

    at: str
    loss: str
    blocks: tuple[str, ...]
    lengths: torch.Tensor
    gradient: torch.Tensor
    total: torch.Tensor
    norms: torch.Tensor
    total_norm: torch.Tensor
    share: torch.Tensor
    cosine: torch.Tensor
    entry_blocks: tuple[str, ...]
    entry_norms: torch.Tensor
    stages: tuple[int, ...]
    residual: float | None
    vjps: Mapping[str, int]
    looped: Mapping[str, str]
    source: Provenance = field(repr=False)

    def stage_norms(self) -> torch.Tensor:
        """Norms by length at the entry of each stage's first recorded block, (stages, L, batch)."""
        first = [self.stages.index(stage) for stage in sorted(set(self.stages))]
        return self.entry_norms[first]


@checked
@torch.inference_mode(False)
def gradient_by_length(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    at: BlockRef = "input",
    loss: Loss = "cross_entropy",
    max_length: int | None = None,
    blocks: Sequence[BlockRef] | None = None,
    max_bytes: int | None = None,
) -> GradientByLength:
    """The gradient split exactly by the number of branches that it flowed back through.

    At the activations of one ordinary forward pass, block i multiplies a gradient by ``D_i'(S_i' + J_i')`` with
    the Jacobians of its join, shortcut and branch. Expanded, that is a sum over 2^n paths. Replacing J_i by
    t J_i makes it a polynomial in t whose coefficient G_k is the sum over all C(n, k) paths of length k:

        G_k  <-  S_i' D_i' G_k + J_i' D_i' G_{k-1},        sum_k G_k = the ordinary gradient.

    Args:
        net: the unrolled network, its model in eval mode. A copy made by
            :func:`~resnet_paths.network.for_inference` gives the same numbers faster.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts: labels of tokens, numbers, ...
        at: ``"input"``, or a block, for the gradient at its entry, whose paths run through that block and later ones.
            For parameters see :func:`parameter_gradients_by_length`.
        loss: ``"cross_entropy"``, ``"logit"``, or a metric by name such as ``"next_token_loss"`` or
            ``"squared_error"`` (see :func:`~resnet_paths.lesion.metric_named`), each example's own mean over its
            tokens, pixels or numbers; all summed over the batch, so that each example has a gradient of its own. Or a
            function of output and target that returns a scalar.
        max_length: keep only the lengths 0..max_length.
        blocks: count only these blocks' branches (those of a stage, say); a path may pass the others either way.
        max_bytes: memory for the values of one batched product. None: 4 MiB on a CPU, beyond which values
            leave the cache, otherwise a quarter of the free memory. Halved whenever memory runs out.

    Returns:
        The coefficients, with their norms, shares and cosines with the total, and the norms at every block's entry.

    Raises:
        ValueError: the model is in training mode, the loss is not a scalar, a target is out of range, or there
            is no gradient.

    Cost: one forward pass, one backward pass, and n(n+1)/2 branch products (nK with max_length K) for n blocks.
    Memory: the forward pass's activations (on a CPU, those before a ReLU twice unless stored channels last), and two
    copies of the coefficients at the largest entry, ``2 (n+1)`` times its size. Branches of convolutions, norms and
    ReLUs are pulled back without autograd's engine, which still computes the total. A branch with an operation that has
    no batching rule is pulled back one coefficient at a time; `looped` names it. Each use of a shared parameter after
    the first costs a pass back through everything before it.

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
    counted = None if blocks is None else frozenset(net.indices(blocks))
    record = pass_to_start(net, x, target, loss, at, max_bytes, finer=True, counted=counted)
    lengths, complete = kept_lengths(record.graph, max_length)
    gradient, entries = _pull(record, lengths)
    (total,) = record.ordinary_gradient()
    norms, total_norm = example_norms(gradient), example_norms(total[None])[0]
    products = torch.einsum("kb...,b...->kb", gradient, total.to(gradient.dtype))
    return GradientByLength(
        at="input" if at == "input" else net[at].name,
        loss=loss_name(loss),
        blocks=record.counted_names,
        lengths=torch.arange(lengths, device="cpu"),
        gradient=gradient,
        total=total,
        norms=norms,
        total_norm=total_norm,
        share=products / total_norm**2,
        cosine=products / (norms * total_norm),
        entry_blocks=tuple(net[block].name for block in entries.blocks),
        entry_norms=entries.norms,
        stages=entries.stages,
        residual=relative_gap([gradient.sum(0)], [total]) if complete else None,
        vjps=record.vjps,
        looped=record.looped,
        source=provenance(net.model, [x, target], record.seed.dtype),
    )


@dataclass(frozen=True, eq=False)
class _Entries:
    """Norms by length, (m, L, batch), at the entries that a recursion passed, with the blocks' indices and stages."""

    blocks: tuple[int, ...]
    norms: torch.Tensor
    stages: tuple[int, ...]


def _pull(record: ForwardPass, lengths: int) -> tuple[torch.Tensor, _Entries]:
    """The coefficients at the start, zero for lengths without a gradient, and the norms at the blocks' entries."""
    entry_of = {block: record.position(record.net.segments.cuts[block].entry) for block in record.graph.blocks}
    blocks = tuple(block for block, position in entry_of.items() if position is not None)
    norms = record.seed.new_zeros((len(blocks), lengths, len(record.seed)))

    def note(position: int, rows: torch.Tensor) -> None:
        entry_norms = example_norms(rows)
        for row, block in enumerate(blocks):
            if entry_of[block] == position and entry_norms.shape[1] in (1, norms.shape[2]):
                norms[row, : len(entry_norms)] = entry_norms

    arrived = pull_polynomial(record, lengths, visit=note)
    if arrived is not None and len(arrived) == lengths:
        gradient = arrived
    else:
        gradient = record.start.new_zeros((lengths, *record.start.shape)).detach()
        if arrived is not None:
            gradient[: len(arrived)] = arrived
    sums = {vertex.block: record.value(position) for position, vertex in enumerate(record.graph.vertices)}
    return gradient, _Entries(blocks, norms, stages([sums[block] for block in blocks]))


def stages(sums: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """The stage of each block: a new stage starts with a block whose sum has another shape."""
    numbers = [0] if sums else []
    for before, value in pairwise(sums):
        numbers.append(numbers[-1] + int(before.shape[1:] != value.shape[1:]))
    return tuple(numbers)
