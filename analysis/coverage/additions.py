"""Where a model adds two of its values, observed by running it: a count of its blocks that uses no graph.

The expected number of blocks must not come from the code under test. So the model is run once, and every addition of
two tensors of equal shape that both depend on the input is recorded with the module whose forward made it. `rules.py`
says class by class, from reading the code, which of these are blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_T = torch.Tensor
SUMS = {
    torch.add, torch.sub, torch.addcmul, torch.lerp, _T.add, _T.add_, _T.__add__, _T.__radd__, _T.__iadd__, _T.sub,
    _T.sub_, _T.__sub__, _T.__isub__, _T.addcmul, _T.addcmul_, _T.lerp,
}  # fmt: skip
_NUMBERS = {"size", "dim", "numel", "stride", "item", "tolist", "zeros_like", "ones_like", "empty_like", "full_like"}


@dataclass(frozen=True)
class Site:
    """A module whose own forward adds.

    Attributes:
        path: its qualified name in the model.
        module: the module.
        calls: how often it ran.
        additions: the number of its own additions over all its calls.
    """

    path: str
    module: nn.Module
    calls: int
    additions: int

    @property
    def package(self) -> str:
        """The package that defines the module's class."""
        return type(self.module).__module__.partition(".")[0]

    @property
    def kind(self) -> str:
        """File and class, as `rules.py` names them."""
        return f"{type(self.module).__module__.rpartition('.')[2]}.{type(self.module).__qualname__}"


class _Watch(TorchFunctionMode):
    """Track what depends on the input, and count sums by the running module."""

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.dependent = {id(leaf): leaf for leaf in tree_leaves(inputs) if isinstance(leaf, _T)}
        self.running = [""]
        self.additions: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def enter(self, path: str) -> None:
        self.running.append(path)
        self.calls[path] += 1

    def leave(self) -> None:
        self.running.pop()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _T)]
        dependent = [leaf for leaf in leaves if id(leaf) in self.dependent]
        if function in SUMS and len(dependent) >= 2:
            first, second = dependent[:2]
            whole = first.shape == second.shape and first.ndim >= 2 and first.is_floating_point()
            self.additions[self.running[-1]] += whole
        result = function(*args, **kwargs)
        if dependent and getattr(function, "__name__", "") not in _NUMBERS:
            self.dependent.update({id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, _T)})
        return result


def sites(model: nn.Module, inputs: Any) -> list[Site]:
    """The modules of a model that add, in the order of `named_modules`. Cost: one forward pass."""
    watch = _Watch(inputs)
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: watch.enter(path), prepend=True))
        handles.append(module.register_forward_hook(lambda *_: watch.leave(), always_call=True))
    try:
        with torch.no_grad(), watch:
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(model.named_modules())
    modules_that_add = sorted(+watch.additions, key=list(modules).index)
    return [Site(path, modules[path], max(watch.calls[path], 1), watch.additions[path]) for path in modules_that_add]


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a tensor, a tuple of positional or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
