"""The result of a comparison: numbers of several models side by side, and tables of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..landscape import Surface
from ..provenance import Provenance
from ..records import Record
from ..tables import data_frame
from .matching import MatchedBy

if TYPE_CHECKING:
    import pandas as pd


def with_ends(name: str) -> tuple[str, str, str]:
    """The names of a quantity and of the ends of its interval.

    Example:
        >>> with_ends("damage")
        ('damage', 'damage_low', 'damage_high')
    """
    return name, f"{name}_low", f"{name}_high"


def difference_of(name: str) -> str:
    """The name of a quantity's difference from the reference.

    Example:
        >>> difference_of("damage"), difference_of("gradient_share")
        ('damage_difference', 'gradient_difference')
    """
    return f"{'gradient' if name == 'gradient_share' else name}_difference"


def _with_differences(names: Iterable[str]) -> list[str]:
    """The names of quantities, of their differences, and of the ends of both."""
    return [end for name in names for part in (name, difference_of(name)) for end in with_ends(part)]


def _of(names: str, dimensions: str) -> dict[str, str]:
    return dict.fromkeys(_with_differences(names.split()), dimensions)


@dataclass(frozen=True, eq=False)
class Comparison(Record):
    """Several models on the same images; the first is the reference of all differences.

    Every quantity NAME that has an interval has the ends NAME_low and NAME_high beside it, and NAME_difference, its
    difference from the reference paired by image, with NAME_difference_low and NAME_difference_high. (The metric itself
    is called `values`; its interval is `low` and `high`, its difference `difference`. The difference of
    `gradient_share` is `gradient_difference`.) A quantity is NaN where a model has no such block or no paths, and None
    if its part was not asked for.

    Attributes:
        models: their names, (m,).
        metric: name of the metric; lower is better for all that come with this package.
        values: the metric of each model, (m,).
        low: lower ends of the intervals of `values`.
        high: upper ends.
        difference: `values` less that of the reference, (m,), with intervals paired by image.
        difference_low: lower ends.
        difference_high: upper ends.
        parameters: number of parameters, (m,).
        macs: multiply-adds per image, (m,).
        blocks: rows of matched blocks, (b,), by the first model that has each.
        block_indices: index of each row's block in each model, (m, b); -1 where it has none.
        similarity: linear CKA of matched outputs, where blocks were matched by it, (m, b).
        matched_by: how each model's blocks were matched, see :class:`BlockMatches`.
        damage: rise of the metric when a block is deleted, (m, b).
        counts: numbers of randomly deleted blocks, (c,).
        deletion: the metric after that, mean over draws, (m, c).
        frontier: the metric with the 0, 1, 2, ... least damaging blocks deleted, (m, most blocks + 1). Their order is
            taken from one half of the images and the metric from the other.
        recommended: the metric with the 0, 1, 2, ... blocks dropped that a greedy search recommends, (m, most blocks +
            1), searched on the same half of the images and measured on the other; part "recommended", see
            :func:`~resnet_paths.tradeoff.plan_drop`.
        recommended_order: the blocks in the order of that search, by their index in each model, (m, most blocks); -1
            after the last.
        lengths: path lengths, (L,).
        path_share: share of all paths that have each length, (m, L); exact.
        gradient_share: share of each path length in the gradient, mean over `gradient_images`, (m, L).
        contribution: what each block adds directly to the true class's logit, mean over `gradient_images`, (m, b); part
            "contributions", see :func:`~resnet_paths.paths.block_contributions`.
        effective_share: number of paths of each length times the mean gradient norm of one, as a share over all
            lengths, mean over `gradient_images`, (m, L); part "effective", see
            :func:`~resnet_paths.paths.effective_paths`.
        shapley: how much each block lowers the metric on average over all orders of adding the blocks, (m, b); part
            "shapley", see :func:`~resnet_paths.lesion.block_values`.
        steps: coordinates of the surface along both directions, (s,).
        surface: the loss at steps along two random directions, (m, s, s) as rows along the second direction and columns
            along the first; part "surface", see :func:`~resnet_paths.landscape.loss_surface`.
        convex: share of the surface's inner points at which the logarithm of the loss is convex, (m,).
        largest_eigenvalue: of the Hessian of the loss, (m,); part "curvature".
        smallest_eigenvalue: of the same.
        latency: seconds of one forward pass, median, (m,); part "latency".
        latency_share: its share of the reference's time, measured in turn, (m,), with the interval of that median over
            rounds.
        confidence: coverage of each interval, one at a time.
        draws: random sets for each of `counts`.
        images: number of images.
        gradient_images: number of images of which gradients were taken.
        per_image: the metric of each model and image, (m, images).
        source: of the reference and its images.
        sources: of all models, in order.
    """

    DIMENSIONS: ClassVar = {
        **dict.fromkeys((*("values", "low", "high"), *with_ends("difference"), "parameters", "macs"), "model"),
        **dict.fromkeys(("block_indices", "similarity"), "model block"),
        **_of("damage contribution shapley", "model block"),
        **_of("deletion", "model count"),
        **_of("frontier recommended", "model deleted"),
        "recommended_order": "model step",
        "path_share": "model length",
        **_of("gradient_share effective_share", "model length"),
        **_of("surface", "model y x"),
        **dict.fromkeys(
            ("convex", "largest_eigenvalue", "smallest_eigenvalue", "latency", *with_ends("latency_share")), "model"
        ),
        "per_image": "model image",
    }
    COORDINATES: ClassVar = {
        "model": "models",
        "block": "blocks",
        "count": "counts",
        "length": "lengths",
        "x": "steps",
        "y": "steps",
    }

    models: tuple[str, ...]
    metric: str
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    difference: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray
    parameters: np.ndarray
    macs: np.ndarray
    blocks: tuple[str, ...]
    block_indices: np.ndarray
    similarity: np.ndarray
    matched_by: tuple[MatchedBy, ...]
    damage: np.ndarray
    damage_low: np.ndarray
    damage_high: np.ndarray
    damage_difference: np.ndarray
    damage_difference_low: np.ndarray
    damage_difference_high: np.ndarray
    counts: np.ndarray
    deletion: np.ndarray
    deletion_low: np.ndarray
    deletion_high: np.ndarray
    deletion_difference: np.ndarray
    deletion_difference_low: np.ndarray
    deletion_difference_high: np.ndarray
    frontier: np.ndarray
    frontier_low: np.ndarray
    frontier_high: np.ndarray
    frontier_difference: np.ndarray
    frontier_difference_low: np.ndarray
    frontier_difference_high: np.ndarray
    lengths: np.ndarray
    path_share: np.ndarray
    gradient_share: np.ndarray
    gradient_share_low: np.ndarray
    gradient_share_high: np.ndarray
    gradient_difference: np.ndarray
    gradient_difference_low: np.ndarray
    gradient_difference_high: np.ndarray
    confidence: float
    draws: int
    images: int
    gradient_images: int
    per_image: np.ndarray
    source: Provenance = field(repr=False)
    sources: tuple[Provenance, ...] = field(repr=False)
    contribution: np.ndarray | None = None
    contribution_low: np.ndarray | None = None
    contribution_high: np.ndarray | None = None
    contribution_difference: np.ndarray | None = None
    contribution_difference_low: np.ndarray | None = None
    contribution_difference_high: np.ndarray | None = None
    recommended: np.ndarray | None = None
    recommended_low: np.ndarray | None = None
    recommended_high: np.ndarray | None = None
    recommended_difference: np.ndarray | None = None
    recommended_difference_low: np.ndarray | None = None
    recommended_difference_high: np.ndarray | None = None
    recommended_order: np.ndarray | None = None
    effective_share: np.ndarray | None = None
    effective_share_low: np.ndarray | None = None
    effective_share_high: np.ndarray | None = None
    effective_share_difference: np.ndarray | None = None
    effective_share_difference_low: np.ndarray | None = None
    effective_share_difference_high: np.ndarray | None = None
    shapley: np.ndarray | None = None
    shapley_low: np.ndarray | None = None
    shapley_high: np.ndarray | None = None
    shapley_difference: np.ndarray | None = None
    shapley_difference_low: np.ndarray | None = None
    shapley_difference_high: np.ndarray | None = None
    steps: np.ndarray | None = None
    surface: np.ndarray | None = None
    surface_low: np.ndarray | None = None
    surface_high: np.ndarray | None = None
    surface_difference: np.ndarray | None = None
    surface_difference_low: np.ndarray | None = None
    surface_difference_high: np.ndarray | None = None
    convex: np.ndarray | None = None
    largest_eigenvalue: np.ndarray | None = None
    smallest_eigenvalue: np.ndarray | None = None
    latency: np.ndarray | None = None
    latency_share: np.ndarray | None = None
    latency_share_low: np.ndarray | None = None
    latency_share_high: np.ndarray | None = None

    @property
    def mean_length(self) -> np.ndarray:
        """The mean path length of the gradient, weighted by its shares, (m,)."""
        means: np.ndarray = self.gradient_share @ self.lengths
        return means

    @property
    def positions(self) -> np.ndarray:
        """The position of each model in a series, (m,): the last number in its name (epoch-0010: 10).

        If the names differ in anything else, or have no number, it is the index (0, 1, 2, ...).
        """
        series = self._series()
        return np.arange(len(self.models)) if series is None else np.array([number for _, number, _ in series])

    @property
    def series(self) -> str:
        """What `positions` counts: the text of the names before the number, such as "epoch"; else "model"."""
        series = self._series()
        text = "" if series is None else series[0][0].rpartition("/")[2]
        return text.strip(" -_.") or "model"

    @property
    def is_film(self) -> bool:
        """Whether the models are a series of three or more, such as the checkpoints of a run."""
        return len(self.models) > 2 and self.series != "model"

    def _series(self) -> list[tuple[str, int, str]] | None:
        """The name of each model around its last number, if the names differ in nothing else."""
        parts = [_around_number(name) for name in self.models]
        split = [part for part in parts if part is not None]
        alike = len(split) == len(parts) and len({(before, after) for before, _, after in split}) == 1
        return split if alike else None

    @property
    def surfaces(self) -> dict[str, Surface]:
        """The loss surface of each model, by its name, on common coordinates; none unless the part was asked for."""
        if self.surface is None or self.steps is None:
            return {}
        return {
            name: replace(Surface.of(self.steps, self.steps, loss=loss), source=source)
            for name, loss, source in zip(self.models, self.surface, self.sources, strict=True)
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row per model: the metric with its interval, the paired difference, size, and other requested parts."""
        asked = {
            name: getattr(self, name)
            for name in ("convex", "largest_eigenvalue", "smallest_eigenvalue", "latency", *with_ends("latency_share"))
        }
        return data_frame(
            {
                "model": self.models,
                self.metric: self.values,
                "low": self.low,
                "high": self.high,
                "difference": self.difference,
                "difference_low": self.difference_low,
                "difference_high": self.difference_high,
                "blocks": (self.block_indices >= 0).sum(1),
                "matched_by": self.matched_by,
                "mean_length": self.mean_length,
                "parameters": self.parameters,
                "macs": self.macs,
                **{name: values for name, values in asked.items() if values is not None},
            }
        )

    def by_block(self) -> pd.DataFrame:
        """One row per model and matched block: damage, contribution and Shapley value, and their paired differences.

        Blocks that a model does not have are left out.
        """
        models, rows = np.nonzero(self.block_indices >= 0)
        columns: dict[str, Any] = {
            "model": [self.models[model] for model in models],
            "block": [self.blocks[row] for row in rows],
            "index": self.block_indices[models, rows],
        }
        measured = self._measured(("damage", "contribution", "shapley"))
        columns |= {name: values[models, rows] for name, values in measured.items()}
        return data_frame({**columns, "similarity": self.similarity[models, rows]})

    def by_deleted(self) -> pd.DataFrame:
        """One row per model and number of deleted blocks: the metric after random, least damaging, recommended ones.

        Random deletions are NaN for numbers that are not among `counts`; with none, they are the metric of the model.
        """
        models, sizes = np.nonzero(np.isfinite(self.frontier))
        measured = self._measured(("deletion", "frontier", "recommended"))
        for name in (name for name in measured if name.startswith("deletion")):
            every = np.full(self.frontier.shape, np.nan)
            every[:, self.counts] = measured[name]
            every[:, 0] = getattr(self, name.removeprefix("deletion").removeprefix("_") or "values")
            measured[name] = every
        columns: dict[str, Any] = {
            "model": [self.models[model] for model in models],
            "deleted": sizes,
            **{name: values[models, sizes] for name, values in measured.items()},
        }
        return data_frame(columns)

    def by_length(self) -> pd.DataFrame:
        """One row per model and path length: its share of all paths, of the gradient, and of effective paths."""
        models, rows = np.nonzero(np.isfinite(self.path_share))
        measured = {"path_share": self.path_share, **self._measured(("gradient_share", "effective_share"))}
        columns: dict[str, Any] = {
            "model": [self.models[model] for model in models],
            "length": self.lengths[rows],
            **{name: values[models, rows] for name, values in measured.items()},
        }
        return data_frame(columns)

    def _measured(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Those of the quantities that were measured, with their differences and the ends of both."""
        return {name: getattr(self, name) for name in _with_differences(names) if getattr(self, name) is not None}


def _around_number(name: str) -> tuple[str, int, str] | None:
    """The text before the last number in a name, the number, and the text after it (without a file's suffix)."""
    split = re.fullmatch(r"(.*?)(\d+)(\D*)", PurePath(name).stem)
    return None if split is None else (split[1], int(split[2]), split[3])
