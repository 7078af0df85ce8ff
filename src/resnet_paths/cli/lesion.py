"""``resnet-paths lesion``: delete each block in turn, then drop the least important ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import resnet_paths as rp

from ..files import write_table
from ..nouns import counted
from ..tables import json_rows, json_text
from ..text_tables import show, table
from . import _studies
from ._app import command
from ._inputs import console, model_and_examples, unrolled
from .options import Json, Limit, Out, Subject

if TYPE_CHECKING:
    import numpy as np
    import torch


@command(
    "resnet-paths lesion",
    "resnet-paths lesion --model cifar-resnet56@weights.safetensors --data images.npz --count 5",
    "resnet-paths lesion --model mine.py:build --data photos/ --size 224",
    "resnet-paths lesion --study reorder --draws 20",
)
def lesion(
    subject: Subject,
    studied: _studies.Studied,
    limit: Limit = None,
    count: Annotated[
        int | None,
        typer.Option(
            help="Number of least important blocks to drop (default: as many as raise the error by at most "
            "--accuracy-drop on the half of the images used for choosing)."
        ),
    ] = None,
    accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="Allowed increase in error when choosing blocks, as a share of images (default: 0.01).", min=0
        ),
    ] = None,
    out: Out = Path("results/lesion"),
    as_json: Json = False,
) -> None:
    """Delete each block in turn, then drop the least important ones and measure what that saves.

    With no options it runs on the embedded ResNet-56 (27 blocks, trained on UCI digits), offline.
    """
    screen = console(quiet=as_json)
    network, images = model_and_examples(subject, limit)
    net = unrolled(network, images)
    blocks, some = counted(len(net), "residual block"), counted(len(images), images.noun)
    screen.print(f"{type(network).__name__}: {blocks}, {some} of {images.name}")
    if studied.study == "single" and isinstance(images, rp.ImageData) and studied.metric is not None:
        raise ValueError("expected --study single without --metric for images, which it does not use; leave it out")
    if studied.study != "single" or not isinstance(images, rp.ImageData):
        _check_nothing_to_choose(studied.study, count, accuracy_drop, images)
        _study(net, images, studied, out, screen, as_json)
        return
    running: rp.lesion.StudyOptions = {"batch_size": studied.batch_size, "journal": studied.journal}
    record = rp.single_deletions(net, images, **running)
    allowed = 0.01 if accuracy_drop is None else accuracy_drop
    dropped = _choose(net, images, count, allowed, studied.seed, running)
    report = _dropped(net, images, dropped, studied.seed, running)
    picture = rp.plot.save(
        rp.plot.plot_single_deletions(record, chance=1 - 1 / len(images.classes)), out / "lesion.png"
    )
    write_table(out / "lesion.csv", record.to_pandas())
    if as_json:
        typer.echo(json_text(_as_json(record, report, picture)))
        return
    show(screen, _table(record))
    if dropped:
        show(screen, _comparison(report))
        screen.print(f"[dim]The code: drop_blocks(model, {dropped})[/dim]")
    else:
        screen.print(_nothing_dropped(count, allowed))
    screen.print(f"Written: {picture} and {out / 'lesion.csv'}")


def _check_nothing_to_choose(
    study: str, count: int | None, accuracy_drop: float | None, data: rp.data.InMemory
) -> None:
    """Refuse to choose blocks in a study that drops none."""
    for option, given in (("--count", count), ("--accuracy-drop", accuracy_drop)):
        if given is not None:
            use = "single deletions of images" if study != "single" else "images of one class each"
            raise ValueError(
                f"expected {option} only for {use}, got --study {study} of {data.nouns}; leave it out, or plan with "
                "resnet-paths plan"
            )


def _study(
    net: rp.UnrolledNetwork,
    images: rp.data.InMemory,
    studied: _studies.Studied,
    out: Path,
    screen: Console,
    as_json: bool,
) -> None:
    """Run one study: print and write its table, and write its plot."""
    name, finding = studied.study, _studies.run(net, images, studied, as_json)
    picture = rp.plot.save(finding.plot(), out / f"{name}.png")
    write_table(out / f"{name}.csv", finding.table)
    if as_json:
        typer.echo(_studies.as_json(name, finding, picture))
        return
    title = f"{name}: {finding.facts['metric']} {finding.facts['full']:.4g} undamaged"
    show(screen, _studies.shown(finding, title))
    screen.print(finding.words)
    screen.print(f"Written: {picture} and {out / f'{name}.csv'}")


def _choose(
    net: rp.UnrolledNetwork,
    images: rp.ImageData,
    count: int | None,
    accuracy_drop: float,
    seed: int,
    running: rp.lesion.StudyOptions,
) -> list[int]:
    """The blocks to drop, judged on the first half of the images, in the order of their single damage."""
    import numpy as np

    from ..lesion.evaluate import deletion_gates

    if count is not None and not 0 <= count <= len(net):
        raise ValueError(f"expected --count from 0 to {len(net)}, the number of blocks, got {count}")
    half, _ = images.halves(seed)
    _, loss = rp.lesion.metric_named("loss")
    singles = deletion_gates([[block] for block in range(len(net))], len(net))
    alone = rp.lesion.evaluate_gates(net, half, singles, loss, **running).mean(1)
    order = [int(index) for index in np.argsort(alone, kind="stable")]
    if count is not None:
        return sorted(order[:count])
    gates = deletion_gates([order[:size] for size in range(len(net) + 1)], len(net))
    _, wrong = rp.lesion.metric_named("error")
    errors = rp.lesion.evaluate_gates(net, half, gates, wrong, **running).mean(1)
    most = int(np.flatnonzero(errors <= errors[0] + accuracy_drop).max())
    return sorted(order[:most])


def _dropped(
    net: rp.UnrolledNetwork, images: rp.ImageData, chosen: list[int], seed: int, running: rp.lesion.StudyOptions
) -> dict[str, Any]:
    """Accuracy on the other half, parameters and latency, before and after."""
    from ..graph.inputs import placed
    from ..lesion.evaluate import deletion_gates

    _, other = images.halves(seed)
    smaller = rp.drop_blocks(net, chosen)
    x = placed(other.subset(slice(0, min(32, len(other)))).x, net.model)
    _, wrong = rp.lesion.metric_named("error")
    errors = rp.lesion.evaluate_gates(net, other, deletion_gates([[], chosen], len(net)), wrong, **running)
    before, after = rp.tradeoff.latencies_in_turn([net.model, smaller], x)
    return {
        "dropped": chosen,
        "names": [net[index].name for index in chosen],
        "images": len(other),
        "before": _side(net.model, before, 1 - errors[0], x[:1]),
        "after": _side(smaller, after, 1 - errors[1], x[:1]),
    }


def _side(
    model: torch.nn.Module, latency: rp.tradeoff.Timing, right: np.ndarray, image: torch.Tensor
) -> dict[str, Any]:
    low, high = rp.lesion.interval(right)
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": [low, high],
        "parameters": rp.tradeoff.count_parameters(model),
        "macs": rp.tradeoff.count_macs(model, image),
        "latency": {"median": latency.median, "low": latency.low, "high": latency.high, "batch": latency.batch},
    }


def _as_json(record: rp.lesion.SingleDeletions, report: dict[str, Any], picture: Path) -> dict[str, Any]:
    return {
        "data": record.source.name,
        "images": int(record.per_image.shape[1]),
        "error": record.full,
        "blocks": json_rows(record.to_pandas()),
        "drop": report,
        "picture": str(picture),
        "model_fingerprint": record.source.model,
        "data_fingerprint": record.source.data,
    }


def _table(record: rp.lesion.SingleDeletions) -> Table:
    title = f"Error after deleting one block (full network: {record.full:.2%})"
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


def _nothing_dropped(count: int | None, accuracy_drop: float) -> str:
    if count == 0:
        return "No block was dropped, because of --count 0."
    return (
        "No block can be dropped: on the half of the images used for choosing, deleting any block raises the error by "
        f"more than {100 * accuracy_drop:g} points. A larger --accuracy-drop allows more; --count 1 drops one anyway."
    )


def _comparison(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    batch = before["latency"]["batch"]
    dropped = f"{len(report['dropped'])} block" + ("s" if len(report["dropped"]) > 1 else "")
    rows = table(
        f"Dropping {dropped}, chosen on half of the images, measured on the other half ({report['images']} images)",
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
    for key, name in (("parameters", "parameters"), ("macs", "multiply-adds per image")):
        rows.add_row(name, f"{before[key]:,}", f"{after[key]:,}", f"{after[key] / max(1, before[key]):.2f}")
    times = [1e3 * side["latency"]["median"] for side in (before, after)]
    rows.add_row(f"latency, batch {batch}", f"{times[0]:.1f} ms", f"{times[1]:.1f} ms", f"{times[1] / times[0]:.2f}")
    return rows
