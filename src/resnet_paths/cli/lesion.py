"""``resnet-paths lesion``: delete each block in turn, then really drop the least important ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from ..data import ImageData
from ..files import write_table
from ..lesion import SingleDeletions, StudyOptions, evaluate_gates, interval, metric_named, single_deletions
from ..network import UnrolledNetwork
from ..network.unrolled import placed
from ..plot import plot_single_deletions, save
from ..surgery import drop_blocks
from ..tradeoff import Timing, count_macs, count_parameters, latencies_in_turn
from . import _studies
from ._common import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    MeanOption,
    ModelOption,
    OutOption,
    SizeOption,
    StdOption,
    console,
    model_and_data,
    unrolled,
    user_errors,
)
from ._places import Place, path_option
from ._tables import show, table

DropOption = Annotated[
    int | None,
    typer.Option(
        "--drop",
        help="How many of the least important blocks to drop (default: as many as raise the error by no more than "
        "--tolerance on the half of the images on which they are chosen).",
    ),
]
ToleranceOption = Annotated[float, typer.Option("--tolerance", help="Rise of the error allowed when choosing.", min=0)]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed", help="Seed of the random draws, and of the split into images to choose on and images to report on."
    ),
]
StudyOption = Annotated[
    _studies.StudyName,
    typer.Option(
        "--study",
        help="single: each block, then really drop some. random: k random blocks. reorder: random swaps. stage: within "
        "each stage. shortcut: only the shortcut. game: Shapley values. predictors: which cheap number foretells "
        "damage.",
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="error, loss, soft_error, top5_error, disagreement, soft_disagreement, divergence (default: of the study; "
        "not for single).",
    ),
]
DrawsOption = Annotated[
    int, typer.Option("--draws", help="Random sets or orders for each number; pairs of orders of the game.", min=1)
]
PrecisionOption = Annotated[
    float | None, typer.Option("--precision", help="Sample the game until every standard error is at most this.")
]
JournalOption = Annotated[
    Path | None,
    path_option("--journal", help="A file that keeps finished batches of images, to resume from."),
    Place(folder=False),
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths lesion\n\n"
        "  resnet-paths lesion --model cifar-resnet56@weights.safetensors --data images.npz --drop 5\n\n"
        "  resnet-paths lesion --model mine.py:build --data photos/ --size 224\n\n"
        "  resnet-paths lesion --study reorder --draws 20"
    )
    @user_errors
    def lesion(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        study: StudyOption = _studies.StudyName.SINGLE,
        metric: MetricOption = None,
        draws: DrawsOption = 10,
        precision: PrecisionOption = None,
        journal: JournalOption = None,
        limit: LimitOption = None,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        batch_size: BatchOption = 100,
        drop: DropOption = None,
        tolerance: ToleranceOption = 0.01,
        seed: SeedOption = 0,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/lesion"),
        as_json: JsonOption = False,
    ) -> None:
        """Delete each block in turn; then drop the least important ones and measure what that saves.

        With no options it runs on the embedded ResNet-56 (27 blocks, trained on UCI digits), offline.
        """
        _studies.check(study, metric, precision, journal)
        screen = console(quiet=as_json)
        network, images = model_and_data(model, data, limit, size, device, mean, std)
        net = unrolled(network, images)
        screen.print(f"{type(network).__name__}: {len(net)} residual blocks, {len(images)} images of {images.name}")
        if study is not _studies.StudyName.SINGLE:
            options = _studies.Options(metric, draws, precision, seed, batch_size, journal, as_json)
            _study(study, net, images, options, out, screen, as_json)
            return
        running: StudyOptions = {"batch_size": batch_size, "journal": journal}
        record = single_deletions(net, images, **running)
        chosen = _choose(net, images, drop, tolerance, seed, running)
        report = _dropped(net, images, chosen, seed, running)
        picture = save(plot_single_deletions(record, chance=1 - 1 / len(images.classes)), out / "lesion.png")
        write_table(out / "lesion.csv", record.to_pandas())
        if as_json:
            typer.echo(json.dumps(_as_json(record, report, picture), indent=2))
            return
        show(screen, _table(record))
        if chosen:
            show(screen, _comparison(report))
            screen.print(f"[dim]The code: drop_blocks(model, {chosen})[/dim]")
        else:
            screen.print(_nothing_dropped(drop, tolerance))
        screen.print(f"Written: {picture} and {out / 'lesion.csv'}")


def _study(
    name: _studies.StudyName,
    net: UnrolledNetwork,
    images: ImageData,
    options: _studies.Options,
    out: Path,
    screen: Console,
    as_json: bool,
) -> None:
    """One study: its table on screen and in a file, its picture."""
    finding = _studies.run(name, net, images, options)
    picture = save(finding.plot(), out / f"{name}.png")
    write_table(out / f"{name}.csv", finding.table)
    if as_json:
        typer.echo(_studies.as_json(name, finding, picture))
        return
    title = f"{name}: {finding.facts['metric']} {finding.facts['whole']:.4g} undamaged"
    show(screen, _studies.shown(finding, title))
    screen.print(finding.words)
    screen.print(f"Written: {picture} and {out / f'{name}.csv'}")


def _choose(
    net: UnrolledNetwork, images: ImageData, count: int | None, tolerance: float, seed: int, running: StudyOptions
) -> list[int]:
    """The blocks to drop, judged on the first half of the images: in the order of their damage alone."""
    if count is not None and not 0 <= count <= len(net):
        raise ValueError(f"expected --drop from 0 to {len(net)}, the number of blocks, got {count}")
    half, _ = images.halves(seed)
    _, loss = metric_named("loss")
    alone = evaluate_gates(net, half, 1 - torch.eye(len(net), device="cpu"), loss, **running).mean(1)
    order = [int(index) for index in np.argsort(alone, kind="stable")]
    if count is not None:
        return sorted(order[:count])
    gates = torch.ones(len(net) + 1, len(net), device="cpu")
    for row in range(1, len(net) + 1):
        gates[row, order[:row]] = 0
    _, wrong = metric_named("error")
    errors = evaluate_gates(net, half, gates, wrong, **running).mean(1)
    most = int(np.flatnonzero(errors <= errors[0] + tolerance).max())
    return sorted(order[:most])


def _dropped(
    net: UnrolledNetwork, images: ImageData, chosen: list[int], seed: int, running: StudyOptions
) -> dict[str, Any]:
    """Accuracy on the other half, parameters and latency, before and after."""
    _, other = images.halves(seed)
    smaller = drop_blocks(net, chosen)
    x = placed(other.subset(slice(0, min(32, len(other)))).x, net.model)
    _, wrong = metric_named("error")
    gates = torch.ones(2, len(net), device="cpu")
    gates[1, chosen] = 0
    errors = evaluate_gates(net, other, gates, wrong, **running)
    before, after = latencies_in_turn([net.model, smaller], x)
    return {
        "dropped": chosen,
        "names": [net[index].name for index in chosen],
        "images": len(other),
        "before": _side(net.model, before, 1 - errors[0], x[:1]),
        "after": _side(smaller, after, 1 - errors[1], x[:1]),
    }


def _side(model: torch.nn.Module, latency: Timing, right: np.ndarray, image: torch.Tensor) -> dict[str, Any]:
    low, high = interval(right)
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": [low, high],
        "parameters": count_parameters(model),
        "macs": count_macs(model, image),
        "latency": {"median": latency.median, "low": latency.low, "high": latency.high, "batch": latency.batch},
    }


def _as_json(record: SingleDeletions, report: dict[str, Any], picture: Path) -> dict[str, Any]:
    return {
        "data": record.data,
        "images": int(record.per_image.shape[1]),
        "error": record.whole,
        "blocks": json.loads(record.to_pandas().to_json(orient="records")),
        "drop": report,
        "picture": str(picture),
        "model_fingerprint": record.model_fingerprint,
        "data_fingerprint": record.data_fingerprint,
    }


def _table(record: SingleDeletions) -> Table:
    title = f"Error after deleting one block (whole network: {record.whole:.2%})"
    rows = table(title, ["block", "name", "shortcut"], ["error", "95 % interval", "damage"])
    for index, name in enumerate(record.names):
        style = "bold" if record.shortcuts[index] != "identity" else ""
        rows.add_row(
            str(index),
            name,
            record.shortcuts[index],
            f"{record.values[index]:.2%}",
            f"{record.low[index]:.1%} to {record.high[index]:.1%}",
            f"{100 * record.damage[index]:+.2f} points",
            style=style,
        )
    return rows


def _nothing_dropped(count: int | None, tolerance: float) -> str:
    if count == 0:
        return "No block was dropped, as asked by --drop 0."
    return (
        "No block can be dropped: on the half of the images on which blocks are chosen, leaving out any of them "
        f"raises the error by more than {100 * tolerance:g} points. A larger --tolerance allows more; --drop 1 drops "
        "one all the same."
    )


def _comparison(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    batch = before["latency"]["batch"]
    dropped = f"{len(report['dropped'])} block" + ("s" if len(report["dropped"]) > 1 else "")
    rows = table(
        f"Dropping {dropped}, chosen on one half of the images, measured on the other ({report['images']} images)",
        [""],
        ["before", "after", "ratio"],
    )
    low, high = after["accuracy_interval"]
    rows.add_row(
        "accuracy",
        f"{before['accuracy']:.2%}",
        f"{after['accuracy']:.2%} ({low:.1%} to {high:.1%})",
        f"{100 * (after['accuracy'] - before['accuracy']):+.2f} points",
    )
    for key, name in (("parameters", "parameters"), ("macs", "multiply-adds, an image")):
        rows.add_row(name, f"{before[key]:,}", f"{after[key]:,}", f"{after[key] / max(1, before[key]):.2f}")
    times = [1e3 * side["latency"]["median"] for side in (before, after)]
    rows.add_row(f"latency, batch {batch}", f"{times[0]:.1f} ms", f"{times[1]:.1f} ms", f"{times[1] / times[0]:.2f}")
    return rows
