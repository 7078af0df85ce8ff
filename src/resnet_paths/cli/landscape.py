"""``resnet-paths landscape``: the loss around a trained network, along random directions, checkpoints or gates."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from torch import nn

from ..data import ImageData
from ..files import write_table, write_text
from ..landscape import (
    Direction,
    Surface,
    direction_between,
    gate_surface,
    loss_surface,
    random_direction,
    roughness,
    save_surface,
    save_vtk,
)
from ..plot import interactive_surface, plot_surface_line, plot_surface_twins, save
from ..sweep import local_workers
from ._common import (
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
    fitting,
    model_and_data,
    named_model,
    unrolled,
    user_errors,
)
from ._places import Place, path_option
from ._tables import show, table

TwinOption = Annotated[
    str | None, typer.Option("--twin", help="A second model, such as the plain twin, on the same draws and scale.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", help="A checkpoint of the same model: the line from --model (0) to it (1).")
]
GatesOption = Annotated[
    str | None, typer.Option("--gates", help="Blocks for the axes: 'layer1.0' or '3' for a line, '3,layer2.1' for two.")
]
LineOption = Annotated[bool, typer.Option("--line", help="One direction instead of two.")]
PointsOption = Annotated[int, typer.Option("--points", help="Coordinates an axis.", min=1, max=10_000)]
RangeOption = Annotated[
    str | None, typer.Option("--range", help="Coordinates of x and y, LOW:HIGH (default -1:1; for gates 0:1).")
]
YRangeOption = Annotated[
    str | None, typer.Option("--y-range", help="Coordinates of y, where they differ from those of x.")
]
NormaliseOption = Annotated[str, typer.Option("--normalise", help="filter, layer, model or none.")]
NormOption = Annotated[
    str, typer.Option("--batchnorm", help="Statistics of batch norms: frozen, recalibrated or batch.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="Compute in bfloat16 or float64 instead of the model's type.")
]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", help="Images at a time (default: what suits the cache).", min=1)
]
JournalOption = Annotated[
    Path | None,
    path_option("--journal", help="Keep finished cells here; the same command goes on from them."),
    Place(folder=False),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the random directions.")]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes (default: this one).", min=0)]
LogOption = Annotated[
    bool | None,
    typer.Option("--log/--linear", help="Scale of the drawing (default: logarithmic where losses differ 50 times)."),
]
HtmlOption = Annotated[bool, typer.Option("--html", help="Also write a page to turn the surface in (plotly).")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths landscape --limit 100 --points 9\n\n"
        "  resnet-paths landscape --model skip.safetensors --twin plain.safetensors --log\n\n"
        "  resnet-paths landscape --gates layer1.0,layer2.3"
    )
    @user_errors
    def landscape(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        twin: TwinOption = None,
        to: ToOption = None,
        gates: GatesOption = None,
        line: LineOption = False,
        points: PointsOption = 21,
        span: RangeOption = None,
        y_span: YRangeOption = None,
        normalise: NormaliseOption = "filter",
        batchnorm: NormOption = "frozen",
        seed: SeedOption = 0,
        limit: LimitOption = None,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        batch_size: BatchOption = None,
        dtype: DtypeOption = None,
        journal: JournalOption = None,
        workers: WorkersOption = 0,
        log: LogOption = None,
        html: HtmlOption = False,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/landscape"),
        as_json: JsonOption = False,
    ) -> None:
        """Draw the loss around a trained network, and say how rough it is.

        Random directions in filter norm (Li et al. 2018), the line to another checkpoint, or the gates of blocks. The
        picture is there early: the grid is computed coarse first, and drawn again whenever it is twice as fine.
        """
        screen = console(quiet=as_json)
        network, images = model_and_data(model, data, limit, size, device, mean, std)
        _check_ways(twin, to, gates, line)
        fitting(network, images)
        flat = line or to is not None or (gates is not None and "," not in gates)
        low_high = span or ("0:1" if gates or to else "-1:1")
        x = np.linspace(*_range(low_high), points)
        y = None if flat else np.linspace(*_range(y_span or low_high), points)
        options: dict[str, Any] = {"x": x, "batch_size": batch_size, "dtype": _dtype(dtype), "journal": journal}
        options |= {"y": y, "progress": not as_json}

        networks = {model: network}
        if twin is not None:
            networks[twin] = named_model(twin, "--twin").to(device)
            fitting(networks[twin], images, "--twin")
        surfaces: dict[str, Surface] = {}
        with local_workers(workers) if workers else nullcontext() as executor:
            for name, one in networks.items():

                def preview(surface: Surface, name: str = name) -> None:
                    _draw({**surfaces, name: surface}, log, out)

                every = {
                    **options,
                    "batchnorm": batchnorm,
                    "executor": executor,
                    "preview": preview if points > 8 else None,
                }
                if gates is not None:
                    surfaces[name] = _over_gates(one, images, gates, every)
                else:
                    chosen = [_to(one, to)] if to else _random(one, seed, normalise, 1 if flat else 2)
                    surfaces[name] = loss_surface(one, images, directions=chosen, **every)
        written = _write(surfaces, log, html, out)
        rows = {name: _numbers(surface) for name, surface in surfaces.items()}
        if as_json:
            typer.echo(json.dumps({"surfaces": rows, "files": [str(path) for path in written]}, indent=2))
            return
        show(screen, _table(rows))
        screen.print(f"Written: {', '.join(str(path) for path in written)}")


def _check_ways(twin: str | None, to: str | None, gates: str | None, line: bool) -> None:
    if to and gates:
        raise ValueError("expected either --to or --gates, got both")
    if twin and to:
        raise ValueError("expected --twin with random directions or gates, got --to: a twin has no way to it")
    if line and gates:
        raise ValueError("expected --gates without --line: one block makes a line, two make a plane")


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = (0.0, 0.0)
    if not colon or not -np.inf < ends[0] < ends[1] < np.inf:
        raise ValueError(f"expected a range LOW:HIGH such as -1:1, got {text!r}")
    return ends


def _dtype(name: str | None) -> torch.dtype | None:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    if name is not None and name not in known:
        raise ValueError(f"expected --dtype among {', '.join(known)}, got {name!r}")
    return None if name is None else known[name]


def _random(model: nn.Module, seed: int, normalise: str, count: int) -> list[Direction]:
    return [random_direction(model, seed=2 * seed + k, normalise=normalise) for k in range(count)]  # type: ignore[arg-type]


def _to(model: nn.Module, checkpoint: str) -> Direction:
    return direction_between(model, named_model(checkpoint, "--to"))


def _over_gates(model: nn.Module, images: ImageData, gates: str, options: dict[str, Any]) -> Surface:
    blocks: list[int | str] = [int(block) if block.lstrip("-").isdecimal() else block for block in gates.split(",")]
    if len(blocks) > 2:
        raise ValueError(f"expected one block or two with --gates, got {len(blocks)}")
    net = unrolled(model.eval(), images)
    return gate_surface(net, images, x_blocks=blocks[0], y_blocks=blocks[1] if len(blocks) > 1 else None, **options)


def _spread(surfaces: dict[str, Surface]) -> bool:
    """Whether the losses differ so much that a linear scale shows one corner alone."""
    losses = np.concatenate([surface.values["loss"].ravel() for surface in surfaces.values()])
    positive = losses[np.isfinite(losses) & (losses > 0)]
    return bool(len(positive)) and float(positive.max()) > 50 * float(positive.min())


def _draw(surfaces: dict[str, Surface], log: bool | None, out: Path) -> Path:
    log = _spread(surfaces) if log is None else log
    first = next(iter(surfaces.values()))
    if first.y is None:
        ax = None
        for (name, surface), colour in zip(surfaces.items(), ("#0072B2", "#E69F00"), strict=False):
            ax = plot_surface_line(surface, ax=ax, label=name, colour=colour)
        if ax is not None and log:
            ax.set_yscale("log")
    else:
        ax = plot_surface_twins(surfaces, log=log)[0]
    if ax is None:
        raise ValueError("expected a surface to draw, got none")
    return save(ax, out / "landscape.png")


def _write(surfaces: dict[str, Surface], log: bool | None, html: bool, out: Path) -> list[Path]:
    written = [_draw(surfaces, log, out)]
    for place, surface in enumerate(surfaces.values()):
        stem = "landscape" if place == 0 else "landscape_twin"
        write_table(out / f"{stem}.csv", surface.to_frame())
        written += [out / f"{stem}.csv", save_surface(surface, out / f"{stem}.npz")]
        written.append(save_vtk(surface, out / f"{stem}.vtk"))
    if html:
        page = out / "landscape.html"
        figure = interactive_surface(surfaces, log=_spread(surfaces) if log is None else log)
        write_text(page, figure.to_html())
        written.append(page)
    return written


def _numbers(surface: Surface) -> dict[str, Any]:
    loss = surface.values["loss"]
    finite = loss[np.isfinite(loss)]
    found: dict[str, Any] = {
        "cells": int(loss.size),
        "not finite": int(loss.size - finite.size),
        "lowest loss": float(finite.min()) if finite.size else None,
        "highest loss": float(finite.max()) if finite.size else None,
        "seconds a cell": float(np.nanmean(surface.seconds)),
        "cosine of the axes": surface.cosine,
    }
    try:
        rough = roughness(surface)
    except ValueError:  # too few coordinates, or none with finite neighbours
        return found
    return found | {
        "convex cells": rough.convex,
        "negative curvature": rough.negative,
        "deviation from a quadratic": rough.deviation,
    }


def _table(rows: dict[str, dict[str, Any]]) -> Table:
    shown = table("Loss surface", [""], list(rows))
    for number in next(iter(rows.values())):
        cells = [row.get(number) for row in rows.values()]
        shown.add_row(number, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return shown
