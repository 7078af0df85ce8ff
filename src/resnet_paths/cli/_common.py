"""What the commands share: options, models and data by name, errors in one line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

from ..data import ImageData, Reading, Split, has_parts, load_data
from ..graph.inputs import main_output
from ..models import load_model, reading_of
from ..network import UnrolledNetwork, unroll
from ..network.fitting import output_on
from ..network.unrolled import placed
from ._errors import print_error, reading, say, user_errors
from ._places import Place, path_option

__all__ = ["print_error", "reading", "user_errors"]

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
        "--data",
        "-d",
        help="digits, cifar10[:FOLDER], a folder of class folders (also in train, val, test), a .zip of such, a .npz, "
        "package.module:function or file.py:function.",
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use at most this many images.")]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size", help="Resize images of folders and zip files to this (default: the model's own, where they differ)."
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean", help="Mean of each channel, such as 0.5,0.5,0.5 (default: as the model says, or else ImageNet's)."
    ),
]
StdOption = Annotated[str | None, typer.Option("--std", help="Standard deviation of each channel; likewise.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Images at a time.", min=1)]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
OutOption = Annotated[Path, path_option("--out", "-o", help="Folder for pictures and tables."), Place(folder=True)]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything drawn at random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")]


def console(quiet: bool = False) -> Console:
    """Where people read."""
    return Console(quiet=quiet)


@dataclass(frozen=True)
class Source:
    """The images of ``--data``, read as the options say, and where they do not, as the model does.

    Attributes:
        data: the source's name.
        size: of the shorter side.
        mean: of each channel.
        std: likewise.
        reading: what the model says of its images.
    """

    data: str
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    reading: Reading

    @classmethod
    def of(
        cls, model: nn.Module, spec: str, data: str, size: int | None, mean: str | None = None, std: str | None = None
    ) -> Source:
        """For a model and the name that it was loaded by.

        Raises:
            ValueError: --mean or --std are no numbers, or one without the other.
        """
        if (mean is None) != (std is None):
            raise ValueError("expected --mean and --std together, got " + ("--std" if mean is None else "--mean"))
        return cls(data, size, _numbers("--mean", mean), _numbers("--std", std), reading_of(model, spec))

    def images(self, split: Split | None = None, limit: int | None = None) -> ImageData:
        """Those of a split, and one line on how they are read (of the digits there is nothing to decide)."""
        with reading("--data", self.data):
            images = load_data(
                self.data, split, limit=limit, size=self.size, mean=self.mean, std=self.std, default=self.reading
            )
        if self.data != "digits" or self.mean:
            say(self._told(images))
        return images

    @property
    def training(self) -> ImageData | None:
        """Training images of the same source; None where it has none of its own."""
        return self.images("train") if has_parts(self.data) else None

    def code(self, images: ImageData, limit: int | None, split: str = "test") -> str:
        """The call of load_data that gives these images."""
        parts = [json.dumps(self.data)] + [json.dumps(split)] * (split != "test")
        parts += [f"{name}={value}" for name, value in (("limit", limit), ("size", self.size)) if value is not None]
        if self.mean or self.reading.fits(images.images.shape[1]):
            parts += [f"mean={images.mean}", f"std={images.std}"]
        if self.reading.classes:
            parts.append(f"classes={list(self.reading.classes)}")
        return f"load_data({', '.join(parts)})"

    def _told(self, images: ImageData) -> str:
        shape = "x".join(map(str, images.images.shape[1:]))
        mean, std = (" ".join(f"{value:.4g}" for value in numbers) for numbers in (images.mean, images.std))
        whose = "as asked" if self.mean else "as the source says"
        if not self.mean and images.mean == self.reading.mean and images.std == self.reading.std:
            whose = f"as {self.reading.source} says"
        side = min(images.images.shape[2:])
        own = self.reading.size
        hint = f"; the model's own size is {own}" if own and own != side and images.images.shape[1] == 3 else ""
        return f"Images: {len(images)} of {images.name}, {shape}, mean {mean}, std {std}, {whose}{hint}"


def model_and_source(
    model: str, data: str, size: int | None, device: str, mean: str | None = None, std: str | None = None
) -> tuple[nn.Module, Source]:
    """Load the model on the device, a wrong device refused before; and how its images are read."""
    where = place(device)
    network = named_model(model).to(where)
    return network, Source.of(network, model, data, size, mean, std)


def model_and_data(
    model: str,
    data: str,
    limit: int | None,
    size: int | None,
    device: str,
    mean: str | None = None,
    std: str | None = None,
) -> tuple[nn.Module, ImageData]:
    """Load both, the model on the device."""
    network, source = model_and_source(model, data, size, device, mean, std)
    return network, source.images(limit=limit)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
        if not all(map(math.isfinite, numbers)):
            raise ValueError(text)
        return numbers
    except ValueError:
        raise ValueError(f"expected {option} as numbers joined by commas, such as 0.5,0.5,0.5, got {text!r}") from None


def named_model(spec: str, option: str = "--model", **options: Any) -> nn.Module:
    """The model of a name; one line where it cannot be made, whatever the file or the library raises."""
    with reading(option, spec):
        return load_model(spec, **options)


def place(device: str) -> torch.device:
    """The device of a name, if it is there and holds numbers."""
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise ValueError("it holds shapes, no numbers")
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0][:150]
        raise ValueError(
            f"expected a device that is there, such as cpu, as --device, got {device!r}: {reason}"
        ) from None
    return found


def fitting(model: nn.Module, data: ImageData, option: str = "--model") -> tuple[torch.Tensor, Any]:
    """Two images and what the model makes of them, if it takes them; one line if it does not."""
    example = placed(data.subset(slice(0, 2)).x, model)
    output = output_on(model, example, data.name, f"choose --data to fit {option}")
    _check_classes(main_output(output), data, option)
    return example, output


def _check_classes(logits: torch.Tensor, data: ImageData, option: str = "--model") -> None:
    classes = int(data.labels.max()) + 1
    if logits.ndim == 2 and logits.shape[1] < classes:
        raise ValueError(
            f"expected a model with a logit for each of the {classes} classes of {data.name}, got {logits.shape[1]} "
            f"logits; choose --data to fit {option}, or load the model with as many classes"
        )


def unrolled(model: nn.Module, data: ImageData) -> UnrolledNetwork:
    """The network, its shapes from the first image; one line if the images do not fit the model."""
    example, output = fitting(model, data)
    net = unroll(model, example)
    _check_classes(net.followed(output), data)
    return net
