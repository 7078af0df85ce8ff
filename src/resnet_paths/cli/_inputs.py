"""Models and images by name, as given by the options; errors in one line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

import resnet_paths as rp

from ..choices import Split
from ._errors import reading, say
from .options import Subject

if TYPE_CHECKING:
    import torch
    from torch import nn


def console(quiet: bool = False) -> Console:
    """Where people read."""
    return Console(quiet=quiet)


@dataclass(frozen=True)
class Source:
    """The images of ``--data``, read as the options say, otherwise as the model says.

    Attributes:
        data: the source's name.
        size: of the shorter side.
        mean: of each channel.
        std: of each channel.
        reading: what the model says about its images.
    """

    data: str
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    reading: rp.data.Reading

    @classmethod
    def of(cls, model: nn.Module, subject: Subject) -> Source:
        """Make it for a model that was loaded by the subject's name.

        Raises:
            ValueError: --mean or --std are not numbers, or one is given without the other.
        """
        mean, std = subject.mean, subject.std
        if (mean is None) != (std is None):
            raise ValueError("expected --mean and --std together, got " + ("--std" if mean is None else "--mean"))
        read = rp.models.reading_of(model, subject.model)
        return cls(subject.data, subject.size, _numbers("--mean", mean), _numbers("--std", std), read)

    def images(self, split: Split | None = None, limit: int | None = None) -> rp.ImageData:
        """The images of a split; print one line on how they are read (not for the digits, where nothing is decided)."""
        return only_images(self.examples(None, split, limit))

    def examples(
        self, model: nn.Module | None, split: Split | None = None, limit: int | None = None
    ) -> rp.data.InMemory:
        """The same for data of any form."""
        with reading("--data", self.data):
            data = rp.data.load_examples(
                self.data,
                split,
                model=model,
                limit=limit,
                size=self.size,
                mean=self.mean,
                std=self.std,
                default=self.reading,
            )
        if not isinstance(data, rp.ImageData):
            say(f"Data: {len(data)} {data.nouns} of {data.name}")
        elif self.data != "digits" or self.mean:
            say(self._told(data))
        return data

    def training(self, model: nn.Module) -> rp.data.InMemory | None:
        """Training images, or other examples that a model reads, of the same source; None if it has none."""
        return self.examples(model, "train") if rp.data.has_parts(self.data) else None

    def code(self, images: rp.data.InMemory, limit: int | None, split: str = "test") -> str:
        """The call of load_data that returns these images, or of load_examples for other data."""
        parts = [json.dumps(self.data)] + [json.dumps(split)] * (split != "test")
        if not isinstance(images, rp.ImageData):
            return f"load_examples({', '.join([*parts, 'model=model', *([f'limit={limit}'] if limit else [])])})"
        parts += [f"{name}={value}" for name, value in (("limit", limit), ("size", self.size)) if value is not None]
        if self.mean or self.reading.fits(images.images.shape[1]):
            parts += [f"mean={images.mean}", f"std={images.std}"]
        if self.reading.classes:
            parts.append(f"classes={list(self.reading.classes)}")
        return f"load_data({', '.join(parts)})"

    def _told(self, images: rp.ImageData) -> str:
        shape = "x".join(map(str, images.images.shape[1:]))
        mean, std = (" ".join(f"{value:.4g}" for value in numbers) for numbers in (images.mean, images.std))
        whose = "as asked" if self.mean else "as the source says"
        if not self.mean and images.mean == self.reading.mean and images.std == self.reading.std:
            whose = f"as {self.reading.source} says"
        side = min(images.images.shape[2:])
        own = self.reading.size
        hint = f"; the model's own size is {own}" if own and own != side and images.images.shape[1] == 3 else ""
        return f"Images: {len(images)} of {images.name}, {shape}, mean {mean}, std {std}, {whose}{hint}"


def model_and_source(subject: Subject) -> tuple[nn.Module, Source]:
    """Check the device, load the model on it, and find out how its images are preprocessed."""
    where = place(subject.device)
    network = named_model(subject.model).to(where)
    return network, Source.of(network, subject)


def only_images(data: rp.data.InMemory) -> rp.ImageData:
    """The data, if they are images; other data are refused by the commands that need pixels or classes."""
    if not isinstance(data, rp.ImageData):
        raise ValueError(
            f"expected --data with images of one class each, got {data!r}; lesion, landscape, compare, plan, "
            "shrink, drop and report read other data"
        )
    return data


def model_and_examples(subject: Subject, limit: int | None) -> tuple[nn.Module, rp.data.InMemory]:
    """Load both, the model on the device; the data may be of any form."""
    network, source = model_and_source(subject)
    return network, source.examples(network, limit=limit)


def model_and_data(subject: Subject, limit: int | None) -> tuple[nn.Module, rp.ImageData]:
    """Load both, the model on the device."""
    network, source = model_and_source(subject)
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
        raise ValueError(f"expected {option} as comma-separated numbers, such as 0.5,0.5,0.5, got {text!r}") from None


def named_model(spec: str, option: str = "--model", **options: Any) -> nn.Module:
    """The model of a name; a one-line error if it cannot be made, whatever the file or the library raises."""
    with reading(option, spec):
        return rp.models.load_model(spec, **options)


def block_names(text: str, option: str = "--blocks") -> list[rp.network.BlockRef]:
    """Blocks named by an option: comma-separated indices or names.

    Raises:
        ValueError: no block is named.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"expected {option} as comma-separated indices or names, such as 3,7,layer3.4, got {text!r}")
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]


def place(device: str) -> torch.device:
    """The device of a name, if it exists and stores values."""
    import torch

    try:
        named = torch.device(device)
        if named.type == "meta":
            raise ValueError("it stores shapes, not values")
        torch.zeros(1, device=named).cpu()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0][:150]
        raise ValueError(
            f"expected --device to be an available device, such as cpu, got {device!r}: {reason}"
        ) from None
    return named


def fitting(model: nn.Module, data: rp.data.InMemory, option: str = "--model") -> tuple[Any, Any]:
    """Two images and the model's output for them; a one-line error if it does not take them."""
    from ..graph.inputs import main_output, placed
    from ..network.fitting import output_on

    example = placed(data.subset(slice(0, 2)).x, model)
    output = output_on(model, example, data.name, f"choose --data to fit {option}", data.nouns)
    if isinstance(data, rp.ImageData):
        _check_classes(main_output(output), data, option)
    return example, output


def _check_classes(logits: torch.Tensor, data: rp.ImageData, option: str = "--model") -> None:
    classes = int(data.labels.max()) + 1
    if logits.ndim == 2 and logits.shape[1] < classes:
        raise ValueError(
            f"expected a model with one logit for each of the {classes} classes of {data.name}, got {logits.shape[1]} "
            f"logits; choose --data to fit {option}, or load the model with as many classes"
        )


def unrolled(model: nn.Module, data: rp.data.InMemory, option: str = "--model") -> rp.UnrolledNetwork:
    """The network, with shapes from the first image; a one-line error if the images do not fit the model."""
    example, output = fitting(model, data, option)
    net = rp.unroll(model, example)
    if isinstance(data, rp.ImageData):
        _check_classes(net.followed(output), data, option)
    return net
