"""Checkpoints that cannot run code: safetensors with a description of the model in the metadata.

Beside `checkpoints`, which reads weights of any model: this writes files and rebuilds networks. A pickled model would
be simpler, but runs code when it is loaded and breaks when a class moves. Dropped blocks are stored by name, because
the smaller network is the full one with a deterministic edit; on reading, the edit is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ..arguments import checked
from ..checkpoints.reading import load_state, read_checkpoint
from ..checkpoints.states import fit, plain_name, prefixes_of
from ..data.form import example_of
from ..files import whole_file
from ..graph.inputs import placed
from ..graph.wrappers import inner_model
from ..surgery import drop_blocks, dropped_in
from ._infer import inferred_network
from .cifar import CifarResNet, cifar_resnet


@checked
def save_checkpoint(model: nn.Module, path: str | Path, **facts: Any) -> Path:
    """Write a model's state as safetensors, with facts about it as metadata.

    The file is written completely or not at all. A :class:`CifarResNet` is described (fact ``architecture``), so that
    :func:`load_checkpoint` can rebuild it; the versions that wrote the file are recorded (fact ``versions``).

    Args:
        model: the model; its state is copied to the CPU, under plain names if it is compiled or data-parallel.
        path: the file; its folder is created if missing.
        **facts: JSON values. By convention ``mean`` and ``std`` (the normalisation of its input, one number per
            channel), ``classes`` (their names, in the order of the logits), ``data``, ``recipe``, and ``dropped`` (the
            names of dropped blocks: on reading, the full model is built and these are dropped again; a model from
            :func:`drop_blocks` provides them itself), with ``input``, the form of the model's input
            (``form_of`` in ``resnet_paths.data.form``), and ``base``, the name of the full model.

    Raises:
        TypeError: a fact is not a JSON value.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_checkpoint(cifar_resnet(8), Path(folder) / "net.safetensors", classes=["a", "b"])
        ...     state, facts = read_checkpoint(path)
        >>> facts["classes"], facts["architecture"]["depth"]
        (['a', 'b'], 8)
    """
    target, model = Path(path), inner_model(model)
    facts = {"versions": {"resnet_paths": version("resnet-paths"), "torch": torch.__version__}, **facts}
    if isinstance(model, CifarResNet):
        facts = {"architecture": {"depth": model.depth, **model.arguments}, **facts}
    if dropped_in(model):
        facts = {"dropped": list(dropped_in(model)), **facts}
    try:
        text = json.dumps(facts)
    except TypeError as error:
        raise TypeError(
            f"expected facts that JSON can represent (numbers, strings, lists, dicts), got: {error}"
        ) from error

    state = {plain_name(name): value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with whole_file(target) as partial:
        partial.write_bytes(save(state, {"format": "pt", "facts": text}))
    return target


@checked
def load_checkpoint(path: str | Path, model: nn.Module | None = None, *, key: str | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint; the tensors of both must match one to one.

    Names in the file may have a prefix (like Lightning's ``model.``). Tensors that do not belong to the model, such as
    a criterion's weights, are left out with a warning.

    Args:
        path: see :func:`read_checkpoint`.
        model: the model to load it into; None builds the CIFAR ResNet that the checkpoint describes, or that its keys
            and shapes imply. Without a description, a plain network looks like a residual one with option A, and
            stochastic depth is invisible in the keys: pass ``model`` in these cases.
        key: see :func:`read_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the checkpoint does not fit, or does not identify its model.

    Example:
        >>> from resnet_paths.models.load import EMBEDDED
        >>> load_checkpoint(EMBEDDED).depth
        56
    """
    state, facts = read_checkpoint(path, key)
    if model is None:
        model = _described(facts, Path(path).name) or _inferred(state)
    if model is None:
        raise ValueError(
            f"expected a checkpoint that identifies its model, got {Path(path).name} with keys "
            f"{sorted(state)[:3]}...; pass the model too, as NAME@FILE or in code"
        )
    return load_state(as_dropped(model, state, facts), state, Path(path).name).eval()


def as_dropped(model: nn.Module, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> nn.Module:
    """The model without the blocks that a checkpoint lists as dropped (fact ``dropped``).

    Raises:
        UnrollError: the model has no such blocks.
        ValueError: the form of its input cannot be read.
    """
    names = facts.get("dropped")
    if not isinstance(names, list) or not names or not fit(state, model.state_dict(), "the checkpoint").missing:
        return model
    form = facts.get("input")
    example = placed(example_of(form), model) if isinstance(form, dict) else None
    return drop_blocks(model, [str(name) for name in names], example_input=example)


def _inferred(state: dict[str, torch.Tensor]) -> nn.Module | None:
    """The network of the CIFAR family that a state dict belongs to, whatever its prefix."""
    for prefix in prefixes_of(state, "linear.weight"):
        unprefixed = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if (network := inferred_network(unprefixed)) is not None:
            return network
    return None


def classes_of(state: dict[str, torch.Tensor], model: nn.Module) -> int | None:
    """The number of classes of a checkpoint, if it is the only difference to a model; otherwise None.

    Example:
        >>> state = cifar_resnet(8, num_classes=3).state_dict()
        >>> classes_of(state, cifar_resnet(8)), classes_of(state, cifar_resnet(8, num_classes=3))
        (3, None)
    """
    model_state = model.state_dict()
    match = fit(state, model_state, "the checkpoint")
    if match.missing or match.extra:
        return None
    shapes = [(model_state[name].shape, match.state[name].shape) for name in match.shapes]
    if any(
        not model_shape or not checkpoint_shape or model_shape[1:] != checkpoint_shape[1:]
        for model_shape, checkpoint_shape in shapes
    ):
        return None
    sizes = {(model_shape[0], checkpoint_shape[0]) for model_shape, checkpoint_shape in shapes}
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
            f"{facts['architecture']!r}: {error}; a later release may have written it: update, or pass the model too"
        ) from error
