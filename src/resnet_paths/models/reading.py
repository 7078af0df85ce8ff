"""What a model says of the images that it reads: its checkpoint, its library, its folder."""

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
    """How a model's images are read: normalisation, size and classes, as far as something says so.

    Asked in this order: the facts of its checkpoint (:func:`save_checkpoint`), timm's ``pretrained_cfg``, the
    ``preprocessor_config.json`` of a Hugging Face folder, the transforms of torchvision's weights of that name.

    Args:
        model: the model.
        spec: the name by which :func:`load_model` made it.

    Example:
        >>> from resnet_paths.models import load_model
        >>> reading_of(load_model("embedded"), "embedded").classes[:3]
        ('0', '1', '2')
        >>> reading_of(load_model("resnet18"), "resnet18").size
        224
    """
    ways = (
        _of_facts(facts_of(spec)),
        _of_timm(getattr(inner_model(model), "pretrained_cfg", None) or _timm_config(spec)),
        _of_folder(Path(spec.removeprefix("hf:"))) if spec.startswith("hf:") else Reading(),
        _of_torchvision(spec.partition("@")[0].removeprefix("torchvision:")),
    )
    known = [way for way in ways if way.source]
    normalised = next((way for way in known if way.mean), Reading())
    return Reading(
        normalised.mean,
        normalised.std,
        next((way.size for way in known if way.size), None),
        next((way.classes for way in known if way.classes), ()),
        normalised.source,
    )


def facts_of(spec: str) -> Mapping[str, Any]:
    """What the checkpoint says that a model's name leads to; nothing where there is none."""
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
    """By the name alone, before there is a model."""
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
            f"expected the settings of an image processor in {file}, got: {error}; save it again"
        ) from error
    return Reading(mean, std, side if isinstance(side, int) else None, (), "its folder's preprocessor_config.json")


def _of_torchvision(name: str) -> Reading:
    if name == "embedded" or not name.isidentifier():  # a file, or another library's: the import takes a second
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
