"""Look at a model without leaving a mark: everything a forward pass can change is put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    attributes = dict(module.__dict__)
    tables = {name: dict(attributes[name]) for name in _DICTS if isinstance(attributes.get(name), dict)}  # not scripted
    return attributes, tables


def _restore(module: nn.Module, attributes: dict[str, Any], tables: dict[str, dict[str, Any]]) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)
    for name, table in tables.items():
        current = module.__dict__[name]
        if list(map(id, current.values())) != list(map(id, table.values())) or list(current) != list(table):
            current.clear()
            current.update(table)


Container = dict[Any, Any] | list[Any] | set[Any]


def _containers(values: Iterable[Any], found: dict[int, tuple[Container, Container]]) -> None:
    """Copies of the plain containers among the values, and of those inside them: a forward may keep things there."""
    for value in values:
        if type(value) in (dict, list, set) and id(value) not in found:
            found[id(value)] = value, value.copy()
            _containers(value.values() if isinstance(value, dict) else value, found)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    saved = [(module, *_snapshot(module)) for module in model.modules()]
    containers: dict[int, tuple[Container, Container]] = {}
    for _, attributes, tables in saved:
        _containers((value for name, value in attributes.items() if name not in tables), containers)
    try:
        yield
    finally:
        for module, attributes, tables in saved:
            _restore(module, attributes, tables)
        for container, content in containers.values():
            _refill(container, content)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                if buffer.is_inference():
                    continue
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _without_checkpointing(function: Any, *args: Any, **kwargs: Any) -> Any:
    for name in ("use_reentrant", "context_fn", "determinism_check", "debug", "preserve_rng_state"):
        kwargs.pop(name, None)
    return function(*args, **kwargs)


@contextmanager
def checkpointing_bypassed(model: nn.Module) -> Iterator[None]:
    """Within the block activation checkpointing calls its function directly (the values are the same)."""
    original = torch.utils.checkpoint.checkpoint
    places = {sys.modules.get(type(module).__module__) for module in model.modules()}
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.utils.checkpoint, "checkpoint", _without_checkpointing))
        for place in places - {None}:
            for name, value in list(vars(place).items()):
                if value is original:
                    stack.enter_context(patch.object(place, name, _without_checkpointing))
        yield


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Within the block the model may be run or traced; after it everything is as it was before.

    Kept: attributes of every module (so also its hooks and train flag, and what its plain lists, dicts and sets
    hold), values of buffers, and the state of the random number generators (Python's, NumPy's and torch's); also
    after an exception.

    Example:
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> with preserved(layer):
        ...     _ = layer(torch.randn(8, 2))
        >>> int(layer.num_batches_tracked)
        0

    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with generators_kept(devices), _attributes_kept(model), _buffers_kept(model):
        yield


@contextmanager
def generators_kept(devices: Sequence[int]) -> Iterator[None]:
    """After the block the global generators of Python, NumPy and torch (also of these CUDA devices) go on as before it.

    Example:
        >>> before = random.getstate()
        >>> with generators_kept([]):
        ...     _ = random.random(), torch.rand(1)
        >>> random.getstate() == before
        True
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
