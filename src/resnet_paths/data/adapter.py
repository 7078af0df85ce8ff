"""The one entry for images: converts any container into what analyses take.

Users have DataLoaders, datasets, dictionaries, arrays and pairs of tensors. Analyses need all images in memory with
labels, class names and normalisation, because they evaluate the same images many times and must record which these
were. With the conversion in one place, no two analyses interpret the same batch differently.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..arguments import ELSEWHERE, checked
from ..graph.preserve import generators_kept
from ..graph.trees import DICTS, leaves
from .arrays import image_tensor, label_tensor, tensor_of
from .batches import even_slices
from .examples import Examples
from .images import ImageData
from .in_memory import InMemory

ImageSource = Annotated[InMemory | Dataset[Any] | Mapping[str, Any] | Iterable[Any], ELSEWHERE]
"""Any container of labelled images: see :func:`as_data`."""

IMAGE_KEYS = ("pixel_values", "image", "images", "img", "imgs", "x", "input", "inputs", "data", "pixels")
LABEL_KEYS = ("labels", "label", "target", "targets", "y", "class", "classes", "fine_label")

_COLOURS = 3
_FORMS = (
    "an ImageData, a pair (images, labels), a Dataset, a DataLoader or an iterable of batches (pairs or dicts); "
    "load_data reads files"
)


class UnknownNormalisation(TypeError):
    """Pixels are uint8 and their normalisation is unknown."""


@checked
def as_data(
    source: ImageSource,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    name: str | None = None,
    image: str | None = None,
    label: str | None = None,
    limit: int | None = None,
    labelled: bool = True,
) -> ImageData:
    """Labelled images in memory from whatever holds them; every function that takes images reads them by this.

    Analyses that compare a smaller network with the full one need no labels, and also accept images alone.

    Args:
        source: an :class:`ImageData`, which is returned unchanged; a pair of arrays ``(images, labels)``; a
            ``Dataset``; a ``DataLoader``; a dict of arrays; or an iterable of batches or samples. Each batch is a tuple
            or a list whose first two items are images and labels, or a mapping. Images are tensors or arrays (count,
            channels, height, width), channels last if the shape shows that, or (count, height, width); floats are taken
            as already normalised. Labels are (count,), (count, 1) or one-hot.
        mean: mean of each channel, which is subtracted; required for uint8, on the scale where 255 is 1.
        std: standard deviation of each channel, by which the difference is divided; required for uint8.
        classes: class names; by default those of the data set, or else the label numbers.
        name: name of the images, for records and figures.
        image: key of the images in a mapping, if it is not one of the usual ones.
        label: key of the labels in a mapping.
        limit: maximum number of images; the first ones are taken.
        labelled: refuse images without labels. If False, `source` may also be images alone (an array, or batches or
            samples without labels), and their labels become -1.

    Returns:
        The images, all in memory. Randomness in the source (order, augmentation) is drawn once.

    Raises:
        TypeError: `source` contains no labelled images, or pixels with unknown normalisation.
        ValueError: there are no images, or their shapes or those of the labels make no sense.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])), batch_size=4)
        >>> as_data(loader)
        ImageData('TensorDataset', 6 images (3, 8, 8), 3 classes)
    """
    if isinstance(source, ImageData):
        if labelled and not source.labelled:
            raise ValueError(
                f"expected labelled images in {source.name}, got images without labels; pass pairs (images, labels)"
            )
        if limit is not None and limit < len(source):
            source = source.subset(slice(0, limit))
    else:
        with generators_kept([]):  # a loader's order and augmentation leave no mark
            source = _collected(source, mean, std, classes, name, image, label, limit, labelled)
    if all(value is None for value in (mean, std, classes, name)):
        return source
    return replace(
        source,
        mean=source.mean if mean is None else tuple(mean),
        std=source.std if std is None else tuple(std),
        classes=source.classes if classes is None else tuple(classes),
        name=name or source.name,
    )


@checked
def as_batches(
    source: ImageSource, model: nn.Module | None = None, *, batch_size: int = 100, inputs: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Inputs and targets from any container, one batch at a time; absent targets are None.

    For functions that do not require images: inputs may have any shape, or be tuples or dicts, and targets may be
    anything. Batches of a loader or another iterable are used unchanged; containers without batches (images, arrays,
    data sets) are cut into batches of nearly equal size, and so are samples with one class each.

    Args:
        source: see :func:`as_data`; batches may also be inputs alone.
        model: its signature decides which items of a mapping are inputs, and whether a list is one input or several.
        batch_size: maximum batch size for containers without batches.
        inputs: targets are not needed, so two arrays that differ only in length are two batches of inputs.

    Raises:
        TypeError: `source` contains no batches.

    Example:
        >>> [(tuple(x.shape), y.tolist()) for x, y in as_batches((torch.zeros(3, 2), torch.arange(3)), batch_size=2)]
        [((2, 2), [0, 1]), ((1, 2), [2])]
    """
    if _is_pair_of_several_inputs(source):
        source = Examples(*_input_and_target(source, model))
    if isinstance(source, InMemory):
        parts = (source.subset(part) for part in even_slices(len(source), batch_size))
        return ((part.x, part.targets) for part in parts)
    _check(source)
    pair = _is_pair(source)
    if pair and not (inputs and _are_inputs(source)):
        x, y = (tensor_of(part, "numbers") for part in source)  # type: ignore[union-attr]
        return ((x[part], y[part]) for part in even_slices(len(x), batch_size))
    if _holds_samples(source):
        loader = DataLoader(source, batch_size)  # type: ignore[arg-type]
        return (_input_and_target(batch, model) for batch in loader)
    items = iter(source) if pair else _items(source)
    return (_input_and_target(batch, model) for batch in _in_batches(items, batch_size))


def model_input(x: Any, model: nn.Module | None) -> Any:
    """An input in the form that the model's forward takes: the matching items of a mapping, the items of a list.

    A list stays one argument if forward takes only one, as with detectors.

    Raises:
        ValueError: the mapping has no input that forward takes.
    """
    if model is None or not isinstance(x, (Mapping, list)):
        return x
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(x, list):
        n_required = _n_required(model)
        is_several_inputs = n_required > 1 or (not n_required and len(x) <= len(parameters))
        return tuple(x) if is_several_inputs or (n_required == 1 and len(x) == 1) else x
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(x)
    names = {p.name for p in parameters}
    accepted = {key: value for key, value in x.items() if key in names}
    if accepted:
        return accepted
    key = _key_of(x, IMAGE_KEYS, lambda value: value.ndim == 4)
    if key is None:
        raise ValueError(f"expected a batch with inputs named {sorted(names)}, got {sorted(map(str, x))}")
    return x[key]


def _collected(
    source: Any, mean: Any, std: Any, classes: Any, name: str | None, image: str | None, label: str | None,
    limit: int | None, labelled: bool, items: Iterator[Any] | None = None,
) -> ImageData:  # fmt: skip
    if _is_array(source) and not labelled:
        source = [source]
    _check(source)
    data_name = name or _name_of(source)
    images: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    are_samples, count = _holds_samples(source), 0
    for item in _items(source, labelled) if items is None else items:
        x, y = _images_and_labels(item, image, label, data_name, labelled)
        if are_samples or _is_sample(x, y):
            x, y = tensor_of(x, "pixels")[None], None if y is None else tensor_of(y, "labels")[None]
        images.append(image_tensor(x, data_name))
        labels.append(_labels_of(y, images[-1], data_name))
        count += len(images[-1])
        if limit is not None and count >= limit:
            break
    if not images:
        raise ValueError(
            f"expected at least one image in {data_name}, got none; is the iterator exhausted? pass a list"
        )
    pixels, all_labels = _joined(images, data_name)[:limit], torch.cat(labels)[:limit]
    if bool((all_labels == -1).any()) and not bool((all_labels == -1).all()):
        raise ValueError(
            f"expected labels for all images in {data_name} or for none, got {int((all_labels == -1).sum())} without"
        )

    if pixels.dtype == torch.uint8 and (mean is None or std is None):
        raise UnknownNormalisation(
            f"expected floats as the model reads them in {data_name}, got uint8, whose normalisation is not known; "
            "pass mean and std to as_data, or use load_data"
        )
    names = tuple(classes or _classes_of(source) or map(str, range(int(all_labels.max()) + 1)))
    channels = pixels.shape[1]
    dtype = pixels.dtype if pixels.dtype.is_floating_point else torch.float32
    return ImageData(
        pixels, all_labels, names, tuple(mean or (0.0,) * channels), tuple(std or (1.0,) * channels), data_name, dtype
    )


def _check(source: Any) -> None:
    """Refuse objects that cannot contain images, even if they are iterable (strings, modules)."""
    if isinstance(source, Examples):
        raise TypeError(f"expected images with a class each, got {source!r}; this analysis reads images only")
    if isinstance(source, (str, Path)):
        raise TypeError(f"expected {_FORMS}, got {str(source)!r}; pass load_data({str(source)!r})")
    parts = source[:2] if isinstance(source, (tuple, list)) else (source,)
    if any(hasattr(part, "iloc") for part in parts):  # a table of pandas, which iterates over the names of its columns
        raise TypeError(
            f"expected {_FORMS}; got {type(parts[0]).__name__}; pass arrays, such as (table[inputs].to_numpy(), "
            "table[target].to_numpy())"
        )
    holds = isinstance(source, (Iterable, Dataset)) or hasattr(source, "__getitem__")
    if isinstance(source, (nn.Module, torch.Tensor, np.ndarray, bytes, type)) or not holds:
        raise TypeError(f"expected {_FORMS}; got {type(source).__name__}")


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def _is_pair(source: Any) -> bool:
    """Whether these are images and labels rather than two batches."""
    return isinstance(source, (tuple, list)) and len(source) == 2 and _is_array(source[0])


def _is_pair_of_several_inputs(source: Any) -> bool:
    """Whether these are the arguments of the model, in a mapping or a tuple, and targets for them: one batch."""
    if not (isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (*DICTS, tuple))):
        return False
    inputs, targets = source
    lengths = {len(leaf) for leaf in leaves(inputs) if _is_array(leaf) and leaf.ndim}
    return _is_array(targets) and targets.ndim > 0 and len(targets) in lengths


def _are_inputs(source: Any) -> bool:
    """Whether two arrays are two batches of inputs: they differ only in length and have more than one dimension."""
    one, other = source
    return _is_array(other) and one.ndim > 1 and one.shape[1:] == other.shape[1:] and one.dtype == other.dtype


def _holds_samples(source: Any) -> bool:
    """Whether its items are single samples: a PyTorch data set, or another container indexed by numbers."""
    if isinstance(source, Dataset):
        return True
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return indexed and not isinstance(source, (Mapping, Sequence))


def _items(source: Any, labelled: bool = True) -> Iterator[Any]:
    """Batches or samples in order; if labels are optional, two arrays may be two batches of images."""
    is_pair = _is_pair(source) and (labelled or not _are_inputs(source))
    if isinstance(source, Mapping) or is_pair or _is_pair_of_several_inputs(source):
        yield source
    elif _holds_samples(source) and not isinstance(source, IterableDataset):
        yield from (source[index] for index in range(len(source)))
    else:
        yield from source


def _images_and_labels(
    item: Any, image: str | None, label: str | None, name: str, labelled: bool
) -> tuple[Any, Any | None]:
    """Images and labels of a batch or a sample; absent optional labels are None."""
    if not labelled and not isinstance(item, Mapping) and not (isinstance(item, (tuple, list)) and len(item) >= 2):
        return (item[0] if isinstance(item, (tuple, list)) and item else item), None
    if isinstance(item, Mapping):
        keys = (
            image or _key_of(item, IMAGE_KEYS, lambda value: value.ndim >= 3),
            label or _key_of(item, LABEL_KEYS, lambda value: labelled and _numbers_classes(value)),
        )
        if not labelled and label is None and keys[0] in item and keys[1] not in item:
            return item[keys[0]], None
        if any(key not in item for key in keys):
            raise ValueError(
                f"expected images and labels in the batches of {name}, got the keys {sorted(map(str, item))}; select "
                "them with image= and label= of as_data, or pass pairs (inputs, targets)"
            )
        return item[keys[0]], item[keys[1]]
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    received = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
    raise TypeError(f"expected batches (images, labels) or mappings in {name}, got {received}; labels are required too")


def _numbers_classes(value: torch.Tensor) -> bool:
    return value.ndim <= 1 and not value.dtype.is_floating_point


def _key_of(item: Mapping[str, Any], usual: tuple[str, ...], fits: Any) -> str | None:
    """The first of the usual keys that is present, or the only key whose value fits."""
    for key in usual:
        if key in item and item[key] is not None:
            return key
    candidates = [key for key, value in item.items() if isinstance(value, torch.Tensor) and fits(value)]
    return candidates[0] if len(candidates) == 1 else None


def _input_and_target(batch: Any, model: nn.Module | None) -> tuple[Any, Any]:
    """The model's input, and the target of its output."""
    if isinstance(batch, Mapping):
        label = _key_of(batch, LABEL_KEYS, lambda value: False)
        rest = {key: value for key, value in batch.items() if key != label}
        return model_input(rest, model), None if label is None else batch[label]
    if isinstance(batch, (tuple, list)) and batch:
        if model is not None and len(batch) > 2 and _n_required(model) == len(batch) - 1:
            return tuple(batch[:-1]), batch[-1]  # one input per argument, then the target
        return model_input(batch[0], model), batch[1] if len(batch) > 1 else None
    if not _is_array(batch):
        raise TypeError(f"expected batches of inputs, or of inputs and targets, got {type(batch).__name__}")
    return tensor_of(batch, "numbers"), None


def _n_required(model: nn.Module) -> int:
    """The number of required arguments of the model's forward."""
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in inspect.signature(model.forward).parameters.values()
    )


def _in_batches(items: Iterator[Any], size: int) -> Iterator[Any]:
    """The batches of an iterable; its samples, if their targets show that these are samples, joined to batches."""
    first = next(items, None)
    if first is None:
        return
    items = itertools.chain([first], items)
    x, y = None, None
    if isinstance(first, Mapping):
        x, label = next(filter(_is_array, first.values()), None), _key_of(first, LABEL_KEYS, lambda value: False)
        y = None if label is None else first[label]
    elif isinstance(first, (tuple, list)) and len(first) == 2:
        x, y = first
    if _is_array(x) and _is_sample(x, y):
        while group := list(itertools.islice(items, size)):
            yield default_collate(group)
    yield from items


def _is_sample(x: Any, y: Any) -> bool:
    """Whether this is one image or input rather than a batch: its target is one number, or one row of a one-hot matrix.

    Raises:
        ValueError: it could be either, a picture of three colours or three grey ones.
    """
    if y is None or isinstance(y, (list, tuple)) or np.ndim(y) == 0:
        return y is not None and not isinstance(y, (list, tuple))
    if not (_is_array(x) and _is_array(y)) or y.ndim != 1 or not _is_one_hot(y):
        return False
    if len(y) == len(x) == _COLOURS and x.ndim == 3:
        raise ValueError(
            f"expected labels that tell samples from batches, got one image {tuple(x.shape)} with a one-hot label of "
            f"three classes, or three grey images with the labels {y.tolist()}; pass class numbers, or images with a "
            "dimension for the channel"
        )
    return len(y) != len(x) and x.ndim > 1


def _is_one_hot(y: torch.Tensor | np.ndarray) -> bool:
    return bool(((y == 0) | (y == 1)).all()) and int(y.sum()) == 1 < len(y)


def _labels_of(y: Any | None, images: torch.Tensor, name: str) -> torch.Tensor:
    """The label of each image, or -1 for all if there are none."""
    if y is None:
        return torch.full((len(images),), -1, device=images.device)
    labels = label_tensor(y, name)
    if len(labels) != len(images):
        raise ValueError(
            f"expected a label for each image in {name}, got {len(images)} images and {len(labels)} labels; images "
            "come first in a pair"
        )
    return labels.to(images.device)


def _joined(images: list[torch.Tensor], name: str) -> torch.Tensor:
    shapes = sorted({tuple(batch.shape[1:]) for batch in images})
    if len(shapes) > 1:
        raise ValueError(
            f"expected images of one size in {name}, got {len(shapes)} sizes (from {shapes[0]} to {shapes[-1]}); "
            "resize them in the data set's transform"
        )
    return torch.cat(images)


def _name_of(source: Any) -> str:
    """The class name of the data set; for nested data sets, of the innermost."""
    if _is_pair(source) or isinstance(source, (tuple, list, Mapping)):
        return "images in memory"
    inner = _innermost(source)
    return type(inner).__name__ if isinstance(inner, Dataset) or hasattr(inner, "__getitem__") else "batches"


def _innermost(source: Any) -> Any:
    """The data set inside a loader and subsets."""
    while hasattr(source, "dataset"):
        source = source.dataset
    return source


def _classes_of(source: Any) -> tuple[str, ...] | None:
    """The data set's class names: ``classes`` of torchvision, ``features`` of Hugging Face."""
    inner = _innermost(source)
    names = getattr(inner, "classes", None)
    features = getattr(inner, "features", None)
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in LABEL_KEYS if key in features), None)
    if isinstance(names, (list, tuple)) and all(isinstance(one, str) for one in names):
        return tuple(names)
    return None
