"""Images by name: the embedded digits, CIFAR-10, or your own files.

Beside `as_data`, which converts objects: this is what a command line can name. Each kind of source accepts some of the
options and refuses the others by name, because a silently ignored option would give other images than requested.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from ..arguments import ELSEWHERE, checked
from ..choices import Split
from ..imports import first_import
from ..user_code import is_user_code, user_object
from ..warned import warn
from ._files import SeveralSizes, folder, folder_layout, zip_file, zip_layout, zipped
from ._normalisation import CIFAR10_CLASSES, IMAGENET_MEAN, IMAGENET_STD
from ._npz import drawn, limited, npz, npz_parts
from .adapter import UnknownNormalisation
from .any_data import as_examples
from .classes import renamed
from .examples import Examples
from .images import ImageData
from .in_memory import InMemory
from .reading import Reading

_FORMS = "'digits', 'cifar10[:FOLDER]', a folder of class folders, a .zip, an .npz, module:function or file.py:function"


@checked
def digits(split: Split | None = "test") -> ImageData:
    """UCI handwritten digits: 1,797 grey images of 8 x 8 pixels that ship with scikit-learn.

    Every fourth image of each class, in file order, is a test image (445 of 1,797).

    Raises:
        ValueError: the split is neither "train" nor "test".

    Example:
        >>> len(digits("train")), len(digits("test"))
        (1352, 445)
    """
    _check_split(split)
    rows = _digits_file()
    labels = torch.tensor(rows[:, -1], dtype=torch.int64, device="cpu")
    images = torch.tensor(rows[:, :-1].reshape(-1, 1, 8, 8), dtype=torch.float32, device="cpu") / 16
    rank = torch.zeros_like(labels)
    for label in range(10):
        rank[labels == label] = torch.arange(int((labels == label).sum()), device="cpu")
    test = rank % 4 == 3
    selected = ~test if split == "train" else test
    names = tuple(str(label) for label in range(10))
    return ImageData(images[selected], labels[selected], names, (0.3053,), (0.3764,), f"digits ({split or 'test'})")


@cache
def _digits_file() -> np.ndarray:
    """64 grey values and the label of each image, from the file that scikit-learn's ``load_digits`` reads.

    scikit-learn itself is not imported: that takes seconds and sets environment variables of OpenMP.

    Raises:
        FileNotFoundError: scikit-learn or its file is missing.
    """
    library = importlib.util.find_spec("sklearn")
    file = Path(library.origin or "").with_name("datasets") / "data" / "digits.csv.gz" if library else None
    if file is None or not file.exists():
        raise FileNotFoundError(
            f"expected scikit-learn with its file of digits, got {file or 'no scikit-learn'}; run: pip install "
            "scikit-learn"
        )
    return np.loadtxt(file, delimiter=",")


@checked
def cifar10(split: Split | None = "test", root: str | Path = "data", download: bool = False) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009) through torchvision: 50,000 training and 10,000 test colour images of 32 x 32 pixels.

    Raises:
        FileNotFoundError: it is not under `root` and `download` is False.
        ValueError: the split is neither "train" nor "test".
    """
    with first_import("torchvision.datasets"):
        from torchvision.datasets import CIFAR10

    _check_split(split)
    try:
        source = CIFAR10(str(root), train=split == "train", download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"expected CIFAR-10 under {root}, got: {error}; pass download=True, or the folder that contains "
            "cifar-10-batches-py as root"
        ) from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(source.targets, device="cpu")
    return ImageData(images, labels, CIFAR10_CLASSES, IMAGENET_MEAN, IMAGENET_STD, f"CIFAR-10 ({split or 'test'})")


# Eleven parameters: the source and the split, and everything that a user may know better than the file does. Grouping
# them would not simplify anything, since each is optional and independent of the others.
@checked
def load_data(
    spec: Annotated[str | Path, ELSEWHERE] = "digits",
    split: Split | None = None,
    *,
    limit: int | None = None,
    size: int | None = None,
    download: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] | None = None,
    white: float | None = None,
    seed: int = 0,
    default: Reading | None = None,
) -> ImageData:
    """Images by name or path.

    Args:
        spec: ``"digits"`` (embedded), ``"cifar10"`` or ``"cifar10:FOLDER"``, a folder of class folders (perhaps grouped
            into ``train`` and ``val`` or ``test``), a zip file of these, an npz file, or your own function as
            ``module:function`` or ``file.py:function``. The function returns anything that :func:`as_data` reads, and
            takes ``split`` if it has several parts. Its module is executed, so only use code that you trust.
        split: ``train``, ``test`` or ``val``. A source without parts is split at random, with a fifth of each class as
            test images, and a warning says so. None: the test images, or all images of a source without parts.
        limit: maximum number of images: the first ones, or spread evenly over folders, zips and images sorted by class.
        size: length of the shorter side to which images of folders and zip files are resized.
        download: download CIFAR-10 if it is missing.
        mean: mean of each channel, instead of the source's (ImageNet's for colour files).
        std: standard deviation of each channel, instead of the source's.
        classes: class names in the order of their numbers, such as those of a checkpoint; images are numbered by them.
        white: value of a white pixel in images of more than 8 bits, if it is not 65,535.
        seed: seed of a split drawn at random.
        default: a model's preprocessing (:func:`resnet_paths.models.reading_of`), used where no option above is given:
            mean and std instead of the source's, the size for images of several sizes, and the classes.

    Raises:
        ValueError: the source is unknown, its content is invalid, or it does not support an option.
        FileNotFoundError: the file does not exist.
        TypeError: `spec` is neither a name nor a path.

    Example:
        >>> load_data("digits", limit=100).x.shape
        torch.Size([100, 1, 8, 8])
    """
    options = _Options(split, limit, size, download, mean, std, classes, white, seed, default or Reading())
    data = _loaded(spec, options, None)
    if not isinstance(data, ImageData):
        raise TypeError(f"expected images with one class each from {spec!r}, got {data!r}; this reads images only")
    return data


@checked
def load_examples(
    spec: Annotated[str | Path, ELSEWHERE],
    split: Split | None = None,
    *,
    model: nn.Module | None = None,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> InMemory:
    """Data of any form by name or path: images as :func:`load_data` reads them, or whatever your function returns.

    Args:
        spec: see :func:`load_data`; a function may return anything that :func:`as_examples` reads, with or without
            targets.
        split: see :func:`load_data`.
        model: the model that reads the data, see :func:`as_examples`.
        limit: maximum number of examples.
        seed: seed of a split drawn at random.
        **options: those of :func:`load_data` for images.

    Example:
        >>> load_examples("digits", limit=3).noun
        'image'
    """
    options["default"] = options.get("default") or Reading()
    return _loaded(spec, _Options(split, limit, seed=seed, labelled=False, **options), model)


def _loaded(spec: Any, options: _Options, model: nn.Module | None) -> InMemory:
    if not isinstance(spec, (str, Path)):
        raise TypeError(f"expected {_FORMS}, got {type(spec).__name__}; as_data takes loaders, data sets and arrays")
    for name, value in {"limit": options.limit, "size": options.size}.items():
        if value is not None and value < 1:
            raise ValueError(f"expected a {name} of at least 1, got {value}")
    default, mean, std = options.default, options.mean, options.std
    classes = tuple(options.classes) if options.classes is not None else default.classes or None
    spec = str(spec)
    data = _read(spec, replace(options, classes=classes), model)
    if not isinstance(data, ImageData):
        return data if options.limit is None else data.subset(slice(0, options.limit))
    if default.fits(data.images.shape[1]) and _kind(spec) != "function":
        mean, std = mean or default.mean, std or default.std
    return replace(data, mean=tuple(mean or data.mean), std=tuple(std or data.std))


@checked
def has_parts(spec: str) -> bool:
    """Whether a source has its own split into training and test images.

    Example:
        >>> has_parts("digits")
        True
    """
    kind = _kind(spec)
    if kind == "folder":
        return "train" in folder_layout(Path(spec), "train")[1].parts
    if kind == "zip":
        with zip_file(Path(spec)) as file:
            return "train" in zip_layout(file).parts
    if kind == "npz":
        return "train" in npz_parts(Path(spec))
    return kind != "function" or _takes_split(_function(spec))


@dataclass(frozen=True)
class _Options:
    """The options of :func:`load_data`."""

    split: Split | None = None
    limit: int | None = None
    size: int | None = None
    download: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: Sequence[str] | None = None
    white: float | None = None
    seed: int = 0
    default: Reading = field(default_factory=Reading)
    labelled: bool = True


def _kind(spec: str) -> str:
    if not spec.strip():
        raise ValueError(f"expected {_FORMS}, got {spec!r}")
    name = spec.partition(":")[0]
    if spec == "digits" or name == "cifar10":
        return name
    path = Path(spec)
    if path.is_dir():
        return "folder"
    if path.exists():
        kinds = {".zip": "zip", ".npz": "npz"}
        if path.suffix.lower() in kinds:
            return kinds[path.suffix.lower()]
        advice = f"name a function: {spec}:FUNCTION" if path.suffix == ".py" else "pack its images into one of these"
        raise ValueError(f"expected {_FORMS}, got the file {spec}; {advice}")
    if is_user_code(spec) and name not in ("digits",):
        return "function"
    similar = difflib.get_close_matches(name, ["digits", "cifar10"], 1) or ["no name like it"]
    raise FileNotFoundError(
        f"expected {_FORMS}, got {spec!r}, which is neither a known name nor a file (similar names: {similar[0]})"
    )


def _read(spec: str, asked: _Options, model: nn.Module | None) -> InMemory:
    kind = _kind(spec)
    if asked.size is not None and kind not in ("folder", "zip"):
        raise ValueError(
            f"expected no size with {spec!r}, whose images have a fixed one; it applies to folders and zip files"
        )
    if asked.white is not None and kind not in ("folder", "zip"):
        raise ValueError(f"expected no white with {spec!r}; it applies to folders and zip files")
    if asked.download and kind != "cifar10":
        raise ValueError(f"expected no download with {spec!r}; it applies to cifar10 only")
    if kind in ("folder", "zip"):
        read = folder if kind == "folder" else zipped
        options: dict[str, Any] = {
            "limit": asked.limit, "classes": asked.classes, "white": asked.white, "seed": asked.seed,
        }  # fmt: skip
        try:
            return read(spec, asked.split, size=asked.size, **options)
        except SeveralSizes:
            if asked.default.size is None:
                raise
        return read(spec, asked.split, size=asked.default.size, **options)
    if kind == "npz":
        return npz(spec, asked.split, limit=asked.limit, classes=asked.classes, seed=asked.seed)
    if kind == "function":
        of_any_form = _of_function(spec, asked, model)
        if not isinstance(of_any_form, ImageData):
            return of_any_form
        data = of_any_form
    elif kind == "digits":
        data = digits(asked.split)
    else:
        data = cifar10(asked.split, spec.partition(":")[2] or "data", asked.download)
    if asked.limit is not None and asked.limit < len(data):
        data = data.subset(limited(data.labels, asked.limit))
    return data if asked.classes is None else renamed(data, asked.classes)


def _function(spec: str) -> Any:
    module, _, name = spec.rpartition(":")
    value = user_object(module, name)
    if not callable(value):
        return lambda: value
    return value


def _takes_split(function: Any) -> bool:
    return "split" in inspect.signature(function).parameters


def _check_callable(function: Any, spec: str) -> None:
    """Refuse a function with arguments that nothing here could give it."""
    required = [
        name
        for name, one in inspect.signature(function).parameters.items()
        if name != "split" and one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if required:
        raise ValueError(
            f"expected {spec} to be a function without arguments, or of split alone, got {', '.join(required)}; name a "
            "function that calls it with them"
        )


def _of_function(spec: str, asked: _Options, model: nn.Module | None) -> InMemory:
    """The data that the user's function returns."""
    function, name = _function(spec), spec.rpartition(":")[2]
    takes_split = _takes_split(function)
    _check_callable(function, spec)
    arguments = {"split": asked.split or "test"} if takes_split else {}
    value = function(**arguments)
    labelled = asked.labelled and not isinstance(value, Examples)
    try:
        data = as_examples(value, model, labelled=labelled, mean=asked.mean, std=asked.std)
    except UnknownNormalisation:
        if asked.mean or asked.std or not asked.default.mean:
            raise
        data = as_examples(value, model, labelled=labelled, mean=asked.default.mean, std=asked.default.std)
    if takes_split:
        return replace(data, name=f"{name} ({arguments['split']})")  # type: ignore[type-var]
    if isinstance(data, ImageData):
        return replace(data, name=name) if asked.split is None else drawn(data, asked.split, name, asked.seed)
    return _part(data, name, asked)


def _part(data: InMemory, name: str, asked: _Options) -> InMemory:
    """All examples, or a part drawn at random, a fifth of them for tests; a warning says so."""
    if asked.split is None:
        return replace(data, name=name)  # type: ignore[type-var]
    order, test = data.random_order(asked.seed), max(1, len(data) // 5)
    if len(data) < 2:
        raise ValueError(f"expected at least two {data.nouns} in {name} to split, got {len(data)}")
    part = "training" if asked.split == "train" else "test"
    warn(
        f"{name} takes no split: {test} of its {len(data)} {data.nouns}, drawn with seed {asked.seed}, are the test "
        f"part and {len(data) - test} the training part; these are the {part} part"
    )
    indices = (order[test:] if asked.split == "train" else order[:test]).sort().values
    return replace(data.subset(indices), name=f"{name} ({part} part, seed {asked.seed})")  # type: ignore[type-var]


def _check_split(split: str | None) -> None:
    """Refuse `val` for sources that have only training and test images."""
    if split not in ("train", "test", None):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
