"""``resnet-paths plan``: choose which blocks to drop."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import typer
from rich.markup import escape

import resnet_paths as rp

from ..tables import json_text
from ._app import command
from ._inputs import console
from ._planning import planned
from .options import Json, Out, Planning, Subject


@command("resnet-paths plan --latency 0.8", "resnet-paths plan --accuracy-drop 0.01 --search beam")
def plan(subject: Subject, planning: Planning, out: Out = Path("results/plan"), as_json: Json = False) -> None:
    """Find the blocks to drop for a latency or an accuracy goal; search on training images, report on test images."""
    made = planned(subject, planning, out)
    file, picture = made.files["plan"], made.files["picture"]
    if as_json:
        typer.echo(json_text({**json.loads(file.read_text()), "file": str(file), "picture": str(picture)}))
        return
    screen = console()
    made.show(screen)
    screen.print(f"Written: {file} and {picture}")
    if made.plan.point.dropped:
        screen.print(f"[dim]Next: {escape(_next(file))}[/dim]", soft_wrap=True)


def _next(file: Path) -> str:
    """The command that writes the smaller network."""
    no_onnx = rp.surgery.export.missing(rp.surgery.export.ONNX)
    return shlex.join(["resnet-paths", "drop", "--plan", str(file), *(["--no-onnx"] if no_onnx else [])])
