"""What a network answers without any set of its blocks: measured for every set, or for many and told for the others."""

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
_LOST = 0.5  # of the answers wrong: what is beyond is no network to keep


@dataclass(frozen=True)
class SetAnswer:
    """What the network answers with a set of blocks kept.

    Attributes:
        measured: the network was run; else it is an estimate.
        wrong: (images,) which answers are wrong.
        loss: the mean cross-entropy in nats.
        interval: of the accuracy: Wilson's over images where it was measured, else the distance within which 95 % of
            the estimates checked lie.
    """

    measured: bool
    wrong: np.ndarray
    loss: float
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return 1 - float(self.wrong.mean())


@dataclass(frozen=True, eq=False)
class Exploration(Record):
    """The answers of a network to images with sets of its blocks deleted.

    Attributes:
        names: the n blocks that can be deleted, input side first.
        blocks: their indices.
        classes: names of the classes.
        labels: (images,) the right answers.
        kept: (m, n) the measured sets; row 0 keeps all blocks. Where all 2^n were measured, their rows are in the
            order of :func:`all_coalitions` and the last keeps all.
        losses: (m, images) cross-entropies in nats.
        wrong: (m, images) whether the answer is wrong.
        exhaustive: all 2^n sets were measured.
        estimate: for the others, with its error on sets kept apart; None where all were measured.
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
        """(n,) the set that is left, from names or indices of deleted blocks.

        Raises:
            ValueError: a block that is not among those explored.
        """
        known: dict[BlockRef, int] = {name: place for place, name in enumerate(self.names)}
        known |= {block: place for place, block in enumerate(self.blocks)}
        kept = np.ones(len(self.names), bool)
        for block in dropped:
            if block not in known:
                raise ValueError(f"expected blocks among {', '.join(self.names)}, got {block!r}")
            kept[known[block]] = False
        return kept

    def answer(self, dropped: Sequence[BlockRef] = ()) -> SetAnswer:
        """What the network answers without these blocks.

        Args:
            dropped: indices or names.

        Raises:
            ValueError: a block that is not among those explored; rows are missing.
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
        """(images,) the losses with these of all the network's blocks kept, or None if they were not measured."""
        of_these = np.asarray(kept, bool)[list(self.blocks)]
        if not np.delete(np.asarray(kept, bool), list(self.blocks)).all():
            return None
        row = self.rows.get(np.packbits(of_these).tobytes())
        return None if row is None else self.losses[row]

    def best(self, count: int) -> tuple[int, ...]:
        """The `count` blocks without which the fewest answers are wrong (then: the least loss), among measured sets.

        Chosen and measured on the same images, so that other images will show somewhat more errors.

        Raises:
            ValueError: no set of so many deleted blocks was measured.
        """
        rows = np.flatnonzero((~self.kept).sum(1) == count)
        if not len(rows):
            raise ValueError(f"expected a number of deleted blocks from 0 to {len(self.names)}, got {count}")
        row = _best(rows, self.wrong, self.losses)
        return tuple(np.asarray(self.blocks)[~self.kept[row]].tolist())

    def to_pandas(self) -> pd.DataFrame:
        """One row a measured set, the fewest deleted blocks first."""
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
    """Measure the network without many sets of blocks, so that any set can be asked for at once.

    A set is evaluated at gates of 0 for its deleted blocks and 1 for the others. Up to 16 blocks, all 2^n sets are.
    Beyond, these are: the full and the empty network, each block and (where they are no more than `max_searched`) each
    pair of blocks deleted, every step of a greedy search that deletes one block after another until half of the answers
    are wrong, and random sets, small ones more often. What they say of the others is an estimate (see
    :class:`SetEstimate`), whose error is measured on further random sets.

    Args:
        net: the network, in eval mode.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        blocks: those that may be deleted (default: all that :func:`~resnet_paths.drop_blocks` can drop).
        draws: number of random sets, beyond 16 blocks.
        held_out: number of random sets on which the estimate is checked.
        max_searched: pairs are measured if they are no more than this, and the search ends when it has looked at so
            many sets.
        exhaustive: whether to measure all 2^n sets; None: up to 16 blocks.
        seed: of the random sets.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        Losses (sets, images) and errors (sets, images), and the estimate for further sets.

    Raises:
        ValueError: no block can be deleted, all sets of more than 16 blocks, too few blocks for sets at random.
        UnrollError: the model is in training mode.

    Cost: up to 16 blocks at most 2^(n+1) evaluations of single blocks, as sets share what they begin with, and 5 bytes
        for each set and image. Beyond, about n^2 + `draws` + `held_out` sets at half a forward pass each.

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
    """What the network answers with sets of blocks kept and the others deleted.

    Args:
        net: the network, in eval mode.
        data: labelled images.
        kept: (m, n), true where a block is kept.
        blocks: the n blocks; None: all. Those that are not among them are kept.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        Cross-entropies in nats and whether the answer is wrong, (m, images) each.

    Raises:
        ValueError: sets of another number of blocks.

    Cost: sets share what they begin with; at most a forward pass each.

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


def signed_loss(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The cross-entropy, below zero where the answer is wrong: there it is log 2 at least, so the sign is free.

    Example:
        >>> logits = torch.tensor([[0.0, 9.0], [0.0, 9.0]])
        >>> (signed_loss(logits, torch.tensor([1, 0]), logits) >= 0).tolist()
        [True, False]
    """
    losses = cross_entropy(logits, labels)
    return torch.where(right(logits, labels), losses, -losses)


class _Measure:
    """Answers of one network to one set of images."""

    def __init__(self, net: Network, data: ImageData, blocks: list[int], options: StudyOptions) -> None:
        fast = options.get("fast", True)
        self.net, self.data, self.blocks, self.n = quick(net, fast), data, blocks, len(blocks)
        double = any(parameter.dtype == torch.float64 for parameter in net.model.parameters())
        self.exact = np.float64 if double else np.float32  # in which the losses were computed
        self.options: StudyOptions = {**options, "fast": False}  # it is: once, not anew for each of many calls

    def __call__(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses and errors, (m, images) each, of sets (m, n)."""
        gates = torch.ones(len(kept), len(self.net), device="cpu")
        gates[:, self.blocks] = torch.as_tensor(kept, dtype=gates.dtype, device="cpu")
        values = evaluate_gates(self.net, self.data, gates, signed_loss, **self.options)
        wrong = ~(values >= 0)  # a loss that is not a number is no right answer
        return np.abs(values).astype(self.exact), wrong

    def all_sets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All 2^n sets; a part of them at a time, so that what is held besides the results is bounded.

        The sets of a part differ in their last blocks only, so that they share the first.
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
    """(count, n): sets without 2 to n - 1 blocks, small numbers more often; none twice and none that is known."""
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
    """From the full network on, always without the block whose deletion leaves the fewest errors, until most are.

    All sets that are looked at are handed back, but for those `known` already.
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
    """Of these rows the one with the fewest errors, then the least loss, then the first."""
    errors, means = wrong[rows].sum(1), losses[rows].mean(1, dtype=np.float64)
    return int(rows[np.lexsort((rows, means, errors))[0]])
