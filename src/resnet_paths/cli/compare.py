"""``resnet-paths compare``: models or checkpoints side by side, on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.table import Table

import resnet_paths as rp

from ..choices import ComparedPart, MetricName
from ..files import write_table
from ..tables import json_rows, json_text
from ..text_tables import show, table
from ._app import command
from ._inputs import console, model_and_examples, unrolled
from .options import Json, Limit, Out, Place, Seed, Subject, path_option


@dataclass(frozen=True)
class Measured:
    """What is measured of each model."""

    metric: Annotated[MetricName, typer.Option(help="What is measured for each image.")] = "error"
    draws: Annotated[int, typer.Option(help="Random sets for each number of deleted blocks.", min=1)] = 10
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            help="Measure this too; repeat for more. effective: effective paths; recommended: blocks dropped in a "
            "greedy order; shapley: each block's value if others may be missing; surface: the loss around the weights; "
            "curvature; latency.",
        ),
    ] = None
    gradient_images: Annotated[int, typer.Option(help="Number of images for gradients by path length.", min=2)] = 32
    confidence: Annotated[float, typer.Option(help="Coverage of each interval.")] = 0.95

    def __post_init__(self) -> None:
        """Refuse parts that do not exist."""
        known = get_args(ComparedPart)
        for part in self.parts or []:
            if part not in known:
                raise ValueError(f"expected --part to be one of {', '.join(known)}, got {part!r}")


@command(
    "resnet-paths compare --model embedded --other smaller/",
    "resnet-paths compare --model run/epoch-0010.safetensors --other run/epoch-0100.safetensors --data cifar10",
    "resnet-paths compare --model run/ --part latency --part surface",
)
def compare(
    subject: Subject,
    measured: Measured,
    other: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            help="A model to compare with --model, in the same forms; repeat it for more. The folder of a training "
            "run with --keep all stands for its checkpoints, here and in --model.",
        ),
    ] = None,
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
    """Compare models on the same images: metric, blocks, deletions, paths, and contributions of blocks.

    Differences from --model are paired by image.
    """
    screen = console(quiet=as_json)
    networks: dict[str, rp.UnrolledNetwork] = {}
    images: dict[str, rp.data.InMemory] = {}
    for name, (spec, option) in _named(subject.model, other or []).items():
        model, images[name] = model_and_examples(replace(subject, model=spec), limit)
        networks[name] = unrolled(model, images[name], option)
    if len(networks) < 2:
        raise ValueError("expected --other with a second model, or the folder of a run as --model, got neither")
    first = [] if measured.parts and "contributions" in measured.parts else _usual_parts(images)
    asked = asdict(measured) | {"parts": [*first, *(measured.parts or [])]}
    record = rp.compare(
        networks,
        images,
        **asked,
        seed=seed,
        journal=journal,
        progress=not as_json,
    )
    picture = rp.plot.save(rp.plot.plot_comparison(record)[0], out / "compare.png")
    if record.is_film:
        rp.plot.save(rp.plot.plot_checkpoints(record)[0], out / "film.png")
    if record.surfaces:
        rp.plot.save(rp.plot.plot_surface_twins(record.surfaces, log=True)[0], out / "surfaces.png")
    write_table(out / "compare.csv", record.to_pandas())
    write_table(out / "blocks.csv", record.by_block())
    write_table(out / "lengths.csv", record.by_length())
    page = rp.report.write_comparison(record, out / "compare.html")
    saved = record.save(out / "compare.npz")
    if as_json:
        typer.echo(json_text(_as_json(record, picture, page)))
        return
    from ..report.side_by_side import latency_sentences, most_different

    show(screen, _table(record))
    for text in (most_different(record), *latency_sentences(record)):
        screen.print(text, highlight=False, markup=False)
    screen.print(f"Written: {page}; beside it the plot, the tables and the record ({saved.name})", soft_wrap=True)


def _named(first: str, others: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each model to load and the option that names it, by name; a run's folder is replaced by its checkpoints."""
    from ..models.load import written_file

    specs: list[tuple[str, str, str]] = []
    for option, given in (("--model", first), *(("--other", other) for other in others)):
        folder = Path(given).is_dir() and written_file(given) is None
        files = rp.comparison.checkpoints_in(given) if folder else {given: given}
        specs += [(name, str(file), option) for name, file in files.items()]
    from ..comparison.checkpoints import told_apart

    names = told_apart([name for name, _, _ in specs])
    return {name: (spec, option) for name, (_, spec, option) in zip(names, specs, strict=True)}


def _usual_parts(images: Mapping[str, rp.data.InMemory]) -> list[ComparedPart]:
    """Contributions to the logits of classes, where each example is of one class."""
    from ..comparison.measuring import one_class_each

    return ["contributions"] if all(map(one_class_each, images.values())) else []


def _as_json(record: rp.comparison.Comparison, picture: Path, page: Path) -> dict[str, Any]:
    return {
        "images": record.images,
        "metric": record.metric,
        "models": json_rows(record.to_pandas()),
        "blocks": json_rows(record.by_block()),
        "page": str(page),
        "picture": str(picture),
        "model_fingerprints": [source.model for source in record.sources],
        "data_fingerprint": record.source.data,
        "seed": record.source.seed,
    }


def _table(record: rp.comparison.Comparison) -> Table:
    rows = table(
        f"{record.metric} of {record.images} {record.source.nouns}; differences from the first model, paired by "
        f"{record.source.noun}",
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
            "" if math.isnan(record.mean_length[index]) else f"{record.mean_length[index]:.2f}",
            f"{record.parameters[index]:,}",
        )
    return rows
