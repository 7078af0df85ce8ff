"""``resnet-paths train``: train a CIFAR ResNet or any other model, and resume interrupted runs."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import resnet_paths as rp

from ..choices import Keep
from ..nouns import counted
from ..tables import json_text
from ._app import command
from ._inputs import Source, console, fitting, named_model, place
from .options import Family, Json, Limit, Out, Trained, Training

if TYPE_CHECKING:
    from torch import nn


@command(
    "resnet-paths train --epochs 20",
    "resnet-paths train --model cifar-resnet56 --plain --widths 8,16,32 --out results/plain56",
    "resnet-paths train --model cifar-resnet110 --keep-last 0.5 --data cifar10.zip --device cuda --precision bfloat16",
)
def train(
    subject: Trained,
    family: Family,
    training: Training,
    test: Annotated[bool, typer.Option(help="Measure the test error after each epoch.")] = True,
    keep: Annotated[Keep, typer.Option(help="Which weights to keep; all is needed for trajectories.")] = "last",
    tensorboard: Annotated[bool, typer.Option(help="Also write logs for TensorBoard.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again: remove the run in the folder.")] = False,
    limit: Limit = None,
    out: Out = Path("results/train"),
    as_json: Json = False,
) -> None:
    """Train a network; the same command resumes an interrupted run, also after a kill.

    With no options it trains a ResNet-20 on the embedded digits. Each epoch ends with a checkpoint in the folder.
    """
    from torch import nn

    source = Source.of(nn.Identity(), subject)
    images = _training_images(source, limit)
    alike = replace(source, reading=replace(source.reading, classes=images.classes))
    held_out = alike.images("test", limit) if test else None
    decided = {
        "nesterov": training.nesterov and training.momentum > 0,
        "shift": images.images.shape[-1] // 8 if training.shift is None else training.shift,
        "flip": subject.data != "digits" if training.flip is None else training.flip,
    }
    recipe = rp.training.Recipe(**{**asdict(training), **decided})
    network = made(subject.model, images, family, training.seed).to(place(subject.device))
    fitting(network, images)
    screen = console(quiet=as_json)
    examples, epochs = counted(len(images), "image"), counted(training.epochs, "epoch")
    screen.print(f"{_name(network)}, {examples} of {images.name}, {epochs}, into {out}")
    if held_out is not None and held_out.fingerprint == images.fingerprint:
        screen.print("[yellow]The test images are the training images: the test error is the training error.[/yellow]")
    if fresh:
        _remove_run(out)
    report = _run(network, images, recipe, out, held_out, keep, tensorboard)
    if as_json:
        typer.echo(json_text(report))
        return
    last = report["epochs"][-1]
    screen.print(", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "epoch"))
    screen.print(f"Written: {report['checkpoint']} and {report['picture']}")
    if report["blocks"]:
        screen.print(f"[dim]Next: resnet-paths lesion --model {report['checkpoint']} --data {subject.data}[/dim]")


def _training_images(source: Source, limit: int | None) -> rp.ImageData:
    """The source's images, numbered by the classes of the initial checkpoint if they are the same."""
    from ..data.classes import renamed

    own = source.reading.classes
    images = replace(source, reading=replace(source.reading, classes=())).images("train", limit)
    return renamed(images, own) if set(images.classes) <= set(own) else images


def made(spec: str, data: rp.ImageData, family: Family, seed: int) -> nn.Module:
    """The network to train: a CIFAR ResNet with the given options, or any other by name.

    Raises:
        ValueError: an option of CIFAR ResNets with another model.
    """
    import torch

    from ..models.load import is_checkpoint

    torch.manual_seed(seed)
    given = asdict(family)
    if spec.startswith("cifar-resnet") and "@" not in spec:
        try:
            given["widths"] = tuple(int(width) for width in family.widths.split(","))
        except ValueError:
            raise ValueError(f"expected --widths as comma-separated numbers, got {family.widths!r}") from None
        channels = data.images.shape[1]
        return named_model(spec, num_classes=len(data.classes), in_channels=channels, seed=seed, **given)
    changed = [name for name, value in given.items() if value != getattr(Family(), name)]
    if changed:
        flags = ", ".join("--plain" if name == "residual" else f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"expected {flags} only with --model cifar-resnetDEPTH, got {spec!r}; leave it out")
    own = "@" in spec or spec == "embedded" or is_checkpoint(spec) or ".py:" in spec
    by_library = not own and spec.partition(":")[0] in ("torchvision", "timm", "hf", spec)
    return named_model(spec, num_classes=len(data.classes)) if by_library else named_model(spec)


def _name(network: nn.Module) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    depth = f"-{network.depth}" if hasattr(network, "depth") else ""
    return f"{type(network).__name__}{depth} of {parameters:,} parameters"


def _run(
    network: nn.Module,
    data: rp.ImageData,
    recipe: rp.training.Recipe,
    out: Path,
    test: rp.ImageData | None,
    keep: Keep,
    board: bool,
) -> dict[str, Any]:
    from ..training.trainer import described

    trained: list[int] = []
    try:
        rows = rp.training.train(
            network,
            data,
            recipe,
            folder=out,
            keep=keep,
            test=test,
            tensorboard=board,
            after_epoch=lambda epoch, _: trained.append(epoch),
        )
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command resumes after the last finished epoch.", err=True)
        raise typer.Exit(130) from None

    checkpoint = rp.models.save_checkpoint(
        network, out / "model.safetensors", **described(data, recipe), figures=rows[-1]
    )
    picture = rp.plot.save(rp.plot.plot_training(rows), out / "training.png")
    try:
        blocks = len(rp.unroll(network, data.subset(slice(0, 2)).to(next(network.parameters()).device).x))
    except rp.network.UnrollError:
        blocks = 0
    return {
        "checkpoint": str(checkpoint),
        "picture": str(picture),
        "log": str(out / "log.csv"),
        "blocks": blocks,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "resumed_after": len(rows) - len(trained),
        "epochs": rows,
    }


def _remove_run(folder: Path) -> None:
    """Files that a run writes, and no others in the folder."""
    for pattern in ("epoch-*.safetensors", "last.pt", "log.csv", "model.safetensors", "training.png"):
        for file in folder.glob(pattern):
            file.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
