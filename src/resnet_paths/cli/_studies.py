"""The studies of ``resnet-paths lesion --study``: one record, one picture, one table each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from ..data import ImageData
from ..lesion import (
    block_values,
    damage_predictors,
    random_deletions,
    rank_predictors,
    reorderings,
    shortcut_deletions,
    single_deletions,
    stage_deletions,
)
from ..network import UnrolledNetwork
from ..plot import (
    plot_block_values,
    plot_predictor_ranking,
    plot_random_deletions,
    plot_reorderings,
    plot_single_deletions,
    plot_stage_deletions,
)
from ._tables import table


class StudyName(StrEnum):
    """Which study."""

    SINGLE = "single"
    RANDOM = "random"
    REORDER = "reorder"
    STAGE = "stage"
    SHORTCUT = "shortcut"
    GAME = "game"
    PREDICTORS = "predictors"


@dataclass(frozen=True)
class Options:
    """What the studies can be told.

    Attributes:
        metric: its name; None is the study's own.
        draws: random sets or orders for each number.
        precision: of the block game.
        seed: of what is drawn.
        batch_size: images at a time.
        journal: a file from which the study resumes.
        quiet: show no progress.
    """

    metric: str | None
    draws: int
    precision: float | None
    seed: int
    batch_size: int
    journal: Path | None
    quiet: bool


@dataclass(frozen=True, eq=False)
class Finding:
    """What a study found: a table, a picture, facts, and how the numbers are read."""

    table: pd.DataFrame
    plot: Callable[[], Axes]
    facts: dict[str, Any]
    words: str


def check(name: StudyName, metric: str | None, precision: float | None, journal: Path | None) -> None:
    """Raises: ValueError for an option that the study would ignore."""
    unused = {
        "--metric": metric is not None and name is StudyName.SINGLE,
        "--precision": precision is not None and name is not StudyName.GAME,
        "--journal": journal is not None and name is StudyName.PREDICTORS,
    }
    for option, wrong in unused.items():
        if wrong:
            raise ValueError(f"expected no {option} with --study {name}, which does not use it; leave it out")


def run(name: StudyName, net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    """Run one study (all but ``single``, which the command does itself)."""
    return _STUDIES[name](net, data, options)


def _common(options: Options, metric: str) -> dict[str, Any]:
    return {
        "metric": options.metric or metric,
        "batch_size": options.batch_size,
        "progress": not options.quiet,
    }


def _drawn(options: Options, metric: str) -> dict[str, Any]:
    return {**_common(options, metric), "draws": options.draws, "seed": options.seed, "journal": options.journal}


def _chance(data: ImageData, metric: str | None) -> float | None:
    return 1 - 1 / len(data.classes) if metric in (None, "error") else None


def _random(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    record = random_deletions(net, data, **_drawn(options, "error"))
    low, middle, high = record.quantiles()
    ends = record.median_interval()
    table = pd.DataFrame(
        {"deleted": record.counts, "median": middle, "low": ends[0], "high": ends[1], "tenth": low, "ninetieth": high}
    )
    words = f"Median over {options.draws} draws with its 95 % interval over images; tenth and ninetieth percentile."
    return Finding(
        table, lambda: plot_random_deletions(record, chance=_chance(data, options.metric)), _facts(record), words
    )


def _reorder(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    record = reorderings(net, data, **_drawn(options, "error"))
    found, low, high = record.rank_correlation()
    words = (
        f"Rank correlation of the {record.metric} with Kendall's tau over {len(record.tau)} orders: {found:.2f} "
        f"(on more images it may lie from {low:.2f} to {high:.2f}); it rises as the "
        "order is left, the closer this is to -1."
    )
    facts = {**_facts(record), "rank_correlation": [value if isfinite(value) else None for value in (found, low, high)]}
    return Finding(
        record.by_swaps(), lambda: plot_reorderings(record, chance=_chance(data, options.metric)), facts, words
    )


def _stage(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    record = stage_deletions(net, data, **_drawn(options, "error"))
    rows = [
        {"stage": stage + 1, "blocks": len(blocks), "whole_stage": value}
        for stage, (blocks, value) in enumerate(zip(record.stages, record.whole_stage.tolist(), strict=True))
    ]
    words = f"The {record.results[0].metric} with all branches of a stage deleted; the picture has the steps to it."
    return Finding(pd.DataFrame(rows), lambda: plot_stage_deletions(record), _facts(record.results[0]), words)


def _shortcut(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    record = shortcut_deletions(net, data, journal=options.journal, **_common(options, "error"))
    words = "Only the shortcut of one block deleted, its branch kept."
    return Finding(
        record.to_pandas(),
        lambda: plot_single_deletions(record, chance=_chance(data, options.metric)),
        _facts(record),
        words,
    )


def _game(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    record = block_values(
        net,
        data,
        precision=options.precision,
        most_permutations=max(4, 2 * options.draws) if options.precision is None else 2000,
        seed=options.seed,
        journal=options.journal,
        **_common(options, "loss"),
    )
    how = f"all 2^{len(record.blocks)} coalitions" if record.exhaustive else f"{record.orders} orders"
    words = (
        f"Shapley values from {how}, {record.coalitions} coalitions; they add up to "
        f"{record.whole - record.empty:+.4g}, from {record.empty:.4g} with no block to {record.whole:.4g} with all. "
        f"Below zero: the block lowers the {record.metric}."
    )
    facts = {**_facts(record), "empty": record.empty, "coalitions": record.coalitions, "orders": record.orders}
    return Finding(record.to_pandas(), lambda: plot_block_values(record), facts, words)


def _predictors(net: UnrolledNetwork, data: ImageData, options: Options) -> Finding:
    damage = single_deletions(net, data, **_common(options, "loss"))
    predictors = damage_predictors(net, data, batch_size=options.batch_size, progress=not options.quiet)
    ranking = rank_predictors(predictors, damage, seed=options.seed)
    trusted = ", ".join(ranking.trusted()) or "none"
    words = (
        f"Rank correlation of eight cheap predictors with the damage ({damage.metric}) of all {len(net)} single "
        f"deletions. Above 0.5 over the whole range where it may lie: {trusted}."
    )
    facts = {**_facts(damage), "trusted": list(ranking.trusted())}
    return Finding(ranking.to_pandas(), lambda: plot_predictor_ranking(ranking), facts, words)


_STUDIES: dict[StudyName, Callable[[UnrolledNetwork, ImageData, Options], Finding]] = {
    StudyName.RANDOM: _random,
    StudyName.REORDER: _reorder,
    StudyName.STAGE: _stage,
    StudyName.SHORTCUT: _shortcut,
    StudyName.GAME: _game,
    StudyName.PREDICTORS: _predictors,
}


def _facts(record: Any) -> dict[str, Any]:
    names = ("metric", "whole", "data", "model_fingerprint", "data_fingerprint")
    return {name: getattr(record, name) for name in names}


def as_json(name: StudyName, finding: Finding, picture: Path) -> str:
    """The facts and the table."""
    rows = json.loads(finding.table.to_json(orient="records", double_precision=15))
    return json.dumps({"study": str(name), **finding.facts, "rows": rows, "picture": str(picture)}, indent=2)


def shown(finding: Finding, title: str) -> Table:
    """The table for a terminal."""
    rows = table(title)
    for column in finding.table:
        numeric = pd.api.types.is_numeric_dtype(finding.table[column])
        rows.add_column(str(column).replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in finding.table.itertuples(index=False):
        rows.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return rows
