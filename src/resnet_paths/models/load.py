"""Models by name: embedded, CIFAR, torchvision, timm, Hugging Face, a checkpoint, or your own function.

A name is one string, since the command line has nothing else. A name of a file wins over that of a library's model, and
an option that a kind of model cannot honour is refused rather than ignored.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from ..arguments import ELSEWHERE, checked
from ..checkpoints.reading import ENDINGS, load_state, read_checkpoint, read_facts
from ..imports import first_import
from ..user_code import near
from ._own import own_model
from .checkpoint import as_dropped, classes_of, load_checkpoint
from .cifar import cifar_resnet

EMBEDDED = Path(__file__).parent / "embedded" / "digits_resnet56.safetensors"
_CIFAR = [f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)]
_FORMS = (
    "'embedded', 'cifar-resnet56', 'torchvision:resnet50' (or just resnet50), 'timm:NAME', 'hf:CLASS' or "
    "'hf:FOLDER', a checkpoint file (.safetensors, .pt, .pth, .ckpt or any other), NAME@FILE, "
    "'package.module:function' or 'file.py:function'"
)


@checked
def load_model(
    spec: Annotated[str, ELSEWHERE] = "embedded",
    *,
    num_classes: int | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """A model in eval mode by name.

    Args:
        spec: ``embedded`` (a ResNet-56 trained on UCI digits), ``cifar-resnetDEPTH``, a torchvision name (with
            or without ``torchvision:``), ``timm:NAME``, ``hf:CLASS`` (a Hugging Face class with its default
            configuration) or ``hf:FOLDER`` (a saved model), a checkpoint file, the folder of a smaller
            network written by ``resnet-paths shrink`` or ``drop``, ``NAME@FILE`` (a model by name
            with the weights of a file), or ``module:function`` / ``file.py:function`` (your own function that
            returns the model).
        num_classes: number of logits; None is the model's own number, or that of the weights if nothing else differs.
        pretrained: whether to use published weights of torchvision or timm, through the library's own loader (which may
            download them).
        weights: a checkpoint to load into the named model, as ``NAME@FILE`` does.
        **options: passed to the model's constructor (for ``hf:CLASS``, to its configuration).

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the name is unknown (the message lists the forms and similar names), or an option does not apply to
            this kind of model.
        TypeError: the name is not a string.

    Example:
        >>> load_model("cifar-resnet20").depth
        20
        >>> load_model("resnet18", num_classes=3).fc.out_features
        3
    """
    if not isinstance(spec, str):
        raise TypeError(f"expected a name ({_FORMS}), got {type(spec).__name__}; a module need not be loaded")
    written = written_file(spec)
    if written is not None and weights is None:
        base = read_facts(written).get("base")
        if isinstance(base, str):  # the file of a smaller network names the full one
            spec, weights = base, written
        else:
            spec = str(written)
    name, at, file = spec.partition("@")
    if at and not Path(spec).exists():
        if weights is not None:
            raise ValueError(f"expected NAME@FILE or weights=, got both ({spec!r} and {str(weights)!r}); pass one")
        spec, weights = name, file
    if weights is not None:
        if pretrained:
            raise ValueError("expected weights from a file or pretrained=True, got both; pass one")
        model = load_model(spec, num_classes=num_classes, **options)
        state, facts = read_checkpoint(weights)
        model = as_dropped(model, state, facts)
        classes = None if num_classes is not None else classes_of(state, model)
        if classes is not None:  # a new head was trained
            model = as_dropped(load_model(spec, num_classes=classes, **options), state, facts)
        return load_state(model, state, Path(weights).name).eval()
    return _by_name(spec, num_classes, pretrained, options).eval()


def written_file(spec: str) -> Path | None:
    """The checkpoint that a name refers to: in a folder written by ``resnet-paths drop`` or ``shrink``, or a file.

    Example:
        >>> written_file("resnet18") is None
        True
    """
    path = Path(spec)
    if path.is_dir() and (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    return path if path.suffix == ".safetensors" and path.is_file() else None


@checked
def base_of(spec: str) -> str | None:
    """The name of a model's architecture without its weights; None if its checkpoint contains that.

    Args:
        spec: a name for :func:`load_model`.

    Example:
        >>> base_of("resnet18@weights.pth"), base_of("embedded")
        ('resnet18', None)
    """
    written = written_file(spec)
    if written is not None:
        base = read_facts(written).get("base")
        return base if isinstance(base, str) else None
    name, at, _ = spec.partition("@")
    name = name if at and not Path(spec).exists() else spec
    if is_checkpoint(name) or name == "embedded":
        return None
    file, colon, function = name.rpartition(":")
    return f"{Path(file).resolve()}:{function}" if colon and file.endswith(".py") else name


def _by_name(spec: str, num_classes: int | None, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if spec.endswith(".py"):
        raise ValueError(f"expected a function of {spec} that returns the model, got none; name it: {spec}:FUNCTION")
    if spec == "embedded" or is_checkpoint(spec):
        _refuse(spec, "its checkpoint decides", pretrained, num_classes=num_classes, **options)
        return load_checkpoint(EMBEDDED if spec == "embedded" else spec)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if spec.startswith("cifar-resnet"):
        _refuse(spec, "none are published; pass a file, as NAME@FILE", pretrained)
        return _cifar(spec, {**classes, **options})

    kind, colon, name = spec.partition(":")
    if colon and kind == "hf":
        labels = {} if num_classes is None else {"num_labels": num_classes}
        return _hugging_face(name, pretrained, {**labels, **options})
    makers: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm}
    if colon and kind not in makers:
        source, _, function = spec.rpartition(":")
        _refuse(spec, "your function decides", pretrained)
        return own_model(source, function, {**classes, **options})
    make: Callable[..., nn.Module] = makers[kind if colon else "torchvision"]
    return make(name if colon else spec, pretrained, {**classes, **options})


def is_checkpoint(spec: str) -> bool:
    """Whether a name refers to a checkpoint: by its extension, or as a file that is not also a model's name.

    Example:
        >>> is_checkpoint("net.th"), is_checkpoint("resnet18"), is_checkpoint("mine.py:build")
        (True, False, False)
    """
    if spec.lower().endswith(ENDINGS):
        return True
    if spec == "embedded" or spec.startswith("cifar-resnet") or not Path(spec).is_file():
        return False
    with first_import("torchvision.models"):
        from torchvision.models import list_models

    return spec not in list_models()


def _refuse(spec: str, reason: str, pretrained: bool, **options: Any) -> None:
    """Refuse options that would otherwise be silently ignored."""
    given = [name for name, value in options.items() if value is not None] + ["pretrained"] * pretrained
    if given:
        raise ValueError(f"expected no {', '.join(given)} with {spec!r} ({reason}); omit it")


def _cifar(spec: str, options: dict[str, Any]) -> nn.Module:
    depth = spec.removeprefix("cifar-resnet")
    if not depth.isdecimal():
        raise ValueError(
            f"expected 'cifar-resnet' and a depth, such as cifar-resnet56, got {spec!r} "
            f"(similar names: {near(spec, _CIFAR)})"
        )
    return cifar_resnet(int(depth), **options)


def _torchvision(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    with first_import("torchvision.models"):
        from torchvision.models import get_model, list_models

    names = list_models()
    if name not in names:
        raise ValueError(_unknown(name, ["embedded", *_CIFAR, *names]))
    model: nn.Module = get_model(name, weights="DEFAULT" if pretrained else None, **options)
    return model


def _timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ValueError(_unknown(name, timm.list_models()))
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model


def _hugging_face(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    transformers = _library("transformers", "hf")
    if options.pop("trust_remote_code", False):
        raise ValueError(_CODE.format("trust_remote_code=True"))
    if name and Path(name).is_dir():
        return _of_folder(name, transformers.AutoModelForImageClassification, options)
    kind = getattr(transformers, name, None)
    if kind is None or getattr(kind, "config_class", None) is None:
        names = [other for other in dir(transformers) if other.endswith("ForImageClassification")]
        raise ValueError(_unknown(name, names))
    _refuse(f"hf:{name}", "a class has none; save the model in a folder and use hf:FOLDER", pretrained)
    model: nn.Module = kind(kind.config_class(**options))
    return model


_CODE = (
    "expected a folder whose code need not be run, got {}; load the model yourself, in a function that you trust, and "
    "pass module:function"
)


def _of_folder(name: str, automatic: Any, options: dict[str, Any]) -> nn.Module:
    """A saved model; code in the folder is not run, and the user is not asked to allow it."""
    try:
        model: nn.Module = automatic.from_pretrained(name, local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(_CODE.format(f"{name!r}, whose model transformers has no class for")) from error
    return model


def _library(name: str, extra: str) -> Any:
    try:
        with first_import(name):
            return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"expected {name} to be installed; run: pip install 'resnet-paths[{extra}]'") from error


def _unknown(name: str, known: list[str]) -> str:
    return f"expected {_FORMS}; got {name!r}, which is unknown (similar names: {near(name, known)})"
