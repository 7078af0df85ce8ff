"""Interactions of any number of blocks, computed by the library shapiq (an optional dependency).

Beside `game`, which computes Shapley values and pairwise interactions itself: there are several definitions of higher
interactions with as many estimators, and shapiq has them all. This adds the evaluation of the network, which shares the
first blocks of coalitions, and a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from ..arguments import Range, checked
from ..choices import MetricName
from ..data import ImageSource
from ..data.fitting import data_for
from ..data.metrics import Metric, metric_named
from ..imports import first_import
from ..network import BlockRef, Evaluations
from ..provenance import Provenance, provenance
from ..records import Record
from ..tables import data_frame
from .coalitions import all_coalitions
from .evaluate import Network
from .game import MOST_EXHAUSTIVE, Game
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

Index = Literal["k-SII", "SII", "STII", "FSII", "BII", "FBII", "Moebius"]


@dataclass(frozen=True, eq=False)
class BlockInteractions(Record):
    """How much sets of blocks lower the metric together, beyond the effects of their subsets.

    Attributes:
        values: the interaction of each set of 1 to `order` blocks, given by their indices in the network.
        names: the blocks that play.
        blocks: their indices.
        index: shapiq's name of the interaction index.
        order: maximum size of a set.
        metric: name of the metric.
        exact: whether the values come from all 2^n coalitions; otherwise they are estimated from `coalitions` of them.
        coalitions: number of coalitions evaluated.
        evaluations: number of network pieces run, over all batches of images.
        source: model, data, seed and versions.
    """

    values: Mapping[tuple[int, ...], float]
    names: tuple[str, ...]
    blocks: tuple[int, ...]
    index: str
    order: int
    metric: str
    exact: bool
    coalitions: int
    evaluations: Evaluations
    source: Provenance = field(repr=False)

    def strongest(self, count: int = 10, size: int | None = None) -> list[tuple[tuple[int, ...], float]]:
        """The sets with the largest absolute interactions (of one size, or of two and more blocks)."""
        candidates = [
            (blocks, value)
            for blocks, value in self.values.items()
            if (len(blocks) > 1 if size is None else len(blocks) == size)
        ]
        return sorted(candidates, key=lambda item: -abs(item[1]))[:count]

    def matrix(self) -> np.ndarray:
        """The interactions of pairs, (n, n), zero on the diagonal."""
        row_of = {block: row for row, block in enumerate(self.blocks)}
        pairs = np.zeros((len(row_of), len(row_of)))
        for blocks, value in self.values.items():
            if len(blocks) == 2:
                one, other = (row_of[block] for block in blocks)
                pairs[one, other] = pairs[other, one] = value
        return pairs

    def to_pandas(self) -> pd.DataFrame:
        """One row per set."""
        name = dict(zip(self.blocks, self.names, strict=True))
        rows = [
            {
                "blocks": blocks,
                "names": " + ".join(name[block] for block in blocks),
                "size": len(blocks),
                "value": value,
            }
            for blocks, value in self.values.items()
        ]
        return data_frame(rows)


@checked(budget=Range(2, 10**9))
def higher_interactions(
    net: Network,
    data: ImageSource,
    *,
    order: int = 3,
    index: Index = "k-SII",
    metric: MetricName | Metric = "loss",
    blocks: Sequence[BlockRef] | None = None,
    budget: int | None = None,
    seed: int = 0,
    **options: Unpack[StudyOptions],
) -> BlockInteractions:
    """Interactions of up to `order` blocks in the block game, computed by shapiq from the network's coalitions.

    For up to 16 blocks, all 2^n coalitions are evaluated, sharing prefixes, and shapiq's ExactComputer turns them into
    the index. With a `budget`, shapiq's estimators choose the coalitions: KernelSHAP-IQ for k-SII and SII (Fumagalli et
    al. 2024), regression for FSII and FBII (Tsai et al. 2023), permutations for STII (Sundararajan et al. 2020).

    Args:
        net: the network, in eval mode.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        order: maximum number of blocks in a set.
        index: shapiq's name: ``k-SII``, ``SII`` (Grabisch and Roubens 1999), ``STII``, ``FSII``, ``BII``, ``FBII``,
            ``Moebius``.
        metric: see :func:`single_deletions`.
        blocks: the blocks that play (default: all); the others are kept.
        budget: maximum number of coalitions to evaluate (default: all, for at most 16 blocks).
        seed: seed of the sampling.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: there are more than 16 blocks and no budget, or the order or the index is not possible here.
        ImportError: shapiq is not installed.

    Cost: exactly, at most 2^(n+1) block evaluations per batch; otherwise `budget` coalitions.

    Source: Muschalik et al. (2024) for shapiq.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = higher_interactions(net, digits("test").subset(slice(0, 10)), blocks=[0, 1, 2, 9])
        >>> len(result.values), result.exact
        (14, True)
    """
    data = data_for(metric, data, net.model)
    players = list(range(len(net))) if blocks is None else net.indices(list(blocks))
    n = len(players)
    if not 1 <= order <= n:
        raise ValueError(f"expected an order from 1 to {n}, the number of blocks that play, got {order}")
    if budget is None and n > MOST_EXHAUSTIVE:
        raise ValueError(
            f"expected at most {MOST_EXHAUSTIVE} blocks, or a budget of coalitions, got {n} blocks; select blocks with "
            "blocks=, or pass budget="
        )
    shapiq = _shapiq()
    name, function = metric_named(metric)
    game = Game(net, data, players, function, Running(**options))
    exact = budget is None
    interactions = (
        _exact(shapiq, game, n, order, index) if exact else _estimated(shapiq, game, n, order, index, budget, seed)
    )
    sets = {tuple(players[i] for i in members): float(value) for members, value in interactions.items() if members}
    return BlockInteractions(
        values=dict(sorted(sets.items(), key=lambda item: (len(item[0]), item[0]))),
        names=tuple(net[index].name for index in players),
        blocks=tuple(players),
        index=index,
        order=order,
        metric=name,
        exact=exact,
        coalitions=game.asked,
        evaluations=game.count,
        source=provenance(net.model, data, seed=seed),
    )


def _exact(shapiq: Any, game: Game, n: int, order: int, index: str) -> dict[tuple[int, ...], float]:
    """Evaluate all coalitions once, then run shapiq's exact computer on the table."""
    table = game.values(all_coalitions(n)).mean(1)

    def look_up(coalitions: np.ndarray) -> np.ndarray:
        values: np.ndarray = table[np.asarray(coalitions, int) @ (1 << np.arange(n))]
        return values

    interactions: dict[tuple[int, ...], float] = shapiq.ExactComputer(look_up, n)(index, order).dict_values
    return {members: value for members, value in interactions.items() if len(members) <= order}


def _estimated(
    shapiq: Any, game: Game, n: int, order: int, index: str, budget: int | None, seed: int
) -> dict[tuple[int, ...], float]:
    available = shapiq.approximator
    estimators = {
        "k-SII": available.KernelSHAPIQ,
        "SII": available.KernelSHAPIQ,
        "STII": available.PermutationSamplingSTII,
        "FSII": available.RegressionFSII,
        "FBII": available.RegressionFBII,
    }
    if index not in estimators:
        raise ValueError(f"expected one of {', '.join(estimators)} as index with a budget, got {index!r}; omit budget")
    options = {"index": index} if estimators[index] is available.KernelSHAPIQ else {}
    estimator = estimators[index](n, max_order=order, random_state=seed, **options)
    interactions: dict[tuple[int, ...], float] = estimator.approximate(
        budget, lambda coalitions: game.values(np.atleast_2d(coalitions)).mean(1)
    ).dict_values
    return interactions


def _shapiq() -> Any:
    try:
        with first_import("shapiq"):
            import shapiq
            import shapiq.approximator  # noqa: F401 - makes the submodule available
    except ImportError as error:
        raise ImportError(
            "expected shapiq to be installed for interactions of more than two blocks; run: pip install "
            "'resnet-paths[shapiq]'"
        ) from error
    return shapiq
