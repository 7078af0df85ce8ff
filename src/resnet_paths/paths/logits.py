"""The logits split by path length and by block, at the frozen pattern of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import checked
from ..graph.preserve import preserved
from ..network import UnrolledNetwork
from ..provenance import Provenance, dataset, provenance, table
from ..records import Record
from ._objective import check_eval, check_target
from ._piecewise import curved_operations
from .block_graph import BRANCH, PathGraph
from .forward_pass import ForwardPass, pass_of_values

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

PARTS = ("stem", "bias", "remainder")


@dataclass(frozen=True, eq=False)
class LogitsByLength(Record):
    """The network's output as a sum over path lengths.

    Attributes:
        lengths: 0..n, (L,).
        logits: sum over the paths of each length, (L, batch, classes).
        parts: the same by where paths start: ``"stem"`` (the first block's entry), ``"bias"`` (a constant inside
            a block or the head), ``"remainder"`` (what linearising a curved piece leaves over, its biases
            included).
        output: the network's output, (batch, classes).
        residual: ``max |sum - output| / max |output|``.
        curved: pieces that are not piecewise linear, with their operations; empty: the split is exact for the
            frozen pattern, else it is by linearisation.
        source: model, data and versions.
    """

    lengths: torch.Tensor
    logits: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    output: torch.Tensor
    residual: float
    curved: Mapping[str, tuple[str, ...]]
    source: Provenance = field(repr=False)

    def to_xarray(self) -> xr.Dataset:
        """Logits and parts with dimensions length, example and class."""
        dims = ("length", "example", "class")
        arrays = {"logit": self.logits, **self.parts}
        return dataset(
            {name: (dims, value) for name, value in arrays.items()},
            {"length": self.lengths},
            self.source,
            residual=self.residual,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each length, example and class."""
        return table(self.to_xarray())


@dataclass(frozen=True, eq=False)
class BlockContributions(Record):
    """What each block adds directly to each logit.

    Attributes:
        sources: ``"stem"``, ``"bias"``, ``"remainder"``, then the blocks' names, (n + 3,).
        contributions: (n + 3, batch, classes); sums to the output.
        of_target: to the target's logit, (n + 3, batch); None without targets.
        output: the network's output, (batch, classes).
        residual: ``max |sum - output| / max |output|``.
        curved: shortcuts and joins that are not piecewise linear, with their operations.
        source: model, data and versions.
    """

    sources: tuple[str, ...]
    contributions: torch.Tensor
    of_target: torch.Tensor | None
    output: torch.Tensor
    residual: float
    curved: Mapping[str, tuple[str, ...]]
    source: Provenance = field(repr=False)

    def to_xarray(self) -> xr.Dataset:
        """Contributions with dimensions source, example and class; those to the target's logit."""
        variables: dict[str, tuple[tuple[str, ...], Any]] = {
            "contribution": (("source", "example", "class"), self.contributions)
        }
        if self.of_target is not None:
            variables["of_target"] = (("source", "example"), self.of_target)
        return dataset(variables, {"source": list(self.sources)}, self.source, residual=self.residual)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each source, example and class."""
        return table(self.to_xarray()[["contribution"]])


@dataclass(frozen=True, eq=False)
class LogitLens(Record):
    """What the head reads from the stream after each block.

    Attributes:
        blocks: ``"stem"``, then the blocks' names, (n + 1,).
        logits: the head's output for the stream after each of them, (n + 1, batch, classes).
        source: model, data and versions.
    """

    blocks: tuple[str, ...]
    logits: torch.Tensor
    source: Provenance = field(repr=False)

    @property
    def probabilities(self) -> torch.Tensor:
        """Softmax over the classes, (n + 1, batch, classes)."""
        return self.logits.softmax(-1)

    def accuracy(self, target: torch.Tensor) -> torch.Tensor:
        """Share of the batch whose largest logit is the target's, after each block, (n + 1,)."""
        return (self.logits.argmax(-1) == check_target(self.logits[0], target)).double().mean(1)

    def to_xarray(self) -> xr.Dataset:
        """Logits and probabilities with dimensions block, example and class."""
        dims = ("block", "example", "class")
        variables = {"logit": (dims, self.logits), "probability": (dims, self.probabilities)}
        return dataset(variables, {"block": list(self.blocks)}, self.source)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each block, example and class."""
        return table(self.to_xarray())


@checked
@torch.inference_mode(False)
def logits_by_length(net: UnrolledNetwork, x: Any) -> LogitsByLength:
    """The logits split by the number of branches that their paths pass through, biases included.

    At the pattern of one forward pass (ReLU masks, arg max of pooling, batch norm in eval mode) every piece of
    the network is affine, ``f(y) = J y + c``. Multiply every branch by t: the output is a polynomial in t, and
    the coefficient of t^k sums all paths of length k,

        V_k = S Y_k + J Y_{k-1} + [k=0] c_shortcut + [k=1] c_branch,    Y'_k = D V_k + [k=0] c_join.

    Paths start at the stem's output, or where a constant enters: one that enters in a branch has passed that
    branch. All coefficients sum to the logits. A piece that is not piecewise linear (GELU, attention, squeeze
    and excite, layer norm) is linearised at its input; what that leaves over, ``f(y) - J y``, is carried as
    ``"remainder"`` and the piece named in `curved`. Where the blocks are no chain the same recursion runs over all sums
    (see :func:`path_lengths`), from all values that the stem makes; there constants between sums count as those of the
    shortcut or branch that reads them.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.

    Returns:
        The split, its parts by where paths start, and how far the sum is from the output.

    Raises:
        ValueError: the model is in training mode.

    Cost: one forward pass, and n(n+1) branch products forwards (Jacobian-vector products), 3/2 of that
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
    curved = curved_operations(net)
    parts = PARTS if curved else PARTS[:2]
    with preserved(net.model):  # a reparametrised layer keeps its weight of each run
        record = pass_of_values(net, x)
        rows = _push_polynomial(record, parts)
    output = record.output
    by_part = {part: rows[place] for place, part in enumerate(parts)}
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
def block_contributions(net: UnrolledNetwork, x: Any, target: Any = None) -> BlockContributions:
    """What each block adds to each logit directly: its output carried to the head by shortcuts alone.

    With the pattern frozen as in :func:`logits_by_length`, block i's output b_i reaches the logits without
    passing through a later branch as

        D_n S_n ... D_{i+1} S_{i+1} D_i b_i,

    and with the stem's share and the constants of shortcuts, joins and head these sum to the logits. What a
    block does by changing the input of later blocks is in their contributions, not in its own.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), to also pick the target's logit.

    Returns:
        Contributions of stem, biases, remainder and each block to each logit.

    Raises:
        ValueError: the model is in training mode, or a target out of range.

    Cost: one forward pass and about n^2/2 products of joins, none of branches.

    Source: ours, after direct logit attribution in transformers (Elhage et al. 2021).

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> found = block_contributions(net, torch.randn(2, 3, 32, 32), [0, 3])
        >>> found.contributions.shape, found.sources[-1], found.residual < 1e-4
        (torch.Size([11, 2, 5]), 'layer4.1', True)
    """
    curved = {piece: names for piece, names in curved_operations(net).items() if not piece.endswith(": branch")}
    with preserved(net.model):
        record = pass_of_values(net, x)
        rows = _push_contributions(record, len(net))
    output = record.output
    chosen = None
    if target is not None:
        classes = check_target(output, target)
        chosen = rows.gather(2, classes[None, :, None].expand(len(rows), -1, 1))[..., 0]
    return BlockContributions(
        sources=(*PARTS, *(block.name for block in net)),
        contributions=rows,
        of_target=chosen,
        output=output,
        residual=_residual(rows.sum(0), output),
        curved=curved,
        source=provenance(net.model, [x, target], output.dtype),
    )


@checked
def logit_lens(net: UnrolledNetwork, x: Any) -> LogitLens:
    """The head applied to the stream after each block.

    Stages of a convolutional network differ in width, so the stream after block i is carried to the head by the
    later blocks' shortcuts: the network at the gates (1, ..., 1, 0, ..., 0) with i ones. Blocks come in the order
    of their sums; one inside the branch of a later one counts only from that one on.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.

    Raises:
        ValueError: the model is in training mode.

    Cost: one forward pass, and n^2/2 products of shortcuts and joins.

    Source: nostalgebraist (2020) for transformers; carried over to stages by the shortcuts, as lesions are
    (Veit et al. 2016, section 4.1).

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
    """Coefficients (parts, lengths, *output shape) at the output: the recursion over the graph's vertices, forwards."""
    graph = record.graph
    rows: dict[int, torch.Tensor] = {}
    done = _done_after(graph)
    for place, vertex in enumerate(graph.vertices):
        if place in graph.starts:
            rows[place] = record.value(place).new_zeros((len(parts), 1, *record.value(place).shape))
            rows[place][0, 0] = record.value(place)
            continue
        value, longest = record.value(place), graph.degrees[place]
        total = value.new_zeros((len(parts), longest + 1, *value.shape))
        for term in vertex.terms:
            shift, constant = graph.shift(vertex, term), record.term(place, term)
            met = max((rows[source].shape[1] for source in term.sources), default=0)
            at_sources = [_padded(rows[source], met).flatten(0, 1) for source in term.sources]
            pushed = record.push(place, term, at_sources)
            if pushed is not None:
                lead = (1,) * (value.ndim - constant.ndim)  # a term of fewer dimensions is broadcast over the sum
                pushed = pushed.reshape(len(parts), met, *lead, *constant.shape)
                total[:, shift : shift + met] += pushed
                constant = constant - pushed.sum((0, 1))
            kind = "remainder" if record.is_curved(place, term) else "bias"
            total[parts.index(kind), shift] += constant
        rows[place] = total
        for source in done.get(place, ()):
            del rows[source]
    return rows[len(graph.vertices) - 1]


def _done_after(graph: PathGraph) -> dict[int, list[int]]:
    """For each vertex those whose rows it is the last to read."""
    done: dict[int, list[int]] = {}
    readers = {source: place for place, v in enumerate(graph.vertices) for t in v.terms for source in t.sources}
    for source, reader in readers.items():
        done.setdefault(reader, []).append(source)
    return done


def _padded(rows: torch.Tensor, lengths: int) -> torch.Tensor:
    """Coefficients (parts, lengths, ...) with zeros for the lengths that they lack."""
    missing = lengths - rows.shape[1]
    return torch.cat([rows, rows.new_zeros((len(rows), missing, *rows.shape[2:]))], 1) if missing else rows


def _push_contributions(record: ForwardPass, n: int) -> torch.Tensor:
    """Rows (3 + n, *output shape) at the output: what each source gives by shortcuts alone."""
    graph = record.graph
    rows: dict[int, torch.Tensor] = {}
    done = _done_after(graph)
    for place, vertex in enumerate(graph.vertices):
        value = record.value(place)
        total = value.new_zeros((len(PARTS) + n, *value.shape))
        if place in graph.starts:
            total[0] = value
        for term in vertex.terms:
            if term.kind == BRANCH:
                assert vertex.block is not None
                total[len(PARTS) + vertex.block] += record.term(place, term)
                continue
            constant, present = record.term(place, term), _present(rows, term.sources)
            pushed = record.push(place, term, [rows[source][present] for source in term.sources])
            if pushed is not None:
                total[present] += pushed
                constant = constant - pushed.sum(0)
            total[PARTS.index("remainder" if record.is_curved(place, term) else "bias")] += constant
        rows[place] = total
        for source in done.get(place, ()):
            del rows[source]
    return rows[len(graph.vertices) - 1]


def _present(rows: dict[int, torch.Tensor], places: Sequence[int]) -> list[int]:
    """The rows that are not all zero at one of some vertices."""
    flags = [rows[place].flatten(1).any(1) for place in places]
    return [] if not flags else torch.stack(flags).any(0).nonzero()[:, 0].tolist()


def _residual(total: torch.Tensor, output: torch.Tensor) -> float:
    return float((total - output).abs().max() / output.abs().max().clamp_min(torch.finfo(output.dtype).tiny))
