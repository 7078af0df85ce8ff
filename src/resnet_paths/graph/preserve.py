"""Run a model without leaving a trace: everything that a forward pass can change is restored.

A forward pass changes more than one might expect: norms count batches, modules reparametrised by a hook store the
weight of each run, models keep caches in attributes, and dropout advances the global random generators.

Restoring means a snapshot before and a restore after, and two of those on one model do not mix: if a second thread
takes its snapshot while a first has temporarily changed something, the second restore makes the first thread's change
permanent. So there is one rule for the entire library:

1. Whatever changes a model *on purpose* for a while (exchanged parameters, train flags, hooks) works on a private copy
   of its modules (`private_copy.py`); the model itself is never in a state that another thread should not see. The only
   exception is the recorder of a training loop, which sets flags of the model itself, under the lock: it has to follow
   the model wherever that is moved, and is called by the thread that trains it.
2. Whatever only *runs* the model and must undo the side effects of the run does so within `preserved`, which holds
   `MODEL_LOCK` from the snapshot to the restore: snapshots of two threads never interleave.
3. The restore writes only what differs. A model in eval mode whose forward stores nothing is not written to at all, so
   a thread that evaluates it outside the lock never meets a module that briefly lacks its attributes.

What no rule here can handle is a thread that *trains* a model while another one runs it within `preserved`. Its new
running statistics cannot be distinguished from the side effects of that run, and are reset with them.
"""

from __future__ import annotations

import operator
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
    """Restore a dictionary, by the identity and order of its values, writing only what differs."""
    same = len(current) == len(before) and all(map(operator.is_, current.values(), before.values()))
    if same and list(current) == list(before):
        return  # nearly always, and a model of 50 modules has 350 such dictionaries
    for name in [name for name in current if name not in before]:
        del current[name]
    for name, value in before.items():
        if name not in current or current[name] is not value:
            current[name] = value
    # Order matters too: hooks run, and state dicts are written, in the order of these dictionaries.
    if list(current) != list(before):
        current.clear()
        current.update(before)


Container = dict[Any, Any] | list[Any] | set[Any]


def _containers(values: Iterable[Any], saved: dict[int, tuple[Container, Container]]) -> None:
    """Copy the plain containers among the values, and those inside them: a forward may store things there."""
    for value in values:
        if type(value) in (dict, list, set) and id(value) not in saved:
            saved[id(value)] = value, value.copy()
            _containers(value.values() if isinstance(value, dict) else value, saved)


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
    """Within the block, activation checkpointing in this thread calls its function directly, with equal values."""
    original = torch.utils.checkpoint.checkpoint
    namespaces = {sys.modules.get(type(module).__module__) for module in model.modules()}
    with ExitStack() as stack:
        stack.enter_context(replaced_here(torch.utils.checkpoint, "checkpoint", _without_checkpointing))
        for namespace in namespaces - {None}:
            for name, value in list(vars(namespace).items()):
                if value is original:
                    stack.enter_context(replaced_here(namespace, name, _without_checkpointing))
        yield


@contextmanager
def compiled_functions_bypassed() -> Iterator[None]:
    """Within the block, functions made by ``torch.compile`` run as they were written, with equal values.

    PyTorch has one switch for all threads, so those of other threads do so too meanwhile.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Within the block, the model may be run or traced; afterwards, or after an exception, it is as it was before.

    Restored are the attributes of every module (so also its hooks and train flag, and the contents of its plain lists,
    dicts and sets), the values of buffers, and the state of the random number generators (Python's, NumPy's and
    torch's). Other threads that enter such a block wait until this one ends; see the top of this file.

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
    """After the block, the global generators of Python, NumPy, torch and these CUDA devices continue as before it.

    If several threads are in such a block at once, the state from before the first one entered is restored when the
    last one leaves: a state that one thread saved while another was drawing would belong to neither.

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
    _enter(devices)
    _this_thread.keeps = True
    try:
        yield
    finally:
        _this_thread.keeps = False
        _leave()


_this_thread = threading.local()
_kept: dict[str | int, Any] = {}
_inside = 0


def _enter(devices: Sequence[int]) -> None:
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


def _forget_other_threads() -> None:
    """In a forked process only the forking thread continues: the others will never leave."""
    global _inside
    _inside = int(getattr(_this_thread, "keeps", False))
    if not _inside:
        _kept.clear()


os.register_at_fork(after_in_child=_forget_other_threads)


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
