"""``resnet-paths unroll``: the table of a model's residual blocks."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import torch
import typer
from torch import nn

from ..draws import normal, seeded
from ..graph.preserve import preserved
from ..graph.private_copy import private_use
from ..network import UnrolledNetwork, UnrollError
from ..network import unroll as find_blocks
from ._common import JsonOption, ModelOption, console, named_model, user_errors

MOST_SIDE = 100_000

ShapeOption = Annotated[
    str | None, typer.Option("--input", help="Shape of one input, such as 3x224x224, for the blocks' shapes.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths unroll --model resnet50 --input 3x224x224\n\n"
        "  resnet-paths unroll --model hf:ViTForImageClassification --input 3x224x224"
    )
    @user_errors
    def unroll(model: ModelOption = "embedded", shape: ShapeOption = None, as_json: JsonOption = False) -> None:
        """Print the residual blocks of a model: names, shortcuts, parameters, shapes."""
        example = None if shape is None else _example(shape)
        net = _blocks(named_model(model), example, shape)
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(block) for block in net], indent=2))
        else:
            console().print(repr(net), soft_wrap=True, highlight=False, markup=False)


def _example(shape: str) -> torch.Tensor:
    """Two random inputs of a shape such as 3x224x224."""
    try:
        sides = [int(side) for side in shape.lower().split("x")]
        if not all(0 < side <= MOST_SIDE for side in sides):
            raise ValueError(shape)
        generator = seeded(0)
        return normal((2, *sides), generator, torch.float32)
    except (ValueError, RuntimeError):
        raise ValueError(f"expected --input as numbers joined by x, such as 3x224x224, got {shape!r}") from None


def _blocks(model: nn.Module, example: torch.Tensor | None, shape: str | None) -> UnrolledNetwork:
    """The network; one line where the model does not take inputs of the shape."""
    try:
        return find_blocks(model, example)
    except UnrollError:
        if example is not None:
            _check_taken(model, example, shape)
        raise
    except (RuntimeError, ValueError, TypeError, IndexError):
        if example is not None:
            _check_taken(model, example, shape)
        raise


def _check_taken(model: nn.Module, example: torch.Tensor, shape: str | None) -> None:
    try:
        with private_use(model) as own, preserved(own), torch.no_grad():
            own(example)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"expected --input as the shape of what the model takes, got {shape!r}: {reason}") from error
