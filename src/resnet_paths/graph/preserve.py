"""Look at a model without leaving a mark: everything a forward pass can change is put back.

Why a forward pass needs that at all: norms count batches, layers reparametrised by a hook store the weight of each
run, models keep caches in attributes, and dropout moves the global random generators.

Putting back means a snapshot before and a restore after, and two of those on one model do not mix: if a second thread
takes its snapshot while a first has changed something for a while, the second one's restore brings the first one's
change back for good. So there is one rule for the whole library:

1. Whatever changes a model *on purpose* for a while (exchanged parameters, train flags, hooks) works on a private copy
   of its modules (`private_copy.py`); the model itself never is in a state that another thread should not see.
   The recorder of a training loop alone sets flags of the model itself, under the lock: it has to follow the model
   wherever that is moved, and is called by the thread that trains it.
2. Whatever only *runs* the model and must undo what the run itself leaves behind does so within `preserved`, which
   holds `MODEL_LOCK` from the snapshot to the restore: snapshots of two threads never interleave.
3. The restore writes only what differs. A model in eval mode whose forward keeps nothing is not written to at all, so
   a thread that evaluates it outside the lock never meets a module that has lost its attributes for a moment.

What no rule here can give: a thread that *trains* a model while another looks at it. Its new running statistics cannot
be told from those that the look has left behind, and are put back with them.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

from .locking import GENERATOR_LOCK, MODEL_LOCK
from .own_thread import replaced_here

_DICTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    attributes = dict(module.__dict__)
    tables = {name: dict(attributes[name]) for name in _DICTS if isinstance(attributes.get(name), dict)}  # not scripted
    return attributes, tables


def _restore(module: nn.Module, attributes: dict[str, Any], tables: dict[str, dict[str, Any]]) -> None:
    _put_back(module.__dict__, attributes)
    for name, table in tables.items():
        _put_back(module.__dict__[name], table)


def _put_back(current: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Make a dictionary what it was, by its values' identity and their order, and write only what differs."""
    for name in [name for name in current if name not in before]:
        del current[name]
    for name, value in before.items():
        if name not in current or current[name] is not value:
            current[name] = value
    if list(current) != list(before):
        current.clear()
        current.update(before)


Container = dict[Any, Any] | list[Any] | set[Any]


def _containers(values: Iterable[Any], found: dict[int, tuple[Container, Container]]) -> None:
    """Copies of the plain containers among the values, and of those inside them: a forward may keep things there."""
    for value in values:
        if type(value) in (dict, list, set) and id(value) not in found:
            found[id(value)] = value, value.copy()
            _containers(value.values() if isinstance(value, dict) else value, found)


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        _put_back(container, content)
        return
    if list(map(id, container)) == list(map(id, content)):
        return
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


def _without_checkpointing(original: Any) -> Any:
    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        for name in ("use_reentrant", "context_fn", "determinism_check", "debug", "preserve_rng_state"):
            kwargs.pop(name, None)
        return function(*args, **kwargs)

    return call


@contextmanager
def checkpointing_bypassed(model: nn.Module) -> Iterator[None]:
    """Within the block activation checkpointing in this thread calls its function directly, to the same values."""
    original = torch.utils.checkpoint.checkpoint
    places = {sys.modules.get(type(module).__module__) for module in model.modules()}
    with ExitStack() as stack:
        stack.enter_context(replaced_here(torch.utils.checkpoint, "checkpoint", _without_checkpointing))
        for place in places - {None}:
            for name, value in list(vars(place).items()):
                if value is original:
                    stack.enter_context(replaced_here(place, name, _without_checkpointing))
        yield


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Within the block the model may be run or traced; after it everything is as it was before.

    Kept: attributes of every module (so also its hooks and train flag, and what its plain lists, dicts and sets
    hold), values of buffers, and the state of the random number generators (Python's, NumPy's and torch's); also
    after an exception. Other threads that want to look at a model wait until the block ends; see the head of this file.

    Example:
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> with preserved(layer):
        ...     _ = layer(torch.randn(8, 2))
        >>> int(layer.num_batches_tracked)
        0

    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with MODEL_LOCK, generators_kept(devices), _attributes_kept(model), _buffers_kept(model):
        yield


@contextmanager
def generators_kept(devices: Sequence[int]) -> Iterator[None]:
    """After the block the global generators of Python, NumPy and torch (also of these CUDA devices) go on as before it.

    Where several threads are in such a block at once, the generators go on, when the last one leaves, as they did
    before the first one came: a state that one thread saved while another drew would be nobody's.

    Example:
        >>> before = random.getstate()
        >>> with generators_kept([]):
        ...     _ = random.random(), torch.rand(1)
        >>> random.getstate() == before
        True
    """
    if getattr(_this_thread, "keeps", False):
        before = _states(devices)
        try:
            yield
        finally:
            _set_states(before)
        return
    _come(devices)
    _this_thread.keeps = True
    try:
        yield
    finally:
        _this_thread.keeps = False
        _leave()


_this_thread = threading.local()
_kept: dict[str | int, Any] = {}
_inside = 0


def _come(devices: Sequence[int]) -> None:
    global _inside
    with GENERATOR_LOCK:
        _kept.update({name: state for name, state in _states(devices).items() if name not in _kept})
        _inside += 1


def _leave() -> None:
    global _inside
    with GENERATOR_LOCK:
        _inside -= 1
        if not _inside:
            _set_states(_kept)
            _kept.clear()


def _alone() -> None:
    """In a forked process only the thread that forked goes on: the others never leave."""
    global _inside
    _inside = int(getattr(_this_thread, "keeps", False))
    if not _inside:
        _kept.clear()


os.register_at_fork(after_in_child=_alone)


def _states(devices: Sequence[int]) -> dict[str | int, Any]:
    """The states of the generators, those of CUDA devices by index."""
    shared: dict[str | int, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    return shared | {device: torch.cuda.get_rng_state(device) for device in devices}


def _set_states(states: dict[str | int, Any]) -> None:
    for name, state in states.items():
        if isinstance(name, int):
            torch.cuda.set_rng_state(state, name)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
