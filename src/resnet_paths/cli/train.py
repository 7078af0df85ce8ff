"""``resnet-paths train``: train a network of the family, or any model, and go on where a run was stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from ..data import ImageData
from ..data.classes import renamed
from ..models import save_checkpoint
from ..models.load import is_checkpoint
from ..network import UnrollError, unroll
from ..plot import plot_training, save
from ..training import Recipe, train
from ..training.train import described
from ._common import (
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    MeanOption,
    OutOption,
    SizeOption,
    Source,
    StdOption,
    console,
    fitting,
    named_model,
    place,
    user_errors,
)

TrainedOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="cifar-resnetDEPTH with the options below; or resnet50 (torchvision), timm:NAME, hf:CLASS, "
        "package.module:function, file.py:function; or weights to go on from: embedded, a checkpoint file, NAME@FILE.",
    ),
]
FAMILY = {
    "residual": True,
    "preactivation": False,
    "shortcut": "A",
    "block": "basic",
    "widths": "16,32,64",
    "stem": "3x3",
    "zero_init_residual": False,
    "groups": 1,
    "group_width": None,
    "keep_last": 1.0,
}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        name="train",
        epilog="Examples:\n\n  resnet-paths train --epochs 20\n\n"
        "  resnet-paths train --model cifar-resnet56 --plain --widths 8,16,32 --out results/plain56\n\n"
        "  resnet-paths train --model cifar-resnet110 --keep-last 0.5 --data cifar10.zip --device cuda "
        "--precision bfloat16",
    )
    @user_errors
    def command(
        model: TrainedOption = "cifar-resnet20",
        data: DataOption = "digits",
        residual: Annotated[bool, typer.Option("--residual/--plain", help="With shortcuts, or the plain twin.")] = True,
        preactivation: Annotated[bool, typer.Option(help="Norm and activation before each convolution.")] = False,
        shortcut: Annotated[str, typer.Option(help="A (zeros), B, C (projections) or D (pooled projections).")] = "A",
        block: Annotated[str, typer.Option(help="basic or bottleneck.")] = "basic",
        widths: Annotated[str, typer.Option(help="Channels of each stage, joined by commas.")] = "16,32,64",
        stem: Annotated[str, typer.Option(help="3x3, 7x7 or deep (three 3x3).")] = "3x3",
        zero_init_residual: Annotated[bool, typer.Option(help="Branches start at zero.")] = False,
        groups: Annotated[int, typer.Option(help="Groups of the 3x3 convolution in bottlenecks (ResNeXt).")] = 1,
        group_width: Annotated[int | None, typer.Option(help="Channels of a group in the first stage.")] = None,
        keep_last: Annotated[float, typer.Option(help="Stochastic depth: survival of the last branch; 1 is none.")] = 1,
        epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
        batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one step.")] = 128,
        learning_rate: Annotated[float, typer.Option(help="The highest rate.")] = 0.1,
        momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9,
        nesterov: Annotated[bool, typer.Option(help="Nesterov's momentum.")] = True,
        weight_decay: Annotated[float, typer.Option(help="Weight decay of SGD.")] = 1e-4,
        decay_vectors: Annotated[bool, typer.Option(help="Decay biases and norms too.")] = True,
        warmup: Annotated[float, typer.Option(help="Epochs over which the rate rises from 0.")] = 1.0,
        schedule: Annotated[str, typer.Option(help="cosine, or step (a tenth at 1/2 and 3/4).")] = "cosine",
        label_smoothing: Annotated[float, typer.Option(help="Share of the target spread over all classes.")] = 0.0,
        mixup: Annotated[float, typer.Option(help="Alpha of mixup; 0 is none.")] = 0.0,
        shift: Annotated[
            int | None, typer.Option(help="Move images by up to this many pixels (default: an eighth of the side).")
        ] = None,
        flip: Annotated[bool | None, typer.Option(help="Mirror images (default: not for digits).")] = None,
        precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (autocast).")] = "float32",
        seed: Annotated[int, typer.Option(help="Seed of initial values, order and augmentation.")] = 0,
        test: Annotated[bool, typer.Option(help="Measure the test error after each epoch.")] = True,
        keep: Annotated[str, typer.Option(help="Weights to keep: last, or all (for trajectories).")] = "last",
        tensorboard: Annotated[bool, typer.Option(help="Write logs for TensorBoard too.")] = False,
        fresh: Annotated[bool, typer.Option("--fresh", help="Begin again: remove the run in the folder.")] = False,
        limit: LimitOption = None,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/train"),
        as_json: JsonOption = False,
    ) -> None:
        """Train a network; the same command goes on where it was stopped, also after a kill.

        With no options: a ResNet-20 on the embedded digits. Each epoch ends with a checkpoint in the folder.
        """
        given = {
            "residual": residual,
            "preactivation": preactivation,
            "shortcut": shortcut,
            "block": block,
            "widths": widths,
            "stem": stem,
            "zero_init_residual": zero_init_residual,
            "groups": groups,
            "group_width": group_width,
            "keep_last": keep_last,
        }
        source = Source.of(nn.Identity(), model, data, size, mean, std)
        own = source.reading.classes
        images = replace(source, reading=replace(source.reading, classes=())).images("train", limit)
        if set(images.classes) <= set(own):  # the classes of the checkpoint that is gone on from
            images = renamed(images, own)
        alike = replace(source, reading=replace(source.reading, classes=images.classes))
        held_out = alike.images("test", limit) if test else None
        recipe = Recipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov and momentum > 0,
            weight_decay=weight_decay,
            decay_vectors=decay_vectors,
            warmup=warmup,
            schedule=schedule,  # type: ignore[arg-type]
            label_smoothing=label_smoothing,
            mixup=mixup,
            shift=images.images.shape[-1] // 8 if shift is None else shift,
            flip=data != "digits" if flip is None else flip,
            precision=precision,  # type: ignore[arg-type]
            seed=seed,
        )
        network = made(model, images, given, seed).to(place(device))
        fitting(network, images)
        screen = console(quiet=as_json)
        screen.print(f"{_name(network)}, {len(images)} images of {images.name}, {epochs} epochs, into {out}")
        if held_out is not None and held_out.fingerprint == images.fingerprint:
            screen.print("[yellow]The test images are the training images: the test error says nothing new.[/yellow]")
        if fresh:
            _remove_run(out)
        report = _run(network, images, recipe, out, held_out, keep, tensorboard)
        if as_json:
            typer.echo(json.dumps(report, indent=2))
            return
        last = report["epochs"][-1]
        screen.print(", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "epoch"))
        screen.print(f"Written: {report['checkpoint']} and {report['picture']}")
        if report["blocks"]:
            screen.print(f"[dim]Next: resnet-paths lesion --model {report['checkpoint']} --data {data}[/dim]")


def made(spec: str, data: ImageData, given: dict[str, Any], seed: int) -> nn.Module:
    """The network to train: of the family with the options given, or any other by name.

    Raises:
        ValueError: an option of the family with another model.
    """
    torch.manual_seed(seed)
    if spec.startswith("cifar-resnet") and "@" not in spec:
        try:
            widths = tuple(int(width) for width in str(given["widths"]).split(","))
        except ValueError:
            raise ValueError(f"expected --widths as numbers joined by commas, got {given['widths']!r}") from None
        channels = data.images.shape[1]
        options = {**given, "widths": widths, "in_channels": channels, "seed": seed}
        return named_model(spec, num_classes=len(data.classes), **options)
    changed = [name for name, value in given.items() if value != FAMILY[name]]
    if changed:
        flags = ", ".join("--plain" if name == "residual" else f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"expected {flags} with --model cifar-resnetDEPTH alone, got {spec!r}; leave it out")
    own = "@" in spec or spec == "embedded" or is_checkpoint(spec) or ".py:" in spec
    by_library = not own and spec.partition(":")[0] in ("torchvision", "timm", "hf", spec)
    return named_model(spec, num_classes=len(data.classes)) if by_library else named_model(spec)


def _name(network: nn.Module) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    depth = f"-{network.depth}" if hasattr(network, "depth") else ""
    return f"{type(network).__name__}{depth} of {parameters:,} parameters"


def _run(
    network: nn.Module, data: ImageData, recipe: Recipe, out: Path, test: ImageData | None, keep: str, board: bool
) -> dict[str, Any]:
    trained: list[int] = []
    try:
        rows = train(
            network,
            data,
            recipe,
            folder=out,
            keep=keep,  # type: ignore[arg-type]
            test=test,
            tensorboard=board,
            after_epoch=lambda epoch, _: trained.append(epoch),
        )
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on from the last whole epoch.", err=True)
        raise typer.Exit(130) from None

    checkpoint = save_checkpoint(network, out / "model.safetensors", **described(data, recipe), figures=rows[-1])
    picture = save(plot_training(rows), out / "training.png")
    try:
        blocks = len(unroll(network, data.subset(slice(0, 2)).to(next(network.parameters()).device).x))
    except UnrollError:
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
    """What a run writes, and nothing else in the folder."""
    for pattern in ("epoch-*.safetensors", "last.pt", "log.csv", "model.safetensors", "training.png"):
        for file in folder.glob(pattern):
            file.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
