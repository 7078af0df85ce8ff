"""Front end 1: the graph of a model by symbolic tracing (torch.fx), no input needed.

Modules of ``torch.nn`` are leaves. A module whose forward cannot be traced becomes one opaque leaf, and
tracing starts again. In-place operations are rewritten so that every later reader of the old value reads
the new one, as it would in the running model.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from . import operations
from .errors import TraceError
from .hooks import PostHooks, PreHooks
from .leaves import is_leaf, is_single_function
from .preserve import checkpointing_bypassed, preserved
from .program import ModuleCall, Program, first_node, map_nodes
from .training_flag import with_flag

_IN_PLACE_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


class _Proxy(fx.Proxy):
    """A proxy on which ``a += b`` also changes what other names of ``a`` read."""

    tracer: _Tracer

    def _in_place(self, target: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)


class _Tracer(fx.Tracer):
    def __init__(self, opaque: dict[str, str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed: tuple[str, str] | None = None
        self.current: ModuleCall
        self.replaced: dict[fx.Node, fx.Node] = {}

    # nodes

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        args, kwargs = self.now((args, kwargs))
        changed = None
        if kind in ("call_function", "call_method", "call_module"):
            target, kwargs, changed = self._functional(kind, target, args, dict(kwargs))
        if kind == "call_function":
            args, kwargs = self._live_training_flag(args, kwargs, target)
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        node.meta["call"] = self.current
        self.current.nodes.append(node)
        if changed is not None:
            self._replace(changed, node)
        return node

    def now(self, tree: Any) -> Any:
        """Each node replaced by the one that holds its value after in-place changes."""
        return map_nodes(tree, lambda node: self.replaced.get(node, node))

    def _replace(self, old: fx.Node, new: fx.Node) -> None:
        for key, value in self.replaced.items():
            if value is old:
                self.replaced[key] = new
        self.replaced[old] = new

    def _functional(
        self, kind: str, target: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], fx.Node | None]:
        """The operation without its in-place part, and the node whose value it would have changed."""
        changed = args[0] if args and isinstance(args[0], fx.Node) else None
        if kind == "call_module":
            module = self.root.get_submodule(target)
            known = type(module).__module__ in _IN_PLACE_MODULES
            return target, kwargs, changed if known and getattr(module, "inplace", False) else None
        if kind == "call_method":
            plain = operations.plain_method(target)
            return (plain, kwargs, changed) if plain else (target, kwargs, None)
        if target in operations.IN_PLACE_TO_PLAIN:
            return operations.IN_PLACE_TO_PLAIN[target], kwargs, changed
        if kwargs.get("inplace") is True:
            return target, {**kwargs, "inplace": False}, changed
        name = getattr(target, "__name__", "")
        plain = operations.plain_method(name)
        if plain and getattr(torch, name, None) is target and hasattr(torch, plain):
            return getattr(torch, plain), kwargs, changed
        return target, kwargs, None

    def _live_training_flag(self, args: Any, kwargs: Any, target: Any) -> tuple[Any, Any]:
        """``self.training`` was read as a constant: read it anew at each run instead."""
        training = self.current.module.training
        if with_flag(target, args, kwargs, training, None) is None:
            return args, kwargs
        path = f"{self.current.path}.training" if self.current.path else "training"
        attribute = super().create_node("get_attr", path, (), {})
        attribute.meta["call"] = self.current
        self.current.nodes.append(attribute)
        return with_flag(target, args, kwargs, training, attribute)  # type: ignore[no-any-return]

    # modules

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or is_leaf(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        m = getattr(m, "_orig_mod", m)
        path = self.path_of_module(m)
        call = ModuleCall(path, m, self.current, *self.now(_nodes((args, kwargs))))
        call.leaf = self.is_leaf_module(m, path) or is_single_function(m, args, kwargs, fx.Proxy)
        self.current.children.append(call)
        outer, self.current = self.current, call
        try:
            if call.leaf:
                value: Any = self.create_proxy("call_module", path, args, kwargs)
            else:
                value = self._run(m, args, kwargs)
        except Exception as error:
            if self.failed is None:
                self.failed = (path, f"{type(error).__name__}: {error}")
            raise
        finally:
            self.current = outer
        call.returns(value, self.now(_nodes(value)))
        return value

    def _run(self, m: nn.Module, args: Any, kwargs: Any) -> Any:
        if m._forward_pre_hooks:
            hooked = self.create_proxy("call_function", PreHooks(m), args, kwargs)
            args = tuple(operator.getitem(hooked, position) for position in range(len(args)))  # type: ignore[call-overload]
        value = m.forward(*args, **kwargs)
        if not m._forward_hooks:
            return value
        if not isinstance(value, fx.Proxy):
            raise TraceError(f"{self.current.path} has forward hooks and returns more than one tensor")
        return self.create_proxy("call_function", PostHooks(m), (value, tuple(args), dict(kwargs)), {})


def _nodes(tree: Any) -> Any:
    """A nest of proxies as the same nest of nodes."""
    if isinstance(tree, fx.Proxy):
        return tree.node
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_nodes(item) for item in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_nodes(item) for item in tree)
    if isinstance(tree, dict):
        return {key: _nodes(value) for key, value in tree.items()}
    return tree


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of forward that have defaults: they are traced as these constants."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    return {
        parameter.name: parameter.default
        for parameter in parameters[1:]
        if parameter.default is not inspect.Parameter.empty
    }


def _attempt(model: nn.Module, opaque: dict[str, str]) -> tuple[_Tracer, Program | None]:
    tracer = _Tracer(dict(opaque))
    root = ModuleCall("", model, None)
    tracer.current = root
    try:
        graph = tracer.trace(model, concrete_args=_defaults(model))
    except Exception as error:
        if tracer.failed is None:
            tracer.failed = ("", f"{type(error).__name__}: {error}")
        return tracer, None
    _add_root_hooks(model, graph, root)
    placeholders = {
        str(node.target): node
        for node in graph.nodes
        if node.op == "placeholder" and not str(node.target).startswith("*") and node.users
    }
    result = next(node for node in graph.nodes if node.op == "output")
    output = first_node(result.args[0])
    if output is None:
        raise TraceError(
            "expected a model that returns a tensor, or a tuple or dict with one, got none in its output; "
            "return the logits from forward"
        )
    root.args, root.output = tuple(placeholders.values()), result.args[0]
    constants = {
        str(node.target): getattr(tracer.root, str(node.target))
        for node in graph.nodes
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant")
    }
    return tracer, Program(model, graph, root, placeholders, output, constants, dict(opaque), "trace")


def _add_root_hooks(model: nn.Module, graph: fx.Graph, root: ModuleCall) -> None:
    """The hooks on the model itself stand after its inputs and before its output."""
    before = set(graph.nodes)
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    result = next(node for node in graph.nodes if node.op == "output")
    if model._forward_pre_hooks and inputs:
        readers = {node: list(node.users) for node in inputs}
        with graph.inserting_after(inputs[-1]):
            hooked = graph.call_function(PreHooks(model), tuple(inputs))
        previous = hooked
        for position, node in enumerate(inputs):
            with graph.inserting_after(previous):
                previous = graph.call_function(operator.getitem, (hooked, position))
            for reader in readers[node]:
                reader.replace_input_with(node, previous)
    if model._forward_hooks:
        value = result.args[0]
        if not isinstance(value, fx.Node):
            raise TraceError("the model has forward hooks and returns more than one tensor")
        with graph.inserting_before(result):
            hooked = graph.call_function(PostHooks(model), (value, tuple(inputs), {}))
        result.replace_input_with(value, hooked)
    for node in graph.nodes:
        if node not in before:
            node.meta["call"] = root
            root.nodes.append(node)


def trace(model: nn.Module) -> Program:
    """The graph of a model by symbolic tracing.

    Raises:
        TraceError: the model's own forward cannot be traced; the message says where it stopped.

    """
    opaque: dict[str, str] = {}
    with preserved(model), checkpointing_bypassed(model), torch.no_grad():
        while True:
            before = torch.get_rng_state()
            tracer, program = _attempt(model, opaque)
            if program is not None and not torch.equal(before, torch.get_rng_state()):
                raise TraceError("the forward pass draws random numbers, which symbolic tracing would make constants")
            if program is not None:
                return program
            path, reason = tracer.failed or ("", "unknown")
            if not path or path in opaque:
                raise TraceError(f"the forward pass cannot be traced symbolically: {reason}")
            kind = type(model.get_submodule(path))
            alike = {name: reason for name, module in model.named_modules() if type(module) is kind and name}
            opaque.update(alike)
