"""``resnet-paths compare``: models or checkpoints side by side, on the same images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import resnet_paths as rp

from ..choices import MetricName
from ..files import write_table
from ..tables import json_rows
from ..text_tables import show, table
from ._app import command
from ._inputs import console, model_and_data, unrolled
from .options import Json, Limit, Out, Place, Seed, Subject, path_option


@dataclass(frozen=True)
class Measured:
    """What is measured of each model."""

    metric: Annotated[MetricName, typer.Option(help="What is measured for each image.")] = "error"
    draws: Annotated[int, typer.Option(help="Random sets for each number of deleted blocks.", min=1)] = 10
    gradient_images: Annotated[int, typer.Option(help="Number of images for gradients by path length.", min=2)] = 32
    confidence: Annotated[float, typer.Option(help="Coverage of each interval.")] = 0.95


@command(
    "resnet-paths compare --model embedded --other smaller/",
    "resnet-paths compare --model run/epoch-0010.safetensors --other run/epoch-0100.safetensors --data cifar10",
)
def compare(
    subject: Subject,
    other: Annotated[
        list[str],
        typer.Option("--other", help="A model to compare with --model, in the same forms; repeat it for more."),
    ],
    measured: Measured,
    limit: Limit = None,
    seed: Seed = 0,
    journal: Annotated[
        Path | None,
        path_option("--journal", help="Save finished models here; the same command resumes from them."),
        Place(folder=False),
    ] = None,
    out: Out = Path("results/compare"),
    as_json: Json = False,
) -> None:
    """Compare models on the same images: metric, blocks, deletions, and gradients by path length.

    Differences from --model are paired by image.
    """
    screen = console(quiet=as_json)
    networks: dict[str, rp.UnrolledNetwork] = {}
    images: dict[str, rp.ImageData] = {}
    for spec in (subject.model, *other):
        name = spec if spec not in networks else f"{spec} ({len(networks) + 1})"
        model, images[name] = model_and_data(replace(subject, model=spec), limit)
        networks[name] = unrolled(model, images[name], "--other" if networks else "--model")
    record = rp.compare(
        networks,
        images,
        **asdict(measured),
        seed=seed,
        journal=journal,
        progress=not as_json,
    )
    picture = rp.plot.save(rp.plot.plot_comparison(record)[0], out / "compare.png")
    write_table(out / "compare.csv", record.to_pandas())
    write_table(out / "blocks.csv", record.by_block())
    saved = record.save(out / "compare.npz")
    if as_json:
        typer.echo(json.dumps(_as_json(record, picture), indent=2))
        return
    show(screen, _table(record))
    screen.print(_most_different(record))
    screen.print(f"Written: {picture}, {out / 'compare.csv'}, {out / 'blocks.csv'} and {saved}")


def _as_json(record: rp.comparison.Comparison, picture: Path) -> dict[str, Any]:
    return {
        "images": record.images,
        "metric": record.metric,
        "models": json_rows(record.to_pandas()),
        "blocks": json_rows(record.by_block()),
        "picture": str(picture),
        "model_fingerprints": [source.model for source in record.sources],
        "data_fingerprint": record.source.data,
        "seed": record.source.seed,
    }


def _table(record: rp.comparison.Comparison) -> Table:
    rows = table(
        f"{record.metric} of {record.images} images; differences from the first model, paired by image",
        ["model"],
        ["blocks", record.metric, f"difference ({record.confidence:.0%})", "mean length", "parameters"],
    )
    for index, name in enumerate(record.models):
        ends = f"{record.difference_low[index]:+.4g} to {record.difference_high[index]:+.4g}"
        rows.add_row(
            name,
            str(int((record.block_indices[index] >= 0).sum())),
            f"{record.values[index]:.4g}",
            f"{record.difference[index]:+.4g} ({ends})" if index else "",
            f"{record.mean_length[index]:.2f}",
            f"{record.parameters[index]:,}",
        )
    return rows


def _most_different(record: rp.comparison.Comparison) -> str:
    """The block whose damage differs most from the reference, if any differs by more than its interval."""
    import numpy as np

    low, high = record.damage_difference_low, record.damage_difference_high
    told = (low > 0) | (high < 0)
    if not told.any():
        return "No block's damage differs by more than its interval."
    model, row = np.unravel_index(np.argmax(np.where(told, abs(record.damage_difference), 0)), told.shape)
    compared = int(np.isfinite(record.damage_difference[1:]).sum())
    return (
        f"For {int(told.sum())} of {compared} blocks, the interval of the difference in damage (each on its own) "
        f"excludes zero. The largest difference: {record.blocks[row]} of {record.models[model]}, "
        f"{record.damage_difference[model, row]:+.4g} ({low[model, row]:+.4g} to {high[model, row]:+.4g})."
    )
