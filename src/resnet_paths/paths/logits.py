"""The logits split by path length and by block, with the activation pattern of one forward pass frozen.

The gradient analyses pull rows back; these push values forward, because biases enter along the way and a path may start
at each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..arguments import checked
from ..choices import Linearisation
from ..graph.preserve import preserved
from ..network import UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ._objective import check_eval, check_target
from ._piecewise import curved_operations
from .block_graph import BRANCH, PathGraph
from .forward_pass import ForwardPass, pass_of_values

PARTS = ("stem", "bias", "remainder")


_OUTPUTS = "; read the outputs themselves in logits"


@dataclass(frozen=True, eq=False)
class LogitsByLength(Record):
    """The network's output as a sum over path lengths.

    Attributes:
        lengths: 0..n, (L,).
        logits: sum over the paths of each length, (L, batch, classes).
        parts: the same, split by where paths start: ``"stem"`` (the first block's entry), ``"bias"`` (a constant
            inside a block or the head), ``"remainder"`` (the linearisation remainder of a curved piece, including its
            biases).
        output: the network's output, (batch, classes).
        residual: ``max |sum - output| / max |output|``.
        curved: pieces whose linear map leaves a remainder, with their operations. If empty, the split is exact for the
            frozen pattern.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "logits": "length example ... class",
        "parts": "length example ... class",
        "output": "example ... class",
    }
    COORDINATES: ClassVar = {"length": "lengths"}
    TABLE: ClassVar = ("logits", "parts")

    lengths: torch.Tensor
    logits: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    output: torch.Tensor
    residual: float
    curved: Mapping[str, tuple[str, ...]]
    source: Provenance = field(repr=False)


@dataclass(frozen=True, eq=False)
class BlockContributions(Record):
    """What each block adds directly to each logit.

    Attributes:
        sources: ``"stem"``, ``"bias"``, ``"remainder"``, then the blocks' names, (n + 3,).
        contributions: contributions to each logit, (n + 3, batch, classes); they sum to the output.
        of_target: contributions to the target's logit, (n + 3, batch); None without targets.
        output: the network's output, (batch, classes).
        residual: ``max |sum - output| / max |output|``.
        curved: shortcuts and joins whose linear map leaves a remainder, with their operations.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "contributions": "source example ... class",
        "of_target": "source example ...",
        "output": "example ... class",
    }
    COORDINATES: ClassVar = {"source": "sources"}
    TABLE: ClassVar = ("contributions",)

    sources: tuple[str, ...]
    contributions: torch.Tensor
    of_target: torch.Tensor | None
    output: torch.Tensor
    residual: float
    curved: Mapping[str, tuple[str, ...]]
    source: Provenance = field(repr=False)


@dataclass(frozen=True, eq=False)
class LogitLens(Record):
    """The head's predictions from the stream after each block.

    Attributes:
        blocks: ``"stem"``, then the blocks' names, (n + 1,).
        logits: the head's output for the stream after each of these, (n + 1, batch, classes).
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {
        "logits": "block example ... class",
        "probabilities": "block example ... class",
    }
    COORDINATES: ClassVar = {"block": "blocks"}

    blocks: tuple[str, ...]
    logits: torch.Tensor
    source: Provenance = field(repr=False)

    @property
    def probabilities(self) -> torch.Tensor | None:
        """Softmax over the last axis, (n + 1, batch, classes), or of each token, (n + 1, batch, tokens, classes).

        None for outputs of another form: one number per example, or maps.
        """
        return self.logits.softmax(-1) if self.logits.ndim in (3, 4) and self.logits.shape[-1] > 1 else None

    def accuracy(self, target: torch.Tensor) -> torch.Tensor:
        """The accuracy on the batch after each block, (n + 1,)."""
        return (self.logits.argmax(-1) == check_target(self.logits[0], target, _OUTPUTS)).double().mean(1)


@checked
@torch.inference_mode(False)
def logits_by_length(net: UnrolledNetwork, x: Any, *, linearise: Linearisation = "frozen") -> LogitsByLength:
    """The logits split by the number of branches that their paths pass through, biases included.

    With the activation pattern of one forward pass frozen (ReLU masks, arg max of pooling, batch norm in eval mode),
    every piece of the network is affine, ``f(y) = J y + c``. If every branch is multiplied by t, the output is a
    polynomial in t whose coefficient of t^k is the sum over all paths of length k,

        V_k = S Y_k + J Y_{k-1} + [k=0] c_shortcut + [k=1] c_branch,    Y'_k = D V_k + [k=0] c_join.

    Paths start at the stem's output, or where a constant enters; a path that starts in a branch has taken that branch.
    The coefficients sum to the logits. A curved operation f (GELU, attention, squeeze and excite, layer norm) becomes a
    linear map in one of two ways:

    - ``"frozen"``: the map that reproduces the value, f(y) = A y. The quantities with which the operation decides are
      constant: standard deviations of norms, attention weights, gates, the ratio f(y)/y of an activation. Only biases
      remain. An operation without such a map keeps its derivative; its remainder, ``f(y) - J y``, is carried as
      ``"remainder"``, and its piece is listed in `curved`.
    - ``"tangent"``: the derivative for all, with its remainder. Since layer norm does not change when its input is
      scaled, the derivative maps its input to zero: in a transformer, nearly everything is remainder.

    If the blocks are not a chain, the same recursion runs over all sums (see
    :func:`path_lengths`), starting at all values from the stem; a constant between sums then counts as part of the
    shortcut or branch that reads it.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        linearise: the linear map in place of a curved operation.

    Returns:
        The split, its parts by where paths start, and the difference between their sum and the output.

    Raises:
        ValueError: the model is in training mode.

    Cost: one forward pass, and n(n+1) Jacobian-vector products of branches, 1.5 times as many
    with remainders. Memory: 2 (n+1) times the largest entry (3 (n+1) with remainders).

    Source: the unrolled view is that of Veit, Wilber and Belongie (2016), section 3; the split is ours.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> split = logits_by_length(net, torch.randn(2, 3, 32, 32))
        >>> split.logits.shape, split.residual < 1e-4, len(split.curved)
        (torch.Size([9, 2, 5]), True, 0)
    """
    curved = curved_operations(net, linearise=linearise)
    parts = PARTS if curved else PARTS[:2]
    with preserved(net.model):  # a reparametrised layer stores the weight of each run
        record = pass_of_values(net, x, linearise)
        rows = _push_polynomial(record, parts)
    output = record.output
    by_part = {part: rows[position] for position, part in enumerate(parts)}
    by_part.setdefault("remainder", torch.zeros_like(by_part["stem"]))
    return LogitsByLength(
        lengths=torch.arange(rows.shape[1], device="cpu"),
        logits=rows.sum(0),
        parts=by_part,
        output=output,
        residual=_residual(rows.sum((0, 1)), output),
        curved=curved,
        source=provenance(net.model, [x], output.dtype),
    )


@checked
@torch.inference_mode(False)
def block_contributions(
    net: UnrolledNetwork, x: Any, target: Any = None, *, linearise: Linearisation = "frozen"
) -> BlockContributions:
    """What each block adds directly to each logit: its output carried to the head by shortcuts alone.

    With the pattern frozen as in :func:`logits_by_length`, the output b_i of block i's branch reaches the logits
    without passing through a later branch as

        D_n S_n ... D_{i+1} S_{i+1} D_i b_i,

    and together with the stem's share and the constants of shortcuts, joins and head these sum to the logits. The
    effect of a block through the inputs of later blocks is part of their contributions, not of this block's.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), to also select the target's logit.
        linearise: as in :func:`logits_by_length`.

    Returns:
        Contributions of stem, biases, remainder and each block to each logit.

    Raises:
        ValueError: the model is in training mode, or a target is out of range.

    Cost: one forward pass and about n^2/2 products of joins, none of branches.

    Source: ours, after direct logit attribution in transformers (Elhage et al. 2021).

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> split = block_contributions(net, torch.randn(2, 3, 32, 32), [0, 3])
        >>> split.contributions.shape, split.sources[-1], split.residual < 1e-4
        (torch.Size([11, 2, 5]), 'layer4.1', True)
    """
    curved = {
        piece: names
        for piece, names in curved_operations(net, linearise=linearise).items()
        if not piece.endswith(": branch")
    }
    with preserved(net.model):
        record = pass_of_values(net, x, linearise)
        rows = _push_contributions(record, len(net))
    output = record.output
    of_target = None
    if target is not None:
        classes = check_target(output, target)
        of_target = rows.gather(2, classes[None, :, None].expand(len(rows), -1, 1))[..., 0]
    return BlockContributions(
        sources=(*PARTS, *(block.name for block in net)),
        contributions=rows,
        of_target=of_target,
        output=output,
        residual=_residual(rows.sum(0), output),
        curved=curved,
        source=provenance(net.model, [x, target], output.dtype),
    )


@checked
def logit_lens(net: UnrolledNetwork, x: Any) -> LogitLens:
    """The head applied to the stream after each block.

    The stages of a convolutional network differ in width, so the stream after block i is carried to the head by the
    later blocks' shortcuts: the network at gates (1, ..., 1, 0, ..., 0) with i ones. Blocks come in the order of their
    sums; a block inside the branch of a later one has an effect only from that one on.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.

    Raises:
        ValueError: the model is in training mode.

    Cost: one forward pass, and n^2/2 products of shortcuts and joins.

    Source: nostalgebraist (2020) for transformers; extended to stages by means of the shortcuts, as in the lesions of
    Veit et al. (2016), section 4.1.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> x = torch.randn(2, 3, 32, 32)
        >>> lens = logit_lens(net, x)
        >>> lens.logits.shape, bool(torch.allclose(lens.logits[-1], net(x), atol=1e-5))
        (torch.Size([9, 2, 5]), True)
    """
    check_eval(net)
    stairs = torch.ones(len(net) + 1, len(net), device="cpu").tril(-1)
    with torch.no_grad():
        logits = net(x, stairs)
    names = ("stem", *(block.name for block in net))
    return LogitLens(blocks=names, logits=logits, source=provenance(net.model, [x], logits.dtype))


def _push_polynomial(record: ForwardPass, parts: tuple[str, ...]) -> torch.Tensor:
    """Coefficients (parts, lengths, *output shape) at the output, by a forward recursion over the graph's vertices."""
    graph = record.graph
    rows: dict[int, torch.Tensor] = {}
    done = _done_after(graph)
    for position, vertex in enumerate(graph.vertices):
        if position in graph.starts:
            rows[position] = record.value(position).new_zeros((len(parts), 1, *record.value(position).shape))
            rows[position][0, 0] = record.value(position)
            continue
        value, longest = record.value(position), graph.degrees[position]
        total = value.new_zeros((len(parts), longest + 1, *value.shape))
        for term in vertex.terms:
            shift, constant = graph.shift(vertex, term), record.term(position, term)
            met = max((rows[source].shape[1] for source in term.sources), default=0)
            at_sources = [_padded(rows[source], met).flatten(0, 1) for source in term.sources]
            pushed = record.push(position, term, at_sources)
            if pushed is not None:
                lead = (1,) * (value.ndim - constant.ndim)  # a term with fewer dimensions is broadcast to the sum
                pushed = pushed.reshape(len(parts), met, *lead, *constant.shape)
                total[:, shift : shift + met] += pushed
                constant = constant - pushed.sum((0, 1))
            kind = "remainder" if record.is_curved(position, term) else "bias"
            total[parts.index(kind), shift] += constant
        rows[position] = total
        for source in done.get(position, ()):
            del rows[source]
    return rows[len(graph.vertices) - 1]


def _done_after(graph: PathGraph) -> dict[int, list[int]]:
    """For each vertex, the vertices whose rows it is the last to read."""
    done: dict[int, list[int]] = {}
    readers = {source: position for position, v in enumerate(graph.vertices) for t in v.terms for source in t.sources}
    for source, reader in readers.items():
        done.setdefault(reader, []).append(source)
    return done


def _padded(rows: torch.Tensor, lengths: int) -> torch.Tensor:
    """Coefficients (parts, lengths, ...), padded with zeros to the given number of lengths."""
    missing = lengths - rows.shape[1]
    return torch.cat([rows, rows.new_zeros((len(rows), missing, *rows.shape[2:]))], 1) if missing else rows


def _push_contributions(record: ForwardPass, n: int) -> torch.Tensor:
    """Rows (3 + n, *output shape) at the output: what each source contributes by shortcuts alone."""
    graph = record.graph
    rows: dict[int, torch.Tensor] = {}
    done = _done_after(graph)
    for position, vertex in enumerate(graph.vertices):
        value = record.value(position)
        total = value.new_zeros((len(PARTS) + n, *value.shape))
        if position in graph.starts:
            total[0] = value
        for term in vertex.terms:
            if term.kind == BRANCH:
                assert vertex.block is not None
                total[len(PARTS) + vertex.block] += record.term(position, term)
                continue
            constant, present = record.term(position, term), _nonzero_rows(rows, term.sources)
            pushed = record.push(position, term, [rows[source][present] for source in term.sources])
            if pushed is not None:
                total[present] += pushed
                constant = constant - pushed.sum(0)
            total[PARTS.index("remainder" if record.is_curved(position, term) else "bias")] += constant
        rows[position] = total
        for source in done.get(position, ()):
            del rows[source]
    return rows[len(graph.vertices) - 1]


def _nonzero_rows(rows: dict[int, torch.Tensor], positions: Sequence[int]) -> list[int]:
    """The indices of rows that are nonzero at any of the vertices."""
    flags = [rows[position].flatten(1).any(1) for position in positions]
    return [] if not flags else torch.stack(flags).any(0).nonzero()[:, 0].tolist()


def _residual(total: torch.Tensor, output: torch.Tensor) -> float:
    return float((total - output).abs().max() / output.abs().max().clamp_min(torch.finfo(output.dtype).tiny))
