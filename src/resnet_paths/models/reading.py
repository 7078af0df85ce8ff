"""How a model expects its images, according to its checkpoint, its library or its folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..arguments import checked
from ..checkpoints.reading import read_facts
from ..data import Reading
from ..graph.wrappers import inner_model
from ..imports import first_import


@checked
def reading_of(model: nn.Module, spec: str = "") -> Reading:
    """How a model's images are read: normalisation, size and classes, as far as known.

    The sources, in order: the facts of its checkpoint (:func:`save_checkpoint`), timm's ``pretrained_cfg``, the
    ``preprocessor_config.json`` of a Hugging Face folder, the transforms of torchvision's weights of that name.

    Args:
        model: the model.
        spec: the name that it was loaded by with :func:`load_model`.

    Example:
        >>> from resnet_paths.models import load_model
        >>> reading_of(load_model("embedded"), "embedded").classes[:3]
        ('0', '1', '2')
        >>> reading_of(load_model("resnet18"), "resnet18").size
        224
    """
    sources = (
        _of_facts(facts_of(spec)),
        _of_timm(getattr(inner_model(model), "pretrained_cfg", None) or _timm_config(spec)),
        _of_folder(Path(spec.removeprefix("hf:"))) if spec.startswith("hf:") else Reading(),
        _of_torchvision(spec.partition("@")[0].removeprefix("torchvision:")),
    )
    informative = [source for source in sources if source.source]
    normalised = next((source for source in informative if source.mean), Reading())
    return Reading(
        normalised.mean,
        normalised.std,
        next((source.size for source in informative if source.size), None),
        next((source.classes for source in informative if source.classes), ()),
        normalised.source,
    )


def facts_of(spec: str) -> Mapping[str, Any]:
    """The facts of the checkpoint that a model's name refers to; empty if there is none."""
    from .load import EMBEDDED, written_file

    written = written_file(spec)
    if written is not None:
        return read_facts(written)
    name, at, file = spec.partition("@")
    path = EMBEDDED if spec == "embedded" else Path(spec) if Path(spec).is_file() else Path(file if at else name)
    return read_facts(path) if path.is_file() else {}


def _of_facts(facts: Mapping[str, Any]) -> Reading:
    names = facts.get("classes")
    classes = tuple(map(str, names)) if isinstance(names, list) else ()
    mean, std = _numbers(facts.get("mean")), _numbers(facts.get("std"))
    return Reading(mean, std, None, classes, "its checkpoint") if classes or mean else Reading()


def _of_timm(config: Any) -> Reading:
    if not isinstance(config, Mapping):
        return Reading()
    size = config.get("input_size")
    side = int(size[-1]) if isinstance(size, Sequence) and len(size) == 3 else None
    return Reading(_numbers(config.get("mean")), _numbers(config.get("std")), side, (), "timm's configuration of it")


def _timm_config(spec: str) -> Any:
    """The configuration that timm has for a name, before there is a model."""
    name = spec.partition("@")[0]
    if not name.startswith("timm:"):
        return None
    try:
        with first_import("timm"):
            timm = importlib.import_module("timm")
    except ImportError:  # load_model says what to install
        return None
    config = timm.get_pretrained_cfg(name.removeprefix("timm:"), allow_unregistered=True)
    return None if config is None else config.to_dict()


def _of_folder(path: Path) -> Reading:
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return Reading()
    try:
        config = json.loads(file.read_text())
        size = config.get("size")
        side = next(iter(size.values())) if isinstance(size, dict) and size else size
        mean, std = _numbers(config.get("image_mean")), _numbers(config.get("image_std"))
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"expected the settings of an image processor in {file}, got: {error}; save the processor again"
        ) from error
    return Reading(mean, std, side if isinstance(side, int) else None, (), "its folder's preprocessor_config.json")


def _of_torchvision(name: str) -> Reading:
    if (
        name == "embedded" or not name.isidentifier()
    ):  # a file, or another library's model: avoid an import that takes a second
        return Reading()
    with first_import("torchvision.models"):
        from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        return Reading()
    try:
        transforms: Any = get_model_weights(name)["DEFAULT"].transforms()
    except (KeyError, ValueError):  # a model without published weights
        return Reading()
    size = getattr(transforms, "crop_size", None)
    mean, std = _numbers(getattr(transforms, "mean", None)), _numbers(getattr(transforms, "std", None))
    return (
        Reading(mean, std, size[0] if size else None, (), "torchvision's weights of that name") if mean else Reading()
    )


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return ()
    return tuple(float(value) for value in values)
