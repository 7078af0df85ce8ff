"""The contracted graph: how the blocks' sums depend on one another, and the paths that result.

Vertices are the start (the input, or the entry of the block given by ``at``), every block's sum, and the output. A
block's shortcut term, its branch term (parallel branches together), and the output each have one edge back to every
sum, or to the start, that they depend on without passing another sum. There is one edge per term and sum, however many
operations lie between (in ``x * sigmoid(x)`` both uses of x form one edge, its partial derivative). A *path* is a walk
from the output back to the start; its *length* is the number of branch terms that it enters. A chain of n blocks has
2^n paths, C(n, k) of length k. In other graphs the longest path may be shorter than the number of blocks (a path takes
only one of two parallel blocks), and there may be no path of length 0 (a class token without a shortcut to the input).

All of this depends only on where the sums are, not on how the graph is cut into pieces to be run. There are two layers:
:class:`PathGraph` holds only integers (it counts, numbers and draws paths, and can be kept in records), and
:func:`contract` derives it from a program, in one pass with a bit mask per node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from ..graph import operations
from ..graph.blocks import Cut
from ..graph.dataflow import data_arguments
from ..graph.pieces import Segments
from ..network import UnrolledNetwork

JOIN, SHORTCUT, BRANCH = "join", "shortcut", "branch"

_WITHOUT_GRADIENT = {
    "detach", "eq", "ne", "gt", "lt", "ge", "le", "logical_not", "logical_and", "logical_or", "argmax", "argmin",
    "argsort", "bool", "long", "int", "invert", "isnan", "sign",
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """A term of a vertex, and where a path that enters it can continue.

    Attributes:
        kind: ``"shortcut"`` or ``"branch"`` of a sum; ``"join"`` for anything else (the output).
        sources: positions of the vertices that the term depends on directly, earliest first.
    """

    kind: str
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Vertex:
    """A sum, the output, or (without terms) a start.

    Attributes:
        block: index of the block whose sum it is; None for starts, entries and the output.
        terms: its terms, the shortcut first.
    """

    block: int | None
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Step:
    """A block through which all rows go from one vertex to one other, so that it can be passed in one go.

    Attributes:
        exit: the later vertex: the block's sum, or the only reader of that sum.
        total: the sum.
        entry: the earlier vertex, which both shortcut and branch read.
    """

    exit: int
    total: int
    entry: int


@dataclass(frozen=True)
class PathGraph:
    """The vertices in order of computation: starts first, the output last.

    Paths are numbered from 0 (their *rank*): at each vertex, paths that continue by the shortcut come before those that
    continue by the branch. In a chain, bit i of the rank tells whether branch i is taken.

    Attributes:
        vertices: all vertices.
        counted: the blocks whose branches count towards the length; None: all.
    """

    vertices: tuple[Vertex, ...]
    counted: frozenset[int] | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose sums lie on paths."""
        return tuple(vertex.block for vertex in self.vertices if vertex.block is not None)

    @property
    def starts(self) -> tuple[int, ...]:
        """The positions of the vertices at which paths start."""
        return tuple(
            position for position, vertex in enumerate(self.vertices[:-1]) if vertex.block is None and not vertex.terms
        )

    @property
    def n(self) -> int:
        """The number of blocks on paths."""
        return len(self.blocks)

    @property
    def counts(self) -> tuple[int, ...]:
        """The exact number of paths of each length, from 0 to the longest."""
        return self.counts_from(len(self.vertices) - 1)

    @property
    def paths(self) -> int:
        """The exact number of paths."""
        return sum(self.counts)

    @property
    def max_length(self) -> int:
        """The length of the longest walk from the output, including walks that do not reach a start."""
        return self.degrees[-1]

    @property
    def is_chain(self) -> bool:
        """Whether every term reads only the previous vertex, so that each value determines everything after it."""
        return all(t.sources == (position - 1,) for position, vertex in enumerate(self.vertices) for t in vertex.terms)

    @cached_property
    def steps(self) -> dict[int, Step]:
        """The block that all rows at a vertex pass on their way to one other vertex, for each vertex that has one."""
        readers = Counter(source for vertex in self.vertices for term in vertex.terms for source in set(term.sources))
        steps: dict[int, Step] = {}
        for position, vertex in enumerate(self.vertices):
            total = position
            if vertex.block is None and len(vertex.terms) == 1 and len(vertex.terms[0].sources) == 1:
                total = vertex.terms[0].sources[0]
                if readers[total] > 1:
                    continue
            if self.vertices[total].block is not None:
                shortcut, branch = self.vertices[total].terms
                if shortcut.sources == branch.sources and len(branch.sources) == 1:
                    steps[position] = Step(position, total, branch.sources[0])
        return steps

    def shift(self, vertex: Vertex, term: Term) -> int:
        """How much a term adds to the length of a path: 1 for branches that count, otherwise 0."""
        return int(term.kind == BRANCH and (self.counted is None or vertex.block in self.counted))

    def counts_from(self, position: int) -> tuple[int, ...]:
        """The exact number of walks from a vertex back to a start, by length."""
        return self._counts[position]

    def weighted_counts(self, weights: Sequence[float]) -> list[float]:
        """For each length, the sum over its paths of the product of their branches' weights."""
        return list(self._polynomials(weights)[-1])

    @cached_property
    def _counts(self) -> list[tuple[int, ...]]:
        return [tuple(int(number) for number in counts) for counts in self._polynomials(None)]

    def _polynomials(self, weights: Sequence[float] | None) -> list[list[float]]:
        polynomials: list[list[float]] = []
        for vertex in self.vertices:
            total: list[float] = [] if vertex.terms else [1]
            for term in vertex.terms:
                entered = term.kind == BRANCH and weights is not None and vertex.block is not None
                weight = weights[vertex.block] if entered else 1  # type: ignore[index]
                shift = self.shift(vertex, term)
                for source in term.sources:
                    _add_shifted(total, polynomials[source], shift, weight)
            polynomials.append(total)
        return polynomials

    @cached_property
    def degrees(self) -> list[int]:
        """The length of the longest walk back from each vertex, including walks that do not reach a start."""
        degrees: list[int] = []
        for vertex in self.vertices:
            degrees.append(
                max(
                    (
                        self.shift(vertex, term) + max((degrees[source] for source in term.sources), default=0)
                        for term in vertex.terms
                    ),
                    default=0,
                )
            )
        return degrees

    def edges(self, position: int) -> Iterator[tuple[Term, int]]:
        """The edges of a vertex, in the order of ranks: a term and one of its sources."""
        for term in self.vertices[position].terms:
            for source in term.sources:
                yield term, source

    def offsets(self, position: int) -> list[int]:
        """For each edge of a vertex, the number of walks from there with a lower rank than those that take it."""
        return self._offsets[position]

    @cached_property
    def _offsets(self) -> list[list[int]]:
        numbers = [sum(counts) for counts in self._counts]
        offsets = []
        for position in range(len(self.vertices)):
            before, vertex_offsets = 0, []
            for _, source in self.edges(position):
                vertex_offsets.append(before)
                before += numbers[source]
            offsets.append(vertex_offsets)
        return offsets

    def lengths_by_rank(self) -> list[int]:
        """The length of every path, in order of rank.

        Cost: two numbers per path.

        Example:
            >>> chain_graph(2).lengths_by_rank()
            [0, 1, 1, 2]
        """
        lengths: list[list[int]] = []
        for position, vertex in enumerate(self.vertices):
            ways = [(self.shift(vertex, term), source) for term, source in self.edges(position)]
            lengths.append([shift + length for shift, source in ways for length in lengths[source]])
            if not vertex.terms:
                lengths[-1] = [0]
        return lengths[-1]

    def walk(self, rank: int) -> list[tuple[int, Term, int]]:
        """A path by its rank, output first: for each edge the vertex left, the term, and the vertex reached.

        Raises:
            IndexError: there is no path of this rank.

        Example:
            >>> chain = chain_graph(3)
            >>> [chain.vertices[position].block for position, term, _ in chain.walk(5) if term.kind == BRANCH]
            [2, 0]
        """
        if not 0 <= rank < self.paths:
            raise IndexError(f"expected the rank of a path from 0 to {self.paths - 1}, got {rank}")
        position, steps = len(self.vertices) - 1, []
        while self.vertices[position].terms:
            offsets = self.offsets(position)
            choice = bisect_right(offsets, rank) - 1
            term, source = list(self.edges(position))[choice]
            rank -= offsets[choice]
            steps.append((position, term, source))
            position = source
        return steps


def chain_graph(n: int) -> PathGraph:
    """The graph of a chain of n blocks.

    Example:
        >>> chain_graph(4).counts
        (1, 4, 6, 4, 1)
    """
    vertices = [Vertex(None, ())]
    for block in range(n):
        vertices.append(Vertex(block, (Term(SHORTCUT, (block,)), Term(BRANCH, (block,)))))
    return PathGraph((*vertices, Vertex(None, (Term(JOIN, (n,)),))))


def _add_shifted(total: list[float], added: Sequence[float], shift: int, weight: float) -> None:
    total.extend([0] * (len(added) + shift - len(total)))
    for length, number in enumerate(added):
        total[length + shift] += number * weight


@dataclass(frozen=True, eq=False)
class Contraction:
    """A path graph with the program nodes that its vertices represent.

    Attributes:
        graph: the graph.
        nodes: the node of each vertex.
        live: the nodes that depend differentiably on a start (or, with `everything`, on any sum).
        everything: whether vertices that lead to no start are kept too, for the parameters behind them.
    """

    graph: PathGraph
    nodes: tuple[fx.Node, ...]
    live: frozenset[fx.Node]
    everything: bool = False


def contract(
    plan: Segments,
    starts: Collection[fx.Node],
    *,
    through: Iterable[fx.Node] = (),
    everything: bool = False,
    counted: frozenset[int] | None = None,
) -> Contraction:
    """The contracted graph of a program's output.

    Args:
        plan: the program cut at its blocks.
        starts: the values at which paths start.
        through: further values that become vertices, with a term that adds no length. Paths are then finer than in the
            definition; sums over all paths of a length stay the same.
        everything: whether to keep vertices that do not depend on a start, for the parameters behind them.
        counted: the blocks whose branches count towards the length; None: all.

    Cost: linear in the number of nodes, with a bit mask of all vertices per node.
    """
    masks, positions = _masks(plan, set(starts), set(through), everything)
    return _Reader(plan, masks, positions, counted).read(starts, everything)


def path_graph(net: UnrolledNetwork, at: int | None = None) -> PathGraph:
    """The graph of a network's paths to its main input, or to the entry of a block.

    Example:
        >>> import torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18().eval())
        >>> path_graph(net) == chain_graph(8)
        True
    """
    return contract(net.segments, [start_node(net.segments, at)]).graph


def start_node(plan: Segments, at: int | None) -> fx.Node:
    """The node at which paths start: the input that most blocks depend on, or a block's entry."""
    if at is not None:
        return plan.cuts[at].entry
    assert plan.main is not None  # there are blocks
    return plan.main


def run_nodes(plan: Segments) -> list[fx.Node]:
    """The nodes that an evaluation of all blocks computes, in order, including inputs and sums."""
    pieces = [plan.stem, *plan.shortcuts, *plan.branches, *plan.joins]
    needed = {node for piece in pieces if piece is not None for node, _, _ in piece.steps}
    needed |= {cut.add for cut in plan.cuts} | set(plan.inputs.values())
    return [node for node in plan.program.graph.nodes if node in needed]


def _carries_gradient(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return node.op != "get_attr"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return not operations.asks_shape(node) and name.split(".")[0].strip("_") not in _WITHOUT_GRADIENT


def _masks(
    plan: Segments, starts: set[fx.Node], through: set[fx.Node], everything: bool
) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
    """For each node, the vertices that it depends on directly, as bits (a vertex depends on itself alone).

    Also, for each vertex, its position in the order of computation, which is the position of its bit.
    """
    index_of = {cut.add: index for index, cut in enumerate(plan.cuts)}
    masks: dict[fx.Node, int] = {}
    positions: dict[fx.Node, int] = {}
    for node in run_nodes(plan):
        index = index_of.get(node)
        sources = data_arguments(node) if index is None else [plan.cuts[index].shortcut, *plan.cuts[index].branch]
        mask = 0
        if _carries_gradient(node):
            for source in sources:
                mask |= masks.get(source, 0)
        cut_here = node in starts or (mask and (index is not None or node in through))
        if cut_here or (everything and (index is not None or node in through)):
            positions[node] = len(positions)
            mask = 1 << positions[node]
        masks[node] = mask
    return masks, positions


class _Reader:
    """Derives the vertices that the output depends on from the masks."""

    def __init__(
        self, plan: Segments, masks: dict[fx.Node, int], positions: dict[fx.Node, int], counted: frozenset[int] | None
    ) -> None:
        self.plan, self.masks, self.positions, self.counted = plan, masks, positions, counted
        self.cut_of = {cut.add: (index, cut) for index, cut in enumerate(plan.cuts)}
        self.nodes = list(positions)

    def read(self, starts: Collection[fx.Node], everything: bool) -> Contraction:
        output = self.plan.program.output
        reached = self.masks.get(output, 0)
        terms: dict[fx.Node, list[tuple[str, int]]] = {}
        for position in reversed(range(len(self.nodes))):
            if reached >> position & 1:
                node = self.nodes[position]
                terms[node] = [] if node in starts else self._terms(node)
                for _, mask in terms[node]:
                    reached |= mask
        kept = [node for position, node in enumerate(self.nodes) if reached >> position & 1]
        new = {self.positions[node]: position for position, node in enumerate(kept)}
        vertices = [
            Vertex(
                self.cut_of[node][0] if node in self.cut_of and node not in starts else None,
                tuple(Term(kind, _bits(mask, new)) for kind, mask in terms[node]),
            )
            for node in kept
        ]
        vertices.append(Vertex(None, (Term(JOIN, _bits(self.masks.get(output, 0), new)),)))
        graph = PathGraph(tuple(vertices), self.counted)
        live = frozenset(node for node, mask in self.masks.items() if mask)
        return Contraction(graph, (*kept, output), live, everything)

    def _terms(self, node: fx.Node) -> list[tuple[str, int]]:
        if node not in self.cut_of:
            mask = 0
            for source in data_arguments(node):
                mask |= self.masks.get(source, 0)
            return [(JOIN, mask)]
        cut: Cut = self.cut_of[node][1]
        branch = 0
        for end in cut.branch:
            branch |= self.masks.get(end, 0)
        return [(SHORTCUT, self.masks.get(cut.shortcut, 0)), (BRANCH, branch)]


def _bits(mask: int, new: dict[int, int]) -> tuple[int, ...]:
    positions = []
    while mask:
        low = mask & -mask
        positions.append(new[low.bit_length() - 1])
        mask ^= low
    return tuple(positions)
