"""Models by name: embedded, CIFAR, torchvision, timm, Hugging Face, a checkpoint, or your own function."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .checkpoint import load_checkpoint
from .cifar import cifar_resnet

EMBEDDED = Path(__file__).parent / "embedded" / "digits_resnet56.safetensors"
_FORMS = (
    "'embedded', 'cifar-resnet56', 'torchvision:resnet50' (or just resnet50), 'timm:NAME', 'hf:CLASS' or "
    "'hf:FOLDER', a .safetensors or .pt file, NAME@FILE, 'package.module:function' or 'file.py:function'"
)


def load_model(spec: str = "embedded", *, pretrained: bool = False, **options: Any) -> nn.Module:
    """A model in eval mode by name.

    Args:
        spec: ``embedded`` (a ResNet-56 trained on UCI digits), ``cifar-resnetDEPTH``, a torchvision name (with
            or without ``torchvision:``), ``timm:NAME``, ``hf:CLASS`` (a Hugging Face class with its default
            configuration) or ``hf:FOLDER`` (a saved model), a checkpoint file, ``NAME@FILE`` (a model by name
            with the weights of a file), or ``module:function`` / ``file.py:function`` (your own function that
            returns the model).
        pretrained: published weights, through the library's own loader (which may download them).
        **options: passed to the model's constructor.

    Raises:
        ValueError: unknown name; the message lists the forms and near names.

    Example:
        >>> load_model("cifar-resnet20").depth
        20
    """
    if "@" in spec:
        name, _, file = spec.partition("@")
        return load_checkpoint(file, load_model(name, **options))
    if spec == "embedded":
        return load_checkpoint(EMBEDDED)
    if spec.startswith("cifar-resnet"):
        depth = spec.removeprefix("cifar-resnet")
        if not depth.isdecimal():
            raise ValueError(f"expected 'cifar-resnet' and a depth, such as cifar-resnet56, got {spec!r}")
        return cifar_resnet(int(depth), **options).eval()
    if spec.endswith((".safetensors", ".pt", ".pth")):
        return load_checkpoint(spec)
    name, colon, rest = spec.partition(":")
    makers: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}
    if name in makers and colon:
        return makers[name](rest, pretrained, options).eval()
    if colon:
        return _own(name, rest, options).eval()
    return _torchvision(spec, pretrained, options).eval()


def _torchvision(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    from torchvision.models import get_model, list_models

    known = list_models()
    if name not in known:
        raise ValueError(_unknown(name, known))
    model: nn.Module = get_model(name, weights="DEFAULT" if pretrained else None, **options)
    return model


def _timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    timm = _library("timm", "timm")
    known = timm.list_models()
    if name not in known:
        raise ValueError(_unknown(name, known))
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model


def _hugging_face(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    transformers = _library("transformers", "hf")
    if Path(name).is_dir():
        model: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(name, **options)
        return model
    kind = getattr(transformers, name, None)
    if kind is None or getattr(kind, "config_class", None) is None:
        known = [other for other in dir(transformers) if other.endswith("ForImageClassification")]
        raise ValueError(_unknown(name, known))
    made: nn.Module = kind(kind.config_class(**options))
    return made


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"expected {name} to be installed; run: pip install 'resnet-paths[{extra}]'") from error


def _own(place: str, function: str, options: dict[str, Any]) -> nn.Module:
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, FileNotFoundError) as error:
        raise ValueError(
            f"expected {_FORMS}; got {place}:{function}, and {place} cannot be imported: {error}"
        ) from error
    maker = getattr(module, function, None)
    if maker is None:
        raise ValueError(f"expected a function {function} in {place}, got none; it has {_near(function, dir(module))}")
    model = maker if isinstance(maker, nn.Module) else maker(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected {place}:{function} to return a torch.nn.Module, got {type(model).__name__}")
    return model


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 5, 0.4)
    return ", ".join(near) if near else "no name like it"


def _unknown(name: str, known: list[str]) -> str:
    return f"expected {_FORMS}; got {name!r}, which is unknown (near names: {_near(name, known)})"
