"""Front end 2: the graph of a model from one run on an example, for models that cannot be traced symbolically.

Every torch function that runs outside a leaf module is written down with the nodes of its tensors. The model
runs at two batch sizes; whole numbers that differ between the runs are solved for the batch size.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from .batch_size import with_batch_size
from .errors import TraceError
from .hooks import PostHooks, PreHooks
from .leaves import is_leaf, is_single_function
from .operations import same_answer
from .preserve import checkpointing_bypassed, preserved
from .program import ModuleCall, Program, first_node
from .training_flag import with_flag

_OPERATORS = {
    "__add__": operator.add, "__radd__": operator.add, "__iadd__": operator.add, "add": operator.add,
    "add_": operator.add, "__sub__": operator.sub, "__isub__": operator.sub, "__mul__": operator.mul,
    "__rmul__": operator.mul, "__imul__": operator.mul, "mul_": operator.mul, "__truediv__": operator.truediv,
    "__itruediv__": operator.truediv, "div_": operator.truediv, "sub_": operator.sub,
    "__matmul__": operator.matmul, "__getitem__": operator.getitem, "__neg__": operator.neg,
}  # fmt: skip
_PLAIN = {"relu_": torch.relu, "sigmoid_": torch.sigmoid, "tanh_": torch.tanh, "clamp_": torch.clamp}


class _WritesThroughAView(Exception):
    """A tensor was changed that shares its memory with another name; the argument is the module's path."""


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, opaque: dict[str, str]) -> None:
        super().__init__()
        self.model, self.opaque = model, opaque
        self.graph = fx.Graph()
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.names |= {id(tensor): name for name, tensor in model.named_buffers()}
        self.constants: dict[str, torch.Tensor] = {}
        self.known: dict[int, fx.Node] = {}
        self.alive: list[torch.Tensor] = []
        self.quiet = False
        self.root = ModuleCall("", model, None)
        self.current = self.root

    # nodes

    def add(self, kind: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs or {})
        node.meta["call"] = self.current
        self.current.nodes.append(node)
        return node

    def tree(self, value: Any) -> Any:
        """A nest of tensors as the same nest of nodes."""
        if isinstance(value, torch.Tensor):
            return self.node(value)
        if isinstance(value, (tuple, list)):
            items = [self.tree(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.tree(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(self.tree(value.start), self.tree(value.stop), self.tree(value.step))
        return value

    def node(self, tensor: torch.Tensor) -> fx.Node:
        known = self.known.get(id(tensor))
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        if name is None:
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = tensor
        node = self.add("get_attr", name)
        if id(tensor) not in self.names:
            self.learn(tensor, node)
        return node

    def learn(self, value: Any, node: fx.Node) -> None:
        """From now on the tensors in a result are known as the node, or items of it."""
        if isinstance(value, torch.Tensor):
            self.known[id(value)] = node
            self.alive.append(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                if _has_tensor(item):
                    self.learn(item, self.add("call_function", operator.getitem, (node, key)))
        elif isinstance(value, (tuple, list)):
            for place, item in enumerate(value):
                if _has_tensor(item):
                    self.learn(item, self.add("call_function", operator.getitem, (node, place)))

    # functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        inputs = [value for value in _flat((args, kwargs)) if isinstance(value, torch.Tensor)]
        versions = [value._version for value in inputs]
        nodes = self.tree(args), self.tree(kwargs)
        result = func(*args, **kwargs)
        changed = [value for value, old in zip(inputs, versions, strict=True) if value._version != old]
        if changed:
            self.change(func, args, nodes, changed)
        elif type(result) is bool and getattr(func, "__name__", "") == "__bool__":
            self.add("call_function", same_answer, (nodes[0][0], result, self.current.path))
        elif _has_tensor(result) and not any(result is value for value in inputs):
            self.learn(result, self.call(func, *nodes))
        return result

    def call(self, func: Any, args: Any, kwargs: Any) -> fx.Node:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self.add("call_function", getattr, (args[0], func.__self__.__name__))
        method = getattr(torch.Tensor, name, None) is func or name.startswith("__")
        plain = not kwargs and len(args) == (1 if name == "__neg__" else 2)
        target = _OPERATORS[name] if name in _OPERATORS and method and plain else func
        training = self.current.module.training
        if with_flag(func, args, kwargs, training, None) is not None:
            path = f"{self.current.path}.training" if self.current.path else "training"
            args, kwargs = with_flag(func, args, kwargs, training, self.add("get_attr", path))
        return self.add("call_function", target, args, kwargs)

    def change(self, func: Any, values: Any, nodes: Any, changed: list[torch.Tensor]) -> None:
        """A function that changes a tensor becomes one that makes a new value; readers see that one."""
        target, (args, kwargs) = changed[0], nodes
        if id(target) in self.names:
            self.add("call_function", func, args, kwargs)
            return
        shared = [other for other in self.alive if other is not target and _same_memory(other, target)]
        first = bool(values) and values[0] is target
        if len(changed) > 1 or shared or target._base is not None or not first:
            raise _WritesThroughAView(self.current.path)
        name = getattr(func, "__name__", "")
        if kwargs.get("inplace") is True:
            node = self.call(func, args, {**kwargs, "inplace": False})
        elif name in _OPERATORS and not kwargs and len(args) == 2:
            node = self.add("call_function", _OPERATORS[name], args)
        elif name in _PLAIN:
            node = self.add("call_function", _PLAIN[name], args, kwargs)
        elif name == "__setitem__":
            node = self.add("call_function", _with_item, args, kwargs)
        else:
            copy = self.add("call_function", torch.clone, (args[0],))
            node = self.add("call_function", func, (copy, *args[1:]), kwargs)
        self.learn(target, node)

    # modules

    def run(self, module: nn.Module, original: Any, args: Any, kwargs: Any) -> Any:
        module = getattr(module, "_orig_mod", module)
        path = self.paths[id(module)]
        call = self.root if not path else ModuleCall(path, module, self.current)
        call.args, call.kwargs = self.tree(args), self.tree(kwargs)
        single = is_single_function(module, args, kwargs, torch.Tensor)
        call.leaf = bool(path) and (path in self.opaque or is_leaf(module) or single)
        if path:
            self.current.children.append(call)
        outer, self.current = self.current, call
        try:
            result = self.leaf(module, original, args, kwargs) if call.leaf else self.inside(module, args, kwargs)
            call.returns(result, self.tree(result))
        finally:
            self.current = outer
        return result

    def leaf(self, module: nn.Module, original: Any, args: Any, kwargs: Any) -> Any:
        inputs = [value for value in _flat((args, kwargs)) if isinstance(value, torch.Tensor)]
        versions = [value._version for value in inputs]
        call = self.current
        node = self.add("call_module", call.path, call.args, call.kwargs)
        with self.silence():
            result = original(module, *args, **kwargs)
        changed = [value for value, old in zip(inputs, versions, strict=True) if value._version != old]
        if any(result is value for value in inputs) and not changed:
            result = result.clone()
        if changed and not (len(changed) == 1 and result is changed[0] and getattr(module, "inplace", False)):
            raise TraceError(f"{call.path} changes its input in place, which cannot be followed")
        self.learn(result, node)
        return result

    def inside(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if module._forward_pre_hooks:
            hooks = PreHooks(module)
            node = self.add("call_function", hooks, self.current.args, self.current.kwargs)
            with self.silence():
                args = hooks(*args, **kwargs)
            self.learn(args, node)
        result = module.forward(*args, **kwargs)
        if module._forward_hooks:
            hooked = PostHooks(module)
            node = self.add("call_function", hooked, self.tree((result, tuple(args), dict(kwargs))))
            with self.silence():
                result = hooked(result, tuple(args), kwargs)
            self.learn(result, node)
        return result

    @contextmanager
    def silence(self) -> Iterator[None]:
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False


def _with_item(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """The tensor with an item replaced."""
    copy = tensor.clone()
    copy[index] = value
    return copy


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _flat(item)
    elif isinstance(tree, dict):
        yield from _flat(list(tree.values()))
    else:
        yield tree


def _has_tensor(tree: Any) -> bool:
    return any(isinstance(value, torch.Tensor) for value in _flat(tree))


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@contextmanager
def _calls_go_through(recorder: _Recorder) -> Iterator[None]:
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(module, "_orig_mod", module)
        if recorder.quiet or id(inner) not in recorder.paths:
            return original(module, *args, **kwargs)
        return recorder.run(inner, original, args, kwargs)

    with patch.object(nn.Module, "__call__", call):
        yield


def _arguments(model: nn.Module, example: Any) -> dict[str, Any]:
    """The example by the names of forward's parameters."""
    args = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    kwargs = example if isinstance(example, dict) else {}
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TraceError(f"expected an example input that {type(model).__name__}.forward takes, got: {error}") from None
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            raise TraceError("expected a forward with named parameters, got one with *args; pass a dict as example")
        else:
            named[name] = value
    return named


def _attempt(model: nn.Module, arguments: dict[str, Any], opaque: dict[str, str]) -> Program:
    recorder = _Recorder(model, opaque)
    placeholders: dict[str, fx.Node] = {}
    given = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            given[name] = value.clone()
            placeholders[name] = recorder.add("placeholder", name)
            recorder.learn(given[name], placeholders[name])
    with _calls_go_through(recorder), recorder:
        model(**given)
    output = first_node(recorder.root.output)
    if output is None:
        raise TraceError("expected a model that returns a tensor, or a tuple or dict with one, got none in its output")
    recorder.graph.output(output)
    return Program(
        model, recorder.graph, recorder.root, placeholders, output, recorder.constants, dict(opaque), "record"
    )


def _one_run(model: nn.Module, arguments: dict[str, Any], opaque: dict[str, str]) -> Program:
    """The graph of one run. A module that writes through a view is added to `opaque`, with all of its class."""
    while True:
        with preserved(model), checkpointing_bypassed(model), torch.no_grad():
            try:
                return _attempt(model, arguments, opaque)
            except _WritesThroughAView as written:
                path = str(written)
                if not path or path in opaque:
                    raise TraceError("the model writes into a view of a tensor, which cannot be followed") from None
                kind = type(model.get_submodule(path))
                alike = [name for name, module in model.named_modules() if name and type(module) is kind]
                opaque.update(dict.fromkeys(alike, "its class writes into a view of a tensor"))
            except TraceError:
                raise
            except Exception as error:
                raise TraceError(f"the model does not run on the example: {type(error).__name__}: {error}") from error


def record(model: nn.Module, example: Any) -> Program:
    """The graph of a model from runs on an example, at two batch sizes.

    Args:
        model: any module; it is left as it was.
        example: tensor, tuple of positional or dict of keyword arguments, batch first.

    Raises:
        TraceError: the model does not run on the example, or its operations depend on the batch size in a way
            that is not ``a * batch + b``.
    """
    arguments = _arguments(model, example)
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor) and value.ndim]
    if not tensors:
        raise TraceError(f"expected tensors in the example input, got {type(example).__name__}")
    batch = tensors[0].shape[0]
    rows = torch.arange(batch + 1) % batch
    larger = {
        name: value.index_select(0, rows.to(value.device))
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == batch
        else value
        for name, value in arguments.items()
    }
    opaque: dict[str, str] = {}  # the same for both: what a model remembers after the first run, the second may skip
    one = _one_run(model, arguments, opaque)
    closed = len(opaque)
    other = _one_run(model, larger, opaque)
    return with_batch_size(one if len(opaque) == closed else _one_run(model, arguments, opaque), other, batch)
