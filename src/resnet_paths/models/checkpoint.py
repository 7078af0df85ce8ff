"""Checkpoints that cannot run code: safetensors with a description of what made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .cifar import CifarResNet, cifar_resnet


def save_checkpoint(model: nn.Module, path: str | Path, **facts: Any) -> Path:
    """Write a model's state as safetensors, with facts about it (JSON values) as metadata.

    The file appears whole or not at all. A :class:`CifarResNet` is described so that
    :func:`load_checkpoint` builds it again.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(model, CifarResNet):
        facts = {"architecture": {"depth": model.depth, **model.arguments}, **facts}
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    save_file(state, partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, target)
    return target


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state and the facts of a checkpoint: safetensors, or a ``.pt`` / ``.pth`` state dict of tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of one of these kinds.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"expected a checkpoint file, got {str(path)!r}, which does not exist")
    if source.suffix == ".safetensors":
        try:
            with safe_open(source, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(
                f"expected a safetensors file, got {source.name}, which cannot be read: {error}"
            ) from error
        return state, facts
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"expected a state dict of tensors in {source.name} (loaded with weights_only=True), got: {error}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"expected a state dict of tensors in {source.name}, got {type(content).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}, {}


def load_checkpoint(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint.

    Args:
        path: see :func:`read_checkpoint`.
        model: the model to load it into; None builds the CIFAR ResNet that the checkpoint describes, or whose
            shapes it has.

    Raises:
        ValueError: the checkpoint does not fit, or does not tell which model it is of.
    """
    state, facts = read_checkpoint(path)
    if model is None:
        model = _described(facts) or _inferred(state)
    if model is None:
        raise ValueError(
            f"expected a checkpoint that says which model it is of, got {Path(path).name} with keys "
            f"{sorted(state)[:3]}...; give the model too, as NAME@FILE or in code"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint {Path(path).name} does not fit {type(model).__name__}: {error}") from error
    return model.eval()


def _described(facts: dict[str, Any]) -> nn.Module | None:
    arguments = dict(facts.get("architecture", {}))
    if not arguments:
        return None
    depth = arguments.pop("depth")
    return cifar_resnet(depth, **{**arguments, "widths": tuple(arguments["widths"])})


def _inferred(state: dict[str, torch.Tensor]) -> nn.Module | None:
    """The post-activation basic network with option A or B that has these keys and shapes."""
    if "conv1.weight" not in state or "linear.weight" not in state:
        return None
    stages = sorted({int(key[5 : key.index(".")]) for key in state if key.startswith("layer")})
    units = len({key.split(".")[1] for key in state if key.startswith("layer1.")})
    if not stages or not units or "layer1.0.conv3.weight" in state:
        return None
    widths = tuple(state[f"layer{stage}.0.conv1.weight"].shape[0] for stage in stages)
    return cifar_resnet(
        2 * units * len(stages) + 2,
        num_classes=state["linear.weight"].shape[0],
        in_channels=state["conv1.weight"].shape[1],
        shortcut="B" if any(".shortcut." in key for key in state) else "A",
        widths=widths,
    )
