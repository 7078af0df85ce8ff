"""Checkpoints that cannot run code: safetensors with a description of what made them."""

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
from ..files import whole_file
from ..graph.wrappers import inner_model
from ..surgery import drop_blocks, dropped_in
from ._infer import inferred_network
from .cifar import CifarResNet, cifar_resnet


@checked
def save_checkpoint(model: nn.Module, path: str | Path, **facts: Any) -> Path:
    """Write a model's state as safetensors, with facts about it as metadata.

    The file appears whole or not at all. A :class:`CifarResNet` is described (fact ``architecture``) so that
    :func:`load_checkpoint` builds it again; the versions that wrote the file are noted (fact ``versions``).

    Args:
        model: the model; its state is copied to the CPU first, under plain names where it is compiled or data-parallel.
        path: the file; its folder is made where it is missing.
        **facts: JSON values. By custom ``mean`` and ``std`` (the normalisation of its input, one number a
            channel), ``classes`` (their names, in the order of the logits), ``data``, ``recipe``, and ``dropped`` (the
            names of blocks that were dropped: the model is then built whole, and dropped again, when it is read; a
            model of :func:`drop_blocks` says them itself), with ``input_shape`` of one image and ``base``, the name
            that makes the whole one.

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
    target, model = Path(path), inner_model(model)
    facts = {"versions": {"resnet_paths": version("resnet-paths"), "torch": torch.__version__}, **facts}
    if isinstance(model, CifarResNet):
        facts = {"architecture": {"depth": model.depth, **model.arguments}, **facts}
    if dropped_in(model):
        facts = {"dropped": list(dropped_in(model)), **facts}
    try:
        text = json.dumps(facts)
    except TypeError as error:
        raise TypeError(f"expected facts that JSON can hold (numbers, strings, lists, dicts), got: {error}") from error

    state = {plain_name(name): value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with whole_file(target) as partial:
        partial.write_bytes(save(state, {"format": "pt", "facts": text}))
    return target


@checked
def load_checkpoint(path: str | Path, model: nn.Module | None = None, *, key: str | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint; every tensor of either must have its counterpart.

    Names in the file may begin with something (as the ``model.`` of Lightning). Tensors of anything but the model, such
    as a criterion's weights, are left out, and a warning names them.

    Args:
        path: see :func:`read_checkpoint`.
        model: the model to load it into; None builds the CIFAR ResNet that the checkpoint describes, or whose
            keys and shapes it has. Without a description a plain network has the keys of a residual one with
            option A, and is taken for that, and stochastic depth leaves no trace in keys: give ``model``.
        key: see :func:`read_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the checkpoint does not fit, or does not tell which model it is of.

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
            f"expected a checkpoint that says which model it is of, got {Path(path).name} with keys "
            f"{sorted(state)[:3]}...; give the model too, as NAME@FILE or in code"
        )
    return load_state(as_dropped(model, state, facts), state, Path(path).name).eval()


def as_dropped(model: nn.Module, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> nn.Module:
    """The model without the blocks that a checkpoint says (fact ``dropped``, their names) it was saved without.

    Raises:
        UnrollError: the model has no such blocks.
    """
    names = facts.get("dropped")
    if not isinstance(names, list) or not names or not fit(state, model.state_dict(), "the checkpoint").missing:
        return model
    shape = facts.get("input_shape")
    example = (
        torch.zeros(2, *shape, device="cpu")
        if isinstance(shape, list) and all(isinstance(n, int) for n in shape)
        else None
    )
    return drop_blocks(model, [str(name) for name in names], example_input=example)


def _inferred(state: dict[str, torch.Tensor]) -> nn.Module | None:
    """The network of the family of which a state dict is, behind whatever prefix."""
    for prefix in prefixes_of(state, "linear.weight"):
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if (network := inferred_network(own)) is not None:
            return network
    return None


def classes_of(state: dict[str, torch.Tensor], model: nn.Module) -> int | None:
    """The number of classes of a checkpoint, where that is all in which it differs from a model; otherwise None.

    Example:
        >>> state = cifar_resnet(8, num_classes=3).state_dict()
        >>> classes_of(state, cifar_resnet(8)), classes_of(state, cifar_resnet(8, num_classes=3))
        (3, None)
    """
    own = model.state_dict()
    found = fit(state, own, "the checkpoint")
    if found.missing or found.extra:
        return None
    other = [(own[name].shape, found.state[name].shape) for name in found.shapes]
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
