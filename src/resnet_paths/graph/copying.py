"""A copy of a model that shares nothing with it, also where `copy.deepcopy` fails or silently goes wrong.

Two kinds of ordinary models are too much for `copy.deepcopy`:

- Tensors computed by autograd that a module keeps as an attribute: the weight that old-style ``weight_norm``,
  ``spectral_norm`` and ``prune`` compute before each forward, or features that a forward or a hook stored. PyTorch
  refuses to copy them. They are results, so the copy gets their values, detached. A ``TorchFunctionMode`` sees each
  tensor that is copied, in this thread only; searching for such tensors beforehand would miss those inside other
  objects.
- Functions among a module's attributes (a forward patched by a closure, a shortcut written as a lambda).
  `copy.deepcopy` does not copy functions, so the copy would still run the original's modules. A function that refers to
  one of the model's modules, through its closure or its defaults, is rebuilt for the copy.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import UnrollError
from .locking import MODEL_LOCK

Memo = dict[int, Any]


def copied(model: nn.Module, memo: Memo | None = None) -> nn.Module:
    """A copy of a model that shares no module, parameter or buffer with it.

    Args:
        model: the model; it is not changed.
        memo: as in `copy.deepcopy`: the replacement for each object, by identity; the copies are added.

    Raises:
        UnrollError: the model contains something that cannot be copied (a lock, an open file).

    Example:
        >>> layer = torch.nn.utils.spectral_norm(nn.Linear(2, 2))
        >>> _ = layer(torch.ones(1, 2))
        >>> torch.equal(copied(layer).weight, layer.weight)
        True
    """
    memo = {} if memo is None else memo
    functions = _functions_of(model, memo)
    memo.update((id(function), _hollow(function)) for function in functions)
    memo.update((id(table), OrderedDict()) for table in _empty_tables(model) if id(table) not in memo)
    try:
        # In inference mode the copy could never be trained; under autograd, copies of scripted parameters would not be
        # leaves.
        with MODEL_LOCK, torch.inference_mode(False), torch.no_grad(), _DetachedCopies():
            result: nn.Module = copy.deepcopy(model, memo)
            for function in functions:
                _fill(memo[id(function)], function, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UnrollError(
            f"expected a model that can be copied, got {type(model).__name__}, whose copy fails ({error}); use "
            "inplace=True or lesioned, which copy nothing, or remove what cannot be copied from the model"
        ) from error
    return result


class _DetachedCopies(TorchFunctionMode):
    """While active, the copy of a tensor computed by autograd is its detached value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _empty_tables(model: nn.Module) -> Iterator[OrderedDict[Any, Any]]:
    """The empty tables of hooks: ten per module, on which `copy.deepcopy` spends a fifth to a third of its time."""
    for module in model.modules():
        for value in vars(module).values():
            if type(value) is OrderedDict and not value:
                yield value


# functions that refer to a module of the model


def _functions_of(model: nn.Module, memo: Memo) -> list[FunctionType]:
    """The functions among the attributes of a model's modules that refer to one of these modules, each once."""
    modules = list(model.modules())
    module_ids = {id(module) for module in modules}
    functions: dict[int, FunctionType] = {}
    for module in modules:
        for value in module.__dict__.values():
            if isinstance(value, FunctionType) and id(value) not in memo:
                _gather(value, module_ids, functions, set())
    return list(functions.values())


def _gather(function: FunctionType, module_ids: set[int], functions: dict[int, FunctionType], seen: set[int]) -> bool:
    """Whether a function leads to one of the modules; if so it, and those that it refers to, are recorded."""
    if id(function) in seen:
        return id(function) in functions
    seen.add(id(function))
    leads = False
    for value in _held(function):
        target = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(target, nn.Module) and id(target) in module_ids:
            leads = True
        elif isinstance(target, FunctionType):
            leads = _gather(target, module_ids, functions, seen) or leads
    if leads:
        functions[id(function)] = function
    return leads


def _held(function: FunctionType) -> Iterator[Any]:
    """What a function refers to, apart from globals: its closure, its defaults, its attributes."""
    for cell in function.__closure__ or ():
        if not _is_empty(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__dict__.values()


def _is_empty(cell: CellType) -> bool:
    try:
        return cell.cell_contents is cell  # always False: reading an empty cell raises
    except ValueError:
        return True


def _hollow(function: FunctionType) -> FunctionType:
    """The same function with an empty closure, to be filled once the modules are copied."""
    closure = tuple(CellType() for _ in function.__closure__ or ()) or None
    hollow = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
    hollow.__qualname__, hollow.__doc__, hollow.__module__ = (
        function.__qualname__,
        function.__doc__,
        function.__module__,
    )
    return hollow


def _fill(hollow: FunctionType, function: FunctionType, memo: Memo) -> None:
    """Give a hollow function the copies of the modules, methods and functions that the original holds."""

    def counterpart(value: Any) -> Any:
        if isinstance(value, MethodType):
            return MethodType(value.__func__, counterpart(value.__self__))
        return memo.get(id(value), value) if isinstance(value, (nn.Module, Callable)) else value  # type: ignore[arg-type]

    for cell, original in zip(hollow.__closure__ or (), function.__closure__ or (), strict=True):
        if not _is_empty(original):
            cell.cell_contents = counterpart(original.cell_contents)
    hollow.__defaults__ = function.__defaults__ and tuple(map(counterpart, function.__defaults__))
    hollow.__kwdefaults__ = {key: counterpart(value) for key, value in (function.__kwdefaults__ or {}).items()}
    hollow.__dict__.update((key, counterpart(value)) for key, value in function.__dict__.items())
