"""Which intermediate values can safely be overwritten in place.

The analysis is split because one half is known when a node is compiled (who reads the value in the graph) and the other
only when it runs (whether a module has hooks at that moment, which could have kept the value).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as _module

from . import operations
from .hooks import is_hooked
from .program import Program

Watchers = tuple[nn.Module, ...]
"""Modules whose hooks, if they have any when a value is computed, could have kept it."""

NEW_OUTPUT = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)
"""Layers that never return their own input, nor a view of it."""


def watchers(node: Any, program: Program, pinned: frozenset[fx.Node]) -> Watchers | None:
    """The modules whose hooks could keep a node's value if its only reader may otherwise overwrite it; else None.

    Outputs of layers that allocate, and sums, may be overwritten unless pinned.
    """
    passed: list[nn.Module] = []
    while isinstance(node, fx.Node) and node not in pinned and len(node.users) == 1:
        if operations.is_add(node):
            return tuple(passed)
        maker = program.module(str(node.target)) if node.op == "call_module" else None
        if isinstance(maker, NEW_OUTPUT):
            return (*passed, maker)
        if not isinstance(maker, nn.Identity):
            return None
        passed.append(maker)
        node = node.args[0]
    return None


def unwatched(modules: Watchers | None) -> bool:
    """Whether a value may be overwritten now, because no hook could have kept it.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> handle = layer.register_forward_hook(print)
        >>> unwatched(None), unwatched((layer,)), unwatched(())
        (False, False, True)
    """
    if modules is None or _module._global_forward_hooks or _module._global_forward_pre_hooks:
        return False
    return not any(map(is_hooked, modules))


def is_plain_relu(node: fx.Node, program: Program) -> bool:
    """Whether a node is an out-of-place ``relu(x)``."""
    if len(node.args) != 1 or any(node.kwargs.values()):
        return False
    if node.op == "call_module":
        module = program.module(str(node.target))
        return type(module) is nn.ReLU and not module.inplace
    if node.op == "call_method":
        return node.target == "relu"
    return node.op == "call_function" and node.target in (nn.functional.relu, torch.relu)
