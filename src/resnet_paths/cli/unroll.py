"""``resnet-paths unroll``: the table of a model's residual blocks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

import resnet_paths as rp

from ..tables import json_text
from ._app import command
from ._inputs import console, named_model
from .options import Json, Model

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_SIDE = 100_000


@command(
    "resnet-paths unroll --model resnet50 --input 3x224x224",
    "resnet-paths unroll --model hf:ViTForImageClassification --input 3x224x224",
)
def unroll(
    model: Model = "embedded",
    shape: Annotated[
        str | None, typer.Option("--input", help="Shape of one input, such as 3x224x224, to show the blocks' shapes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the residual blocks of a model: names, shortcuts, parameters, shapes."""
    net = _network(named_model(model), shape)
    if as_json:
        typer.echo(json_text([dataclasses.asdict(block) for block in net]))
    else:
        screen, text = console(), repr(net)
        if screen.is_terminal and max(map(len, text.splitlines())) > screen.width:
            screen.print(net)
        else:
            screen.print(text, soft_wrap=True, highlight=False, markup=False)


def _example(shape: str) -> torch.Tensor:
    """Two random inputs of a shape such as 3x224x224."""
    import torch

    from ..draws import normal, seeded

    try:
        sides = [int(side) for side in shape.lower().split("x")]
        if not all(0 < side <= MOST_SIDE for side in sides):
            raise ValueError(shape)
        return normal((2, *sides), seeded(0), torch.float32)
    except (ValueError, RuntimeError):
        raise ValueError(f"expected --input as numbers separated by x, such as 3x224x224, got {shape!r}") from None


def _network(model: nn.Module, shape: str | None) -> rp.UnrolledNetwork:
    """The network; a one-line error if the model does not take inputs of the shape."""
    if shape is None:
        return rp.unroll(model)
    example = _example(shape)
    try:
        return rp.unroll(model, example)
    except (RuntimeError, ValueError, TypeError, IndexError):  # an UnrollError is a ValueError
        _check_taken(model, example, shape)
        raise


def _check_taken(model: nn.Module, example: torch.Tensor, shape: str) -> None:
    import torch

    from ..graph.preserve import preserved
    from ..graph.private_copy import private_use

    try:
        with private_use(model) as own, preserved(own), torch.no_grad():
            own(example)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"expected --input as the shape of the model's input, got {shape!r}: {reason}") from error
