"""The studies of ``resnet-paths lesion --study``: one record, one plot, one table each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

import resnet_paths as rp

from ..tables import data_frame, json_rows, json_text
from ..text_tables import table
from .options import BatchSize, Place, path_option

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Studied:
    """Which study, and its settings."""

    study: Annotated[
        Literal["single", "random", "reorder", "stage", "shortcut", "game", "predictors"],
        typer.Option(
            help="single: each block, then really drop some. random: k random blocks. reorder: random swaps. stage: "
            "within each stage. shortcut: only the shortcut. game: Shapley values. predictors: which cheap score "
            "predicts damage."
        ),
    ] = "single"
    metric: Annotated[
        str | None,
        typer.Option(
            help="error, loss, soft_error, disagreement, divergence, next_token_loss, perplexity, pixel_error, "
            "iou_error, squared_error, ... (default: depends on study and data; not for single deletions of images)."
        ),
    ] = None
    draws: Annotated[
        int, typer.Option(help="Random sets or orders for each number of blocks; for the game, pairs of orders.", min=1)
    ] = 10
    tolerance: Annotated[
        float | None, typer.Option(help="Sample the game until every standard error is at most this value.")
    ] = None
    journal: Annotated[
        Path | None,
        path_option("--journal", help="File that stores finished batches of images, to resume from."),
        Place(folder=False),
    ] = None
    batch_size: BatchSize = 100
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the random draws, and of the split into images for choosing and images for reporting."
        ),
    ] = 0

    def __post_init__(self) -> None:
        """Refuse an option that the study would ignore."""
        unused = {
            "--tolerance": self.tolerance is not None and self.study != "game",
            "--journal": self.journal is not None and self.study == "predictors",
        }
        for option, wrong in unused.items():
            if wrong:
                raise ValueError(f"expected --study {self.study} without {option}, which it does not use; leave it out")

    def common(self, metric: str, quiet: bool, data: rp.data.InMemory) -> dict[str, Any]:
        """The arguments of all studies; the default metric is for images."""
        from ..data.fitting import usual_metric

        usual = metric if isinstance(data, rp.ImageData) else usual_metric(data)
        return {"metric": self.metric or usual, "batch_size": self.batch_size, "progress": not quiet}

    def drawn(self, metric: str, quiet: bool, data: rp.data.InMemory) -> dict[str, Any]:
        """The arguments of studies that draw at random."""
        return {**self.common(metric, quiet, data), "draws": self.draws, "seed": self.seed, "journal": self.journal}


@dataclass(frozen=True, eq=False)
class Finding:
    """The results of a study: a table, a plot, facts, and how to read the numbers."""

    table: pd.DataFrame
    plot: Callable[[], Axes]
    facts: dict[str, Any]
    words: str


def run(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    """Run one study (but for ``single`` on images, which the command runs itself)."""
    return _STUDIES[options.study](net, data, options, quiet)


def _chance(data: rp.data.InMemory, metric: str | None) -> float | None:
    return 1 - 1 / len(data.classes) if isinstance(data, rp.ImageData) and metric in (None, "error") else None


def _single(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.single_deletions(net, data, journal=options.journal, **options.common("error", quiet, data))
    words = f"Each block deleted in turn; intervals are over {data.nouns}."
    return Finding(record.to_pandas(), lambda: rp.plot.plot_single_deletions(record), _facts(record), words)


def _random(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.random_deletions(net, data, **options.drawn("error", quiet, data))
    low, middle, high = record.quantiles()
    ends = record.median_interval()
    table = data_frame(
        {"deleted": record.counts, "median": middle, "low": ends[0], "high": ends[1], "tenth": low, "ninetieth": high}
    )
    words = f"Median over {options.draws} draws with its 95 % interval over {data.nouns}; 10th and 90th percentiles."
    chance = _chance(data, options.metric)
    return Finding(table, lambda: rp.plot.plot_random_deletions(record, chance=chance), _facts(record), words)


def _reorder(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.lesion.reorderings(net, data, **options.drawn("error", quiet, data))
    correlation, low, high = record.rank_correlation()
    words = (
        f"Rank correlation of the {record.metric} with Kendall's tau over {len(record.tau)} orders: {correlation:.2f} "
        f"(on more {data.nouns} it may lie between {low:.2f} and {high:.2f}). The closer it is to -1, the more "
        f"consistently the {record.metric} rises as the order changes."
    )
    facts = {**_facts(record), "rank_correlation": [correlation, low, high]}
    chance = _chance(data, options.metric)
    return Finding(record.by_swaps(), lambda: rp.plot.plot_reorderings(record, chance=chance), facts, words)


def _stage(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.lesion.stage_deletions(net, data, **options.drawn("error", quiet, data))
    rows = [
        {"stage": stage + 1, "blocks": len(blocks), "full_stage": value}
        for stage, (blocks, value) in enumerate(zip(record.stages, record.full_stage.tolist(), strict=True))
    ]
    words = f"The {record.results[0].metric} with all branches of a stage deleted. The plot shows the steps in between."
    return Finding(data_frame(rows), lambda: rp.plot.plot_stage_deletions(record), _facts(record.results[0]), words)


def _shortcut(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.lesion.shortcut_deletions(net, data, journal=options.journal, **options.common("error", quiet, data))
    words = "Only the shortcut of one block is deleted; its branch is kept."
    chance, rows = _chance(data, options.metric), record.to_pandas()
    return Finding(rows, lambda: rp.plot.plot_single_deletions(record, chance=chance), _facts(record), words)


def _game(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    record = rp.block_values(
        net,
        data,
        tolerance=options.tolerance,
        max_permutations=max(4, 2 * options.draws) if options.tolerance is None else 2000,
        seed=options.seed,
        journal=options.journal,
        **options.common("loss", quiet, data),
    )
    how = f"all 2^{len(record.blocks)} coalitions" if record.exhaustive else f"{record.orders} orders"
    words = (
        f"Shapley values from {how}, {record.coalitions} coalitions. They sum to {record.empty - record.full:+.4g}: "
        f"the {record.metric} is {record.empty:.4g} with no block and {record.full:.4g} with all. Above zero, the "
        "block lowers it."
    )
    facts = {**_facts(record), "empty": record.empty, "coalitions": record.coalitions, "orders": record.orders}
    return Finding(record.to_pandas(), lambda: rp.plot.plot_block_values(record), facts, words)


def _predictors(net: rp.UnrolledNetwork, data: rp.data.InMemory, options: Studied, quiet: bool) -> Finding:
    damage = rp.single_deletions(net, data, **options.common("loss", quiet, data))
    predictors = rp.lesion.damage_predictors(net, data, batch_size=options.batch_size, progress=not quiet)
    ranking = rp.lesion.rank_predictors(predictors, damage, seed=options.seed)
    trusted = ", ".join(ranking.trusted()) or "none"
    words = (
        f"Rank correlation of eight cheap predictors with the damage ({damage.metric}) of all {len(net)} single "
        f"deletions. Above 0.5 over the full range of uncertainty: {trusted}."
    )
    facts = {**_facts(damage), "trusted": list(ranking.trusted())}
    return Finding(ranking.to_pandas(), lambda: rp.plot.plot_predictor_ranking(ranking), facts, words)


_STUDIES: dict[str, Callable[[rp.UnrolledNetwork, rp.data.InMemory, Studied, bool], Finding]] = {
    "single": _single,
    "random": _random,
    "reorder": _reorder,
    "stage": _stage,
    "shortcut": _shortcut,
    "game": _game,
    "predictors": _predictors,
}


def _facts(record: Any) -> dict[str, Any]:
    return {
        "metric": record.metric,
        "full": record.full,
        "data": record.source.name,
        "model_fingerprint": record.source.model,
        "data_fingerprint": record.source.data,
    }


def as_json(name: str, finding: Finding, picture: Path) -> str:
    """The facts and the table."""
    rows = json_rows(finding.table)
    return json_text({"study": name, **finding.facts, "rows": rows, "picture": str(picture)})


def shown(finding: Finding, title: str) -> Table:
    """The table for a terminal."""
    rows = table(title)
    for column in finding.table:
        numeric = finding.table[column].dtype.kind in "biuf"
        rows.add_column(str(column).replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in finding.table.itertuples(index=False):
        rows.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return rows
