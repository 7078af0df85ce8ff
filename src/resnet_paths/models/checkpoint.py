"""Checkpoints that cannot run code: safetensors with a description of what made them."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ._infer import inferred_network
from .cifar import CifarResNet, cifar_resnet


def save_checkpoint(model: nn.Module, path: str | Path, **facts: Any) -> Path:
    """Write a model's state as safetensors, with facts about it as metadata.

    The file appears whole or not at all. A :class:`CifarResNet` is described (fact ``architecture``) so that
    :func:`load_checkpoint` builds it again; the versions that wrote the file are noted (fact ``versions``).

    Args:
        model: the model; its state is copied to the CPU first.
        path: the file; its folder is made where it is missing.
        **facts: JSON values. By custom ``mean`` and ``std`` (the normalisation of its input, one number a
            channel), ``classes`` (their names, in the order of the logits), ``data`` and ``recipe``.

    Raises:
        TypeError: a fact is no JSON value.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_checkpoint(cifar_resnet(8), Path(folder) / "net.safetensors", classes=["a", "b"])
        ...     state, facts = read_checkpoint(path)
        >>> facts["classes"], facts["architecture"]["depth"]
        (['a', 'b'], 8)
    """
    target = Path(path)
    facts = {"versions": {"resnet_paths": version("resnet-paths"), "torch": torch.__version__}, **facts}
    if isinstance(model, CifarResNet):
        facts = {"architecture": {"depth": model.depth, **model.arguments}, **facts}
    try:
        text = json.dumps(facts)
    except TypeError as error:
        raise TypeError(f"expected facts that JSON can hold (numbers, strings, lists, dicts), got: {error}") from error

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(save(state, {"format": "pt", "facts": text}))  # save_file lets nobody else read it
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state and the facts of a checkpoint: safetensors, or a ``.pt`` / ``.pth`` state dict of tensors.

    A ``.pt`` file is read with ``weights_only=True``, so that it cannot run code; a state dict under the key
    ``state_dict`` or ``model`` is found, and the prefixes of ``DataParallel`` and ``torch.compile`` are taken off.

    Returns:
        The tensors by name, on the CPU, and the facts of :func:`save_checkpoint` ({} where there are none).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of one of these kinds.

    Example:
        >>> from resnet_paths.models.load import EMBEDDED
        >>> state, facts = read_checkpoint(EMBEDDED)
        >>> state["conv1.weight"].shape
        torch.Size([8, 1, 3, 3])
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"expected a checkpoint file, got {str(path)!r}, which does not exist; check the path")
    if source.suffix == ".safetensors":
        return _read_safetensors(source)
    return _read_torch(source), {}


def _read_safetensors(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(source, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"expected a safetensors file, got {source.name}, which cannot be read: {error}; fetch it again"
        ) from error
    if not isinstance(facts, dict):
        raise ValueError(f"expected facts by name in the metadata of {source.name}, got {type(facts).__name__}")
    return state, facts


def _read_torch(source: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch.load raises on a damaged or an unsafe file
        raise ValueError(
            f"expected a state dict of tensors in {source.name} (loaded with weights_only=True), got: {error}; "
            "save model.state_dict(), not the model"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(
            f"expected a state dict of tensors in {source.name}, got {type(content).__name__}; save model.state_dict()"
        )
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in content.items()}


def load_checkpoint(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint; every tensor of either must have its counterpart.

    Args:
        path: see :func:`read_checkpoint`.
        model: the model to load it into; None builds the CIFAR ResNet that the checkpoint describes, or whose
            keys and shapes it has. Without a description a plain network has the keys of a residual one with
            option A, and is taken for that, and stochastic depth leaves no trace in keys: give ``model``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the checkpoint does not fit, or does not tell which model it is of.

    Example:
        >>> from resnet_paths.models.load import EMBEDDED
        >>> load_checkpoint(EMBEDDED).depth
        56
    """
    state, facts = read_checkpoint(path)
    if model is None:
        model = _described(facts, Path(path).name) or inferred_network(state)
    if model is None:
        raise ValueError(
            f"expected a checkpoint that says which model it is of, got {Path(path).name} with keys "
            f"{sorted(state)[:3]}...; give the model too, as NAME@FILE or in code"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint {Path(path).name} does not fit {type(model).__name__}: {error}; give the model that it "
            "was saved from"
        ) from error
    return model.eval()


def classes_of(state: dict[str, torch.Tensor], model: nn.Module) -> int | None:
    """The number of classes of a checkpoint, where that is all in which it differs from a model; otherwise None.

    Example:
        >>> state = cifar_resnet(8, num_classes=3).state_dict()
        >>> classes_of(state, cifar_resnet(8)), classes_of(state, cifar_resnet(8, num_classes=3))
        (3, None)
    """
    own = model.state_dict()
    if state.keys() != own.keys():
        return None
    other = [(own[name].shape, value.shape) for name, value in state.items() if own[name].shape != value.shape]
    if any(not mine or not theirs or mine[1:] != theirs[1:] for mine, theirs in other):
        return None
    sizes = {(mine[0], theirs[0]) for mine, theirs in other}
    return int(next(iter(sizes))[1]) if len(sizes) == 1 else None


def _described(facts: dict[str, Any], name: str) -> nn.Module | None:
    if "architecture" not in facts:
        return None
    try:
        arguments = dict(facts["architecture"])
        return cifar_resnet(arguments.pop("depth"), **arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected the arguments of cifar_resnet as architecture in the metadata of {name}, got "
            f"{facts['architecture']!r}: {error}; a later release may have written it: update, or give the model too"
        ) from error
