"""``resnet-paths unroll``: the table of a model's residual units."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import torch
import typer

from ..models import load_model
from ..network import unroll as find_units
from ._common import JsonOption, ModelOption, console, user_errors

ShapeOption = Annotated[
    str | None, typer.Option("--input", help="Shape of one input, such as 3x224x224, for the units' shapes.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths unroll --model resnet50 --input 3x224x224\n\n"
        "  resnet-paths unroll --model hf:ViTForImageClassification --input 3x224x224"
    )
    @user_errors
    def unroll(model: ModelOption = "embedded", shape: ShapeOption = None, as_json: JsonOption = False) -> None:
        """Print the residual units of a model: names, shortcuts, parameters, shapes."""
        example = None
        if shape is not None:
            try:
                example = torch.randn(2, *(int(side) for side in shape.lower().split("x")))
            except (ValueError, RuntimeError):
                raise ValueError(f"expected --input as numbers joined by x, such as 3x224x224, got {shape!r}") from None
        net = find_units(load_model(model), example)
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(unit) for unit in net], indent=2))
        else:
            console().print(repr(net), soft_wrap=True, highlight=False, markup=False)
