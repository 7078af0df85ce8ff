"""Which modules are a single operation of the graph, for both front ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_COMPOSITE = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is a layer of ``torch.nn`` (or a norm derived from one), not a container."""
    if isinstance(module, _COMPOSITE):
        return False
    if isinstance(module, torch.jit.ScriptModule):  # its operations cannot be followed
        return True
    if type(module).__module__.startswith(("torch.nn", "torch.ao.nn")):
        return True
    return isinstance(module, nn.modules.batchnorm._NormBase)


def is_single_function(module: nn.Module, args: Any, kwargs: Any, kind: type) -> bool:
    """Whether a module is one function of one tensor: no parameters, no submodules (drop-path, a lambda)."""
    if next(module.children(), None) is not None or next(module.parameters(), None) is not None:
        return False
    return sum(isinstance(value, kind) for value in (*args, *kwargs.values())) == 1
