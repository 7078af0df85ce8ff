"""A network's answers with any set of its blocks deleted: measured for all sets, or for many and estimated for others.

Beside the block game, which averages over sets, this answers questions about single sets at once, as an interactive
page needs them. Random sets alone would rarely include the sets that people ask about, which delete one or two blocks
or the blocks that matter least; hence single blocks, pairs and a greedy search as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Unpack

import numpy as np
import torch

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..data import ImageData, ImageSource, as_data
from ..data.metrics import cross_entropy
from ..data.predictions import right
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import share_interval
from ..tables import data_frame
from .coalitions import all_coalitions
from .evaluate import Network, evaluate_gates, quick
from .game import MOST_EXHAUSTIVE
from .options import StudyOptions
from .set_estimate import SetEstimate, fit

if TYPE_CHECKING:
    import pandas as pd

_SETS_AT_ONCE = 4096
_LATE = 12
_LOST = 0.5  # share of wrong answers that ends the greedy search: nobody keeps a network beyond


@dataclass(frozen=True)
class SetAnswer:
    """The network's answers with a set of blocks kept.

    Attributes:
        measured: whether the set was measured rather than estimated.
        wrong: whether each answer is wrong, (images,).
        loss: mean cross-entropy in nats.
        interval: of the accuracy: Wilson's over images where it was measured, else the distance within which 95 % of
            the estimates checked lie.
    """

    measured: bool
    wrong: np.ndarray
    loss: float
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """The share of correct answers."""
        return 1 - float(self.wrong.mean())


@dataclass(frozen=True, eq=False)
class Exploration(Record):
    """A network's answers on images, with sets of its blocks deleted.

    Attributes:
        names: names of the n blocks that can be deleted, input side first.
        blocks: indices of these blocks.
        classes: class names.
        labels: correct answers, (images,).
        kept: the measured sets, (m, n); row 0 keeps all blocks. If all 2^n sets were measured, the rows are in the
            order of :func:`all_coalitions` and the last one keeps all.
        losses: cross-entropies in nats, (m, images).
        wrong: whether the answer is wrong, (m, images).
        exhaustive: whether all 2^n sets were measured.
        estimate: estimate for the other sets, with its error on held-out sets; None if all were measured.
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {
        "labels": "image",
        "kept": "set block",
        "losses": "set image",
        "wrong": "set image",
    }
    COORDINATES: ClassVar = {"block": "names"}

    names: tuple[str, ...]
    blocks: tuple[int, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    kept: np.ndarray
    losses: np.ndarray
    wrong: np.ndarray
    exhaustive: bool
    estimate: SetEstimate | None
    source: Provenance = field(repr=False)

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """The row of each measured set."""
        return {np.packbits(kept).tobytes(): row for row, kept in enumerate(self.kept)}

    def kept_without(self, dropped: Sequence[BlockRef]) -> np.ndarray:
        """The set of kept blocks (n,), from names or indices of deleted blocks.

        Raises:
            ValueError: a block is not among those explored.
        """
        column_of: dict[BlockRef, int] = {name: column for column, name in enumerate(self.names)}
        column_of |= {block: column for column, block in enumerate(self.blocks)}
        kept = np.ones(len(self.names), bool)
        for block in dropped:
            if block not in column_of:
                raise ValueError(f"expected blocks among {', '.join(self.names)}, got {block!r}")
            kept[column_of[block]] = False
        return kept

    def answer(self, dropped: Sequence[BlockRef] = ()) -> SetAnswer:
        """The network's answers without these blocks.

        Args:
            dropped: indices or names of the deleted blocks.

        Raises:
            ValueError: a block is not among those explored, or the set was neither measured nor can be estimated.
        """
        kept = self.kept_without(dropped)
        row = self.rows.get(np.packbits(kept).tobytes())
        images = len(self.labels)
        if row is not None:
            wrong = self.wrong[row]
            interval = share_interval(1 - float(wrong.mean()), images)
            return SetAnswer(True, wrong, float(self.losses[row].mean(dtype=np.float64)), interval)
        if self.estimate is None:
            raise ValueError("expected an exploration of all sets, or one with an estimate for the others, got neither")
        columns = self.estimate.columns(kept[None], self.kept)[0]
        wrong = columns[:-1] < 0
        accuracy, off = 1 - float(wrong.mean()), self.estimate.error_of(deleted=int((~kept).sum()))
        return SetAnswer(False, wrong, float(np.exp(columns[-1])), (max(0.0, accuracy - off), min(1.0, accuracy + off)))

    def losses_of(self, kept: np.ndarray) -> np.ndarray | None:
        """The losses (images,) with these of all the network's blocks kept, or None if the set was not measured."""
        of_these = np.asarray(kept, bool)[list(self.blocks)]
        if not np.delete(np.asarray(kept, bool), list(self.blocks)).all():
            return None
        row = self.rows.get(np.packbits(of_these).tobytes())
        return None if row is None else self.losses[row]

    def best(self, count: int) -> tuple[int, ...]:
        """The `count` blocks whose deletion causes the fewest errors (then the lowest loss), among measured sets.

        They are selected and measured on the same images, so other images will show somewhat more errors.

        Raises:
            ValueError: no set with this number of deleted blocks was measured.
        """
        rows = np.flatnonzero((~self.kept).sum(1) == count)
        if not len(rows):
            raise ValueError(f"expected a number of deleted blocks from 0 to {len(self.names)}, got {count}")
        row = _best(rows, self.wrong, self.losses)
        return tuple(np.asarray(self.blocks)[~self.kept[row]].tolist())

    def to_pandas(self) -> pd.DataFrame:
        """One row per measured set, in order of the number of deleted blocks."""
        order = np.argsort((~self.kept).sum(1), kind="stable")
        blocks = np.asarray(self.blocks)
        return data_frame(
            {
                "dropped": [" ".join(map(str, blocks[~self.kept[row]])) for row in order],
                "deleted": (~self.kept).sum(1)[order],
                "accuracy": 1 - self.wrong.mean(1)[order],
                "loss": self.losses.mean(1, dtype=np.float64)[order],
            }
        )


@checked(draws=COUNT, held_out=COUNT)
def explore(
    net: UnrolledNetwork,
    data: ImageSource,
    *,
    blocks: Sequence[BlockRef] | None = None,
    draws: int = 200,
    held_out: int = 50,
    max_searched: int = 500,
    exhaustive: bool | None = None,
    seed: int = 0,
    **options: Unpack[StudyOptions],
) -> Exploration:
    """Measure the network with many sets of blocks deleted, so that any set can be queried at once.

    A set is evaluated with gates of 0 for its deleted blocks and 1 for the others. With up to 16 blocks, all 2^n sets
    are measured. For more blocks, the measured sets are: the full and the empty network; each block deleted, and each
    pair if there are at most `max_searched` pairs; every step of a greedy search that deletes one block after another
    until half of the answers are wrong; and random sets, small ones more often. Other sets are estimated from these
    (see :class:`SetEstimate`), and the error of the estimate is measured on further random sets.

    Args:
        net: the network, in eval mode.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        blocks: blocks that may be deleted (default: all that :func:`~resnet_paths.drop_blocks` can drop).
        draws: number of random sets, beyond 16 blocks.
        held_out: number of random sets on which the estimate is checked.
        max_searched: maximum number of sets for measuring all pairs, and for the greedy search.
        exhaustive: whether to measure all 2^n sets; None: up to 16 blocks.
        seed: seed of the random sets.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        Losses (sets, images) and errors (sets, images), and the estimate for further sets.

    Raises:
        ValueError: no block can be deleted, more than 16 blocks with ``exhaustive=True``, or too few for random sets.
        UnrollError: the model is in training mode.

    Cost: with up to 16 blocks, at most 2^(n+1) evaluations of single blocks, because sets share their first blocks, and
        5 bytes per set and image. With more, about n^2 + `draws` + `held_out` sets at half a forward pass each.

    Example:
        >>> from resnet_paths import cifar_resnet, drop_blocks, unroll
        >>> from resnet_paths.data import digits
        >>> net = unroll(cifar_resnet(14, in_channels=1, seed=0).eval())
        >>> images = digits("test").subset(slice(0, 20))
        >>> exploration = explore(net, images, progress=False)
        >>> len(exploration.kept), exploration.exhaustive
        (64, True)
        >>> answers = drop_blocks(net, [1, 4])(images.x).argmax(1)
        >>> bool((exploration.answer([1, 4]).wrong == (answers != images.labels).numpy()).all())
        True
    """
    data = as_data(data, labelled=True)
    indices = [block.index for block in net if block.droppable] if blocks is None else net.indices(list(blocks))
    if not indices:
        raise ValueError("expected at least one block that can be dropped, got none; print(net) says why")
    measure = _Measure(net, data, indices, options)
    everything = len(indices) <= MOST_EXHAUSTIVE if exhaustive is None else exhaustive
    _check_number(len(indices), everything, draws + held_out)
    if everything:
        kept, losses, wrong = measure.all_sets()
        estimate = None
    else:
        kept, losses, wrong, estimate = _many_sets(measure, draws, held_out, max_searched, seed)
    return Exploration(
        names=tuple(net[index].name for index in indices),
        blocks=tuple(indices),
        classes=data.classes,
        labels=data.labels.cpu().numpy(),
        kept=kept,
        losses=losses,
        wrong=wrong,
        exhaustive=everything,
        estimate=estimate,
        source=provenance(net.model, data, seed=seed),
    )


def _check_number(n: int, exhaustive: bool, draws: int) -> None:
    if exhaustive and n > MOST_EXHAUSTIVE:
        raise ValueError(
            f"expected at most {MOST_EXHAUSTIVE} blocks for all 2^n sets, got {n}; choose some with blocks=, or leave "
            "exhaustive out"
        )
    if not exhaustive and 2**n < 4 * draws:
        raise ValueError(f"expected many more sets of blocks than draws and held_out, got 2^{n}; measure all of them")


@checked
def measure_sets(
    net: UnrolledNetwork,
    data: ImageSource,
    kept: np.ndarray,
    blocks: Sequence[BlockRef] | None = None,
    **options: Unpack[StudyOptions],
) -> tuple[np.ndarray, np.ndarray]:
    """The network's answers with sets of blocks kept and the others deleted.

    Args:
        net: the network, in eval mode.
        data: labelled images.
        kept: (m, n), true where a block is kept.
        blocks: the n blocks; None: all. Other blocks are kept.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        Cross-entropies in nats and whether the answer is wrong, (m, images) each.

    Raises:
        ValueError: the sets have another number of blocks.

    Cost: at most one forward pass per set; sets share their first blocks.

    Example:
        >>> from resnet_paths import cifar_resnet, unroll
        >>> from resnet_paths.data import digits
        >>> net = unroll(cifar_resnet(8, in_channels=1, seed=0).eval())
        >>> losses, wrong = measure_sets(net, digits("test").subset(slice(0, 5)), np.array([[1, 0, 1]]), progress=False)
        >>> losses.shape, wrong.dtype
        ((1, 5), dtype('bool'))
    """
    indices = list(range(len(net))) if blocks is None else net.indices(list(blocks))
    sets = np.asarray(kept, bool)
    if sets.ndim != 2 or sets.shape[1] != len(indices):
        raise ValueError(f"expected sets (m, {len(indices)}), one column for each block, got shape {sets.shape}")
    return _Measure(net, as_data(data, labelled=True), indices, options)(sets)


def signed_loss(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """The cross-entropy, negated where the answer is wrong: there it is at least log 2, so the sign is unambiguous.

    Example:
        >>> logits = torch.tensor([[0.0, 9.0], [0.0, 9.0]])
        >>> (signed_loss(logits, torch.tensor([1, 0]), logits) >= 0).tolist()
        [True, False]
    """
    losses = cross_entropy(logits, labels)
    return torch.where(right(logits, labels), losses, -losses)


class _Measure:
    """Measures the answers of one network on one set of images."""

    def __init__(self, net: Network, data: ImageData, blocks: list[int], options: StudyOptions) -> None:
        fast = options.get("fast", True)
        self.net, self.data, self.blocks, self.n = quick(net, fast), data, blocks, len(blocks)
        double = any(parameter.dtype == torch.float64 for parameter in net.model.parameters())
        self.exact = np.float64 if double else np.float32  # in which the losses were computed
        self.options: StudyOptions = {**options, "fast": False}  # prepared once above, not for each of many calls

    def __call__(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses and errors, (m, images) each, for sets (m, n)."""
        gates = torch.ones(len(kept), len(self.net), device="cpu")
        gates[:, self.blocks] = torch.as_tensor(kept, dtype=gates.dtype, device="cpu")
        values = evaluate_gates(self.net, self.data, gates, signed_loss, **self.options)
        wrong = ~(values >= 0)  # a NaN loss counts as wrong
        return np.abs(values).astype(self.exact), wrong

    def all_sets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Measure all 2^n sets, one part at a time to bound the memory.

        The sets of a part differ only in their last blocks, so that they share the computation of the first.
        """
        kept = all_coalitions(self.n).astype(bool)
        step = 2 ** max(self.n - _LATE, 0)
        first = [self(kept[start::step]) for start in range(step)]
        losses = np.empty((len(kept), len(self.data)), first[0][0].dtype)
        wrong = np.empty((len(kept), len(self.data)), bool)
        for start, (some_losses, some_wrong) in enumerate(first):
            losses[start::step], wrong[start::step] = some_losses, some_wrong
        return kept, losses, wrong


def _many_sets(
    measure: _Measure, draws: int, held_out: int, max_searched: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, SetEstimate]:
    n, generator = measure.n, np.random.default_rng(seed)
    planned = [np.ones((1, n), bool), ~np.eye(n, dtype=bool)]
    if n * (n - 1) // 2 <= max_searched:
        planned.append(np.stack([_without(n, pair) for pair in combinations(range(n), 2)]))
    planned.append(np.zeros((1, n), bool))
    before = sum(map(len, planned))
    drawn = _random_sets(n, draws + held_out, generator, {kept.tobytes() for part in planned for kept in part})
    kept = np.concatenate([*planned, drawn])
    losses, wrong = measure(kept)
    used = len(kept) - held_out
    checks = kept[used:], losses[used:], wrong[used:]
    parts = [(kept[:used], losses[:used], wrong[:used])]
    parts += _greedy(measure, parts[0], {row.tobytes() for row in kept}, max_searched)
    kept, losses, wrong = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return kept, losses, wrong, fit(kept, losses, wrong, slice(before, used), checks)


def _without(n: int, deleted: Sequence[int]) -> np.ndarray:
    kept = np.ones(n, bool)
    kept[list(deleted)] = False
    return kept


def _random_sets(n: int, count: int, generator: np.random.Generator, known: set[bytes]) -> np.ndarray:
    """Random sets (count, n) without 2 to n - 1 blocks, small numbers more often; no duplicates and none known."""
    sets: list[np.ndarray] = []
    while len(sets) < count:
        size = round(float(np.exp(generator.uniform(np.log(2), np.log(n - 1)))))
        kept = _without(n, generator.choice(n, size, replace=False).tolist())
        if kept.tobytes() not in known:
            known.add(kept.tobytes())
            sets.append(kept)
    return np.stack(sets)


def _greedy(
    measure: _Measure, begun: tuple[np.ndarray, np.ndarray, np.ndarray], known: set[bytes], max_searched: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Delete one block after another, always the one that causes the fewest errors, until half the answers are wrong.

    All measured sets are returned, except those that are already `known`.
    """
    n = measure.n
    _, losses, wrong = begun
    row = _best(np.arange(1, n + 1), wrong, losses)
    kept, errors = begun[0][row], wrong[row].mean()
    parts = []
    while kept.sum() > 1 and errors < _LOST and (max_searched := max_searched - int(kept.sum())) >= 0:
        candidates = np.repeat(kept[None], int(kept.sum()), axis=0)
        candidates[np.arange(len(candidates)), np.flatnonzero(kept)] = False
        losses, wrong = measure(candidates)
        new = np.array([row.tobytes() not in known for row in candidates])
        parts.append((candidates[new], losses[new], wrong[new]))
        row = _best(np.arange(len(candidates)), wrong, losses)
        kept, errors = candidates[row], wrong[row].mean()
    return parts


def _best(rows: np.ndarray, wrong: np.ndarray, losses: np.ndarray) -> int:
    """The row with the fewest errors, then the lowest loss, then the lowest index."""
    errors, means = wrong[rows].sum(1), losses[rows].mean(1, dtype=np.float64)
    return int(rows[np.lexsort((rows, means, errors))[0]])
