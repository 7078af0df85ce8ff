"""``resnet-paths landscape``: the loss along random directions, between checkpoints, or over gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

import resnet_paths as rp

from ..files import write_table, write_text
from ..tables import json_text
from ..text_tables import show, table
from ._app import command
from ._inputs import block_names, console, fitting, model_and_examples, named_model, unrolled
from .options import Axes, Cells, Json, Limit, Out, Subject

if TYPE_CHECKING:
    from torch import nn

Surfaces = dict[str, "rp.landscape.Surface"]


# A command has a parameter for each of its options, whatever their number.
@command(
    "resnet-paths landscape --limit 100 --points 9",
    "resnet-paths landscape --model skip.safetensors --twin plain.safetensors --log",
    "resnet-paths landscape --gates layer1.0,layer2.3 --loss soft_error",
)
def landscape(
    subject: Subject,
    axes: Axes,
    cells: Cells,
    twin: Annotated[
        str | None, typer.Option(help="A second model, such as the plain twin, on the same draws and the same scale.")
    ] = None,
    limit: Limit = None,
    log: Annotated[
        bool | None,
        typer.Option(
            "--log/--linear", help="Scale of the plot (default: logarithmic if losses differ by a factor of 50)."
        ),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Also write an interactive 3-D plot (plotly HTML).")] = False,
    out: Out = Path("results/landscape"),
    as_json: Json = False,
) -> None:
    """Plot the loss around a trained network, and measure how rough it is.

    Along filter-normalised random directions (Li et al. 2018), along the line to another checkpoint, or over the
    gates of blocks. The grid is computed coarse first, and the plot is updated each time its resolution doubles.
    """
    import numpy as np
    import torch

    _check_ways(twin, axes)
    screen = console(quiet=as_json)
    network, data = model_and_examples(subject, limit)
    fitting(network, data)
    low_high = axes.span or ("0:1" if axes.gates or axes.to else "-1:1")
    x = np.linspace(*_range(low_high), axes.points)
    y = None if axes.flat else np.linspace(*_range(axes.y_span or low_high), axes.points)
    dtype = None if cells.dtype is None else getattr(torch, cells.dtype)
    settings = rp.landscape.CellSettings(cells.batchnorm, batch_size=cells.batch_size, dtype=dtype)

    networks = {subject.model: network}
    if twin is not None:
        networks[twin] = named_model(twin, "--twin").to(subject.device)
        fitting(networks[twin], data, "--twin")
    surfaces: Surfaces = {}
    with rp.sweep.local_workers(cells.workers) if cells.workers else nullcontext() as executor:
        for name, one in networks.items():

            def preview(surface: rp.landscape.Surface, name: str = name) -> None:
                _draw({**surfaces, name: surface}, log, out)

            options: rp.landscape.CellOptions = {
                "loss": cells.loss,
                "settings": settings,
                "journal": cells.journal,
                "executor": executor,
                "progress": not as_json,
                "preview": preview if axes.points > 8 else None,
            }
            if axes.gates is not None:
                net, (x_block, *y_block) = _gated(one, data, axes.gates)
                surfaces[name] = rp.landscape.gate_surface(
                    net, data, x_blocks=x_block, y_blocks=y_block or None, x=x, y=y, **options
                )
            else:
                directions = [_to(one, axes.to)] if axes.to else _random(one, axes)
                surfaces[name] = rp.landscape.loss_surface(one, data, directions=directions, x=x, y=y, **options)
    written = _write(surfaces, log, html, out)
    rows = {name: _numbers(surface) for name, surface in surfaces.items()}
    loss = surfaces[subject.model].loss
    if as_json:
        typer.echo(json_text({"loss": loss, "surfaces": rows, "files": [str(path) for path in written]}))
        return
    show(screen, _table(rows, loss))
    screen.print(f"Written: {', '.join(str(path) for path in written)}")


def _check_ways(twin: str | None, axes: Axes) -> None:
    if axes.to and axes.gates:
        raise ValueError("expected either --to or --gates, got both")
    if twin and axes.to:
        raise ValueError(
            "expected --twin with random directions or gates, got --to: no line leads from a twin to that checkpoint"
        )
    if axes.flat and axes.y_span is not None:
        raise ValueError("expected --y-range only with two axes, got a line; leave it out")
    for option, given, usual in (("--seed", axes.seed, 0), ("--normalise", axes.normalise, "filter")):
        if given != usual and (axes.to or axes.gates):
            raise ValueError(f"expected {option} only with random directions, got --{'to' if axes.to else 'gates'} too")
    if axes.line and axes.gates:
        raise ValueError("expected --gates without --line: one block gives a line, two give a plane")


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = (0.0, 0.0)
    if not colon or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(f"expected a range LOW:HIGH such as -1:1, got {text!r}")
    return ends


def _random(model: nn.Module, axes: Axes) -> list[rp.landscape.Direction]:
    seeds = [2 * axes.seed + k for k in range(1 if axes.flat else 2)]
    return [rp.landscape.random_direction(model, seed=seed, normalise=axes.normalise) for seed in seeds]


def _to(model: nn.Module, checkpoint: str) -> rp.landscape.Direction:
    return rp.landscape.direction_between(model, named_model(checkpoint, "--to"))


def _gated(model: nn.Module, data: rp.data.InMemory, gates: str) -> tuple[rp.UnrolledNetwork, Sequence[str | int]]:
    """The network, and the blocks of its axes."""
    blocks = block_names(gates, "--gates")
    if len(blocks) > 2:
        raise ValueError(f"expected one or two blocks with --gates, got {len(blocks)}")
    return unrolled(model.eval(), data), blocks


def _spread(surfaces: Surfaces) -> bool:
    """Whether the losses differ so much that a linear scale would show only one corner."""
    import numpy as np

    losses = np.concatenate([surface.values["loss"].ravel() for surface in surfaces.values()])
    positive = losses[np.isfinite(losses) & (losses > 0)]
    return bool(len(positive)) and float(positive.max()) > 50 * float(positive.min())


def _draw(surfaces: Surfaces, log: bool | None, out: Path) -> Path:
    log = _spread(surfaces) if log is None else log
    (name, first), *others = surfaces.items()
    if first.y is not None:
        axes = rp.plot.plot_surface_twins(surfaces, log=log)[0]
    else:
        axes = rp.plot.plot_surface_line(first, label=name)
        for name, other in others:
            rp.plot.plot_surface_line(other, ax=axes, label=name, color="#E69F00")
        axes.set_yscale("log" if log else "linear")
    return rp.plot.save(axes, out / "landscape.png")


def _write(surfaces: Surfaces, log: bool | None, html: bool, out: Path) -> list[Path]:
    written = [_draw(surfaces, log, out)]
    for number, surface in enumerate(surfaces.values()):
        stem = "landscape" if number == 0 else "landscape_twin"
        write_table(out / f"{stem}.csv", surface.to_pandas())
        written += [out / f"{stem}.csv", surface.save(out / f"{stem}.npz")]
        written.append(rp.landscape.save_vtk(surface, out / f"{stem}.vtk"))
    if html:
        page = out / "landscape.html"
        figure = rp.plot.interactive_surface(surfaces, log=_spread(surfaces) if log is None else log)
        write_text(page, figure.to_html())
        written.append(page)
    return written


def _numbers(surface: rp.landscape.Surface) -> dict[str, Any]:
    import numpy as np

    loss = surface.values["loss"]
    finite = loss[np.isfinite(loss)]
    numbers: dict[str, Any] = {
        "cells": int(loss.size),
        "not finite": int(loss.size - finite.size),
        "lowest loss": float(finite.min()) if finite.size else None,
        "highest loss": float(finite.max()) if finite.size else None,
        "seconds per cell": float(np.nanmean(surface.seconds)),
        "cosine of the axes": surface.cosine,
    }
    try:
        rough = rp.landscape.roughness(surface)
    except ValueError:  # too few coordinates, or none with finite neighbours
        return numbers
    return numbers | {
        "convex cells": rough.convex,
        "negative curvature": rough.negative,
        "deviation from a quadratic": rough.deviation,
    }


def _table(rows: dict[str, dict[str, Any]], loss: str) -> Table:
    shown = table("Loss surface" if loss == "loss" else f"Surface of {loss}", [""], list(rows))
    for number in next(iter(rows.values())):
        cells = [row.get(number) for row in rows.values()]
        shown.add_row(number, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return shown
