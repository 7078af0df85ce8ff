"""What the commands share: options, models and data by name, errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from torch import nn

from ..data import ImageData, load_data
from ..graph.inputs import main_output
from ..models import load_model
from ..network import UnrolledNetwork, unroll
from ..network.unrolled import placed
from ..sweep import SweepError

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="embedded, cifar-resnet56, resnet50 (torchvision), timm:NAME, hf:CLASS, a checkpoint file, NAME@FILE, "
        "package.module:function or file.py:function.",
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data", "-d", help="digits, cifar10[:FOLDER], a folder of class folders, a .zip of images, or a .npz."
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use at most this many images.")]
SizeOption = Annotated[int | None, typer.Option("--size", help="Resize images of folders and zip files to this.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Images at a time.", min=1)]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and tables.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything drawn at random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")]


def console(quiet: bool = False) -> Console:
    """Where people read."""
    return Console(quiet=quiet)


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of the user in one line and exit code 2, without a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            _can_write(kwargs.get("out"))
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError, SweepError) as error:
            print_error(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stopped:
            print_error(str(stopped) or "stopped; what was finished is kept where the command keeps it")
            raise typer.Exit(130) from None

    return run


def _can_write(out: Path | None) -> None:
    """Refuse a place that cannot be written before the work, not after it; what is made for the trial is removed."""
    if out is None or out.exists():
        return
    made = []
    try:
        for folder in [*reversed(out.parents), out]:
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
    except OSError as error:
        raise OSError(f"expected a place to write to as --out, got {str(out)!r}: {error.strerror}") from None
    finally:
        for folder in reversed(made):
            folder.rmdir()


def print_error(text: str) -> None:
    """One line on stderr."""
    line = " ".join(text.split())
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {escape(line)}")


def model_and_data(
    model: str, data: str, limit: int | None, size: int | None, device: str, split: str = "test"
) -> tuple[nn.Module, ImageData]:
    """Load both, the model on the device."""
    where = place(device)
    images = load_data(data, "train" if split == "train" else "test", limit=limit, size=size)
    return load_model(model).to(where), images


def place(device: str) -> torch.device:
    """The device of a name, if it is there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"expected a device that is there, such as cpu, got {device!r}: {error}") from None
    return found


def fitting(model: nn.Module, data: ImageData) -> tuple[torch.Tensor, Any]:
    """Two images and what the model makes of them, if it takes them; one line if it does not."""
    example = placed(data.subset(slice(0, 2)).x, model)
    try:
        with torch.no_grad():
            output = model(example)
    except RuntimeError as error:
        shape = "x".join(map(str, example.shape[1:]))
        raise ValueError(
            f"expected images that the model takes, got {data.name} of {shape}: {error}; choose --data to fit --model"
        ) from None
    _check_classes(main_output(output), data)
    return example, output


def _check_classes(logits: torch.Tensor, data: ImageData) -> None:
    classes = int(data.labels.max()) + 1
    if logits.ndim == 2 and logits.shape[1] < classes:
        raise ValueError(
            f"expected a model with a logit for each of the {classes} classes of {data.name}, got {logits.shape[1]} "
            "logits; choose --data to fit --model, or load the model with as many classes"
        )


def unrolled(model: nn.Module, data: ImageData) -> UnrolledNetwork:
    """The network, its shapes from the first image; one line if the images do not fit the model."""
    example, output = fitting(model, data)
    net = unroll(model, example)
    _check_classes(net.followed(output), data)
    return net


def training_data(data: str, size: int | None, images: ImageData) -> ImageData | None:
    """Training images of the same source; None where it has none of its own."""
    try:
        found = load_data(data, "train", size=size)
    except (ValueError, FileNotFoundError):
        return None
    whole = load_data(data, "test", size=size)
    return None if found.fingerprint == whole.fingerprint or found.classes != images.classes else found
