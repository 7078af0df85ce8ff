"""The entry for data of any form: images become ``ImageData``, everything else ``Examples``.

It exists beside ``as_data``, which reads only images and refuses everything else, as analyses of pixels or classes
require.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..graph.inputs import call_model, main_output, placed
from ..graph.preserve import generators_kept, preserved
from ..graph.trees import leaves, map_leaves
from .adapter import (
    IMAGE_KEYS,
    LABEL_KEYS,
    ImageSource,
    UnknownNormalisation,
    _check,
    _collected,
    _holds_samples,
    _input_and_target,
    _is_array,
    _is_pair,
    _items,
    _key_of,
    _name_of,
    as_data,
)
from .arrays import tensor_of
from .examples import MASKS, Examples
from .images import ImageData
from .in_memory import InMemory
from .position_metrics import IGNORED


@checked
def as_examples(
    source: ImageSource,
    model: nn.Module | None = None,
    *,
    labelled: bool = True,
    name: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> InMemory:
    """Data of any form in memory; every function that takes data of any form reads it by this.

    Args:
        source: an :class:`Examples` or an :class:`ImageData`, which are returned unchanged; a pair of arrays, or of
            nested lists of numbers, ``(inputs, targets)``, where several inputs are a tuple or a mapping of arrays (as
            from a tokenizer); a ``Dataset``; a ``DataLoader``; a dict of arrays; or an iterable of batches or samples,
            each a tuple ``(inputs, targets)`` or a mapping, such as those of Hugging Face. Items of an iterable are
            samples if the target is one number, inputs and target differ in length, or they are plain lists. Batches of
            different lengths are padded to the longest if they have an attention mask.
        model: its signature decides which items of a mapping are inputs; and whether arrays of three dimensions are
            series or grey images, by trying.
        labelled: refuse data without targets. If False, `source` may also be inputs alone, and two arrays that differ
            only in length are two batches of them (those of one length in a tuple are a pair).
        name: name of the data, for records and figures.
        mean: mean of each channel of images, see :func:`as_data`.
        std: standard deviation of each channel of images.

    Returns:
        :class:`ImageData` for images with one class each or none, otherwise :class:`Examples`, all in memory.

    Raises:
        TypeError: `source` contains no data.
        ValueError: there are no examples, or they do not fit together.

    Example:
        >>> as_examples((torch.randn(6, 4), torch.randn(6)))
        Examples('examples in memory', 6 examples, targets () of float32)
        >>> tokens = torch.ones(2, 5, dtype=torch.long)
        >>> as_examples([{"input_ids": tokens, "labels": tokens}])
        Examples('examples in memory', 2 sequences, targets (5,) of int64)
    """
    if isinstance(source, Examples):
        return _labelled(source, labelled)
    if isinstance(source, ImageData):
        return as_data(source, labelled=labelled, name=name, mean=mean, std=std)
    if _is_array(source):
        source = [source]
    if isinstance(source, tuple) and len(source) == 2 and all(map(_is_matrix, source)):
        source = tuple(np.asarray(part) for part in source)
    _check(source)
    with generators_kept([]):  # a loader's order and augmentation leave no mark
        items = _items(source, labelled or _is_pair_of_one_length(source))
        first = next(items, None)
        items = iter(()) if first is None else itertools.chain([first], items)
        samples = _holds_samples(source) or (first is not source and _is_sample(first, model))
        if first is None or _holds_images(first, samples, model):
            return _collected(source, mean, std, None, name, None, None, None, labelled, items)
        data = _joined([_read(item, samples, model) for item in items], name or _named(source))
    return _labelled(data, labelled)


def _is_matrix(value: Any) -> bool:
    """Whether this is a list of numbers, or of rows of them."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)


def _labelled(data: Examples, labelled: bool) -> Examples:
    if labelled and not data.labelled:
        raise ValueError(f"expected targets in {data.name}, got {data.nouns} without; pass pairs (inputs, targets)")
    return data


def _named(source: Any) -> str:
    return _name_of(source).replace("images in memory", "examples in memory")


def _is_pair_of_one_length(source: Any) -> bool:
    """Whether these are inputs and targets of the same shape, as of a denoiser, rather than two batches of inputs."""
    return isinstance(source, tuple) and _is_pair(source) and _is_array(source[1]) and len(source[0]) == len(source[1])


def _is_sample(item: Any, model: nn.Module | None) -> bool:
    """Whether an item of an iterable is one sample: as a batch, its inputs and targets do not fit together."""
    if not isinstance(item, Mapping) and not (isinstance(item, (tuple, list)) and len(item) > 1):
        return False
    x, y = _input_and_target(item, model)
    if isinstance(item, Mapping):
        inputs = [value for value in (x.values() if isinstance(x, Mapping) else [x]) if value is not None]
        if inputs and not any(map(_is_array, inputs)):
            return any(isinstance(value, list) and _is_array(_number(value)) for value in inputs)
    if y is None:
        return False
    target, lengths = _number(y), {len(leaf) if leaf.ndim else 0 for leaf in leaves(x) if _is_array(leaf)}
    if not _is_array(target) or not target.ndim:
        return not isinstance(target, (list, tuple)) and np.ndim(target) == 0
    return len(lengths) == 1 and len(target) not in lengths


def _holds_images(item: Any, sample: bool, model: nn.Module | None) -> bool:
    """Whether a batch (or a sample) is of images with one class each or none; unknown forms are left to `as_data`."""
    if isinstance(item, Mapping):
        key = _key_of(item, IMAGE_KEYS, lambda value: value.ndim >= 3 - sample)
        if key is None or (model is not None and _n_inputs(item, model) > 1):
            return not any(_is_array(_number(value)) for value in item.values())
        label = _key_of(item, LABEL_KEYS, lambda value: False)
        x, y = item[key], None if label is None else item[label]
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        x, y = item
    elif isinstance(item, (tuple, list)) and len(item) == 1:
        x, y = item[0], None
    elif isinstance(item, (tuple, list)):
        return model is None or not isinstance(_input_and_target(item, model)[0], tuple)
    else:
        x, y = item, None
    if not _is_array(x) and not hasattr(x, "getbands"):
        return not isinstance(x, (Mapping, tuple, list))
    pixels = tensor_of(x, "numbers")
    pixels = pixels[None] if sample else pixels
    if pixels.dtype == torch.uint8:
        return pixels.ndim in (3, 4) and _are_classes(y, sample)
    if pixels.ndim == 3 and (not pixels.is_floating_point() or _reads_series(model, pixels)):
        return False
    return pixels.ndim in (3, 4) and _are_classes(y, sample)


def _n_inputs(item: Mapping[str, Any], model: nn.Module) -> int:
    """How many arrays of a mapping the model takes."""
    return len([leaf for leaf in leaves(_input_and_target(item, model)[0]) if _is_array(leaf)])


def _are_classes(y: Any, sample: bool) -> bool:
    """Whether targets are one class per example: indices, or rows with a single 1. None are, too."""
    if y is None:
        return True
    try:
        targets = tensor_of(y, "labels")
    except TypeError:
        return True  # left to the error of `as_data`
    targets = targets[None] if sample else targets
    if targets.ndim == 0:
        return not targets.is_floating_point()
    if targets.ndim == 1 or (targets.ndim == 2 and targets.shape[1] == 1):
        return not targets.is_floating_point()
    rows = targets.double()
    return targets.ndim == 2 and bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all())


def _reads_series(model: nn.Module | None, x: torch.Tensor) -> bool:
    """Whether a model takes an array of three dimensions as it is, rather than as grey images.

    If a model takes neither, its layers show which form the error should name.
    """
    if model is None:
        return False
    if _takes(model, x):
        return True
    return not _takes(model, x[:, None]) and not any(isinstance(module, nn.Conv2d) for module in model.modules())


def _takes(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether a model takes an array."""
    few = placed(x[:2], model)
    try:
        with preserved(model), torch.no_grad():
            return bool(main_output(call_model(model, few)).shape[:1] == few.shape[:1])
    except Exception:  # whatever a model raises for inputs that it does not take
        return False


def _read(item: Any, sample: bool, model: nn.Module | None) -> tuple[Any, torch.Tensor | None]:
    """Inputs and targets of a batch, as tensors; a sample becomes a batch of one."""
    if isinstance(item, (tuple, list)) and len(item) == 2 and not _is_array(item[0]):
        x, y = (item[0] if isinstance(item[0], tuple) else _input_and_target(item, model)[0]), item[1]
    elif isinstance(item, Mapping) and sample:
        x, y = _input_and_target({key: _number(value) for key, value in item.items()}, model)
    else:
        x, y = _input_and_target(item, model)
    inputs = map_leaves(x, lambda leaf: _number(leaf)[None] if sample and _is_array(_number(leaf)) else _number(leaf))
    if isinstance(inputs, dict):
        inputs = {key: value for key, value in inputs.items() if not isinstance(value, (str, list, type(None)))}
    targets = None if y is None else tensor_of(y, "targets")
    if targets is not None and (sample or not targets.ndim):
        targets = targets[None]
    if targets is not None and targets.ndim == 2 and targets.shape[1] == 1 and not targets.is_floating_point():
        targets = targets[:, 0]
    if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.uint8 and leaf.ndim == 4 for leaf in leaves(inputs)):
        raise UnknownNormalisation(
            "expected floats as the model reads them, got uint8 images, whose normalisation is not known; normalise "
            "them first"
        )
    return inputs, targets


def _number(value: Any) -> Any:
    """A tensor from an array or a list of numbers; other values as they are."""
    if _is_array(value) or (isinstance(value, list) and value and all(isinstance(v, int | float) for v in value)):
        return tensor_of(value, "numbers")
    return value


def _joined(batches: list[tuple[Any, torch.Tensor | None]], name: str) -> Examples:
    """Batches joined; those padded to different lengths are padded to the longest."""
    if any((y is None) != (batches[0][1] is None) for _, y in batches):
        raise ValueError(f"expected targets for all batches of {name} or for none, got some without")
    forms = {tuple(x) if isinstance(x, dict) else len(list(leaves(x))) for x, _ in batches}
    if len(forms) > 1:
        raise ValueError(
            f"expected the same inputs in all batches of {name}, got {len(forms)} kinds of batches; pass pairs "
            "(inputs, targets) as tuples"
        )
    masked = isinstance(batches[0][0], dict) and any(key in batches[0][0] for key in MASKS)
    columns = list(zip(*(list(leaves(x)) for x, _ in batches), strict=True))
    joined = iter([_one(list(column), 0, masked, name) for column in columns])
    inputs = map_leaves(batches[0][0], lambda leaf: next(joined))
    targets = None if batches[0][1] is None else _one([y for _, y in batches], IGNORED, masked, name)
    return Examples(inputs, targets, name)


def _one(parts: list[Any], filler: int, masked: bool, name: str) -> Any:
    if not isinstance(parts[0], torch.Tensor) or not parts[0].ndim:
        return parts[0]
    lengths = {tuple(part.shape[1:]) for part in parts}
    if len(lengths) > 1:
        if not masked or any(len(shape) != 1 for shape in lengths) or parts[0].is_floating_point():
            shapes = sorted(lengths)
            raise ValueError(
                f"expected {name} of one shape, got {len(lengths)} shapes (from {shapes[0]} to {shapes[-1]}); pad "
                "them, and pass an attention_mask"
            )
        longest = max(shape[0] for shape in lengths)
        parts = [nn.functional.pad(part, (0, longest - part.shape[1]), value=filler) for part in parts]
    return torch.cat(parts)
