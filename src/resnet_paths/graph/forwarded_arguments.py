"""Which constant arguments a module merely passes to its submodules, so that its written forward can accept any value.

A graph shows one run. An argument that was None in that run (a padding mask, a cache, a flag) is None everywhere in the
recording, and nothing distinguishes a None passed on to the attention from one that the author wrote there. So the
forward is run twice more by itself, on proxies and with stand-ins for its submodules that record their arguments: once
with the argument as it was, once with a proxy in its place. If the two runs do the same, and the proxy appears only
among the arguments of submodules, then the argument is passed on and those submodules can receive whatever is given.
Everywhere else (the forward asks ``if mask is not None``, or cannot run on proxies) the written forward is valid only
for the value in that run. It then refuses any other value with a one-line error that names the argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import new_class
from typing import Any

import torch
from torch import fx, nn

from .drop_plan import SitePlan, arguments, is_written, signature_of
from .preserve import preserved
from .program import ModuleCall, Program
from .still_needed import nodes_in

Place = tuple[str, str | None]
"""An argument: a parameter's name, and for an item of ``**kwargs`` its key."""


class Anything:
    """Placeholder for a value that may differ."""


class Given:
    """Placeholder for a value that must not be None."""


def forwarded_arguments(plan: SitePlan) -> tuple[dict[str, Any], dict[ModuleCall, dict[int | str, Place]]]:
    """How a written forward treats the constant arguments of its site.

    Returns:
        For each parameter that does not accept every value, its value in the run (with `Anything` and `Given` for what
        may differ); and for each submodule call that stays, which of its arguments are which arguments of the site.

    Cost: one run of the site's own code on proxies, and one for each constant argument.
    """
    probe = _Probe(plan)
    operands = {source for node in plan.operations for source in plan.sources(node)}
    fixed: dict[str, Any] = {}
    forwarded: dict[ModuleCall, dict[int | str, Place]] = {}

    def kept(value: Any, argument: Place) -> Any:
        if isinstance(value, fx.Node):
            return Given if value in operands else Anything
        if not is_written(value) and not isinstance(value, (tuple, list, dict)):
            return Anything
        receivers = probe.receivers(plan.site, argument, value) if not nodes_in(value) else None
        if receivers is None:
            return fx.node.map_aggregate(value, _as_fixed)
        for call, key in receivers:
            forwarded.setdefault(call, {})[key] = argument
        return Anything

    given = arguments(plan.program, plan.site)
    for name, parameter in signature_of(plan.site.module).parameters.items():
        value = given.get(name, parameter.default)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            value = given.get(name, {})
            fixed[name] = {key: kept(item, (name, key)) for key, item in value.items()}
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            fixed[name] = tuple(fx.node.map_aggregate(given.get(name, ()), _as_fixed))
        elif value is not parameter.empty:
            fixed[name] = kept(value, (name, None))
    return {name: value for name, value in fixed.items() if value is not Anything}, forwarded


def _as_fixed(leaf: Any) -> Any:
    return leaf if is_written(leaf) else Anything


@dataclass(frozen=True)
class _Run:
    """A forward run on proxies: its operations, what it returned, and the proxy of the argument under test."""

    nodes: list[fx.Node]
    returned: Any
    tried: fx.Node


class _Probe:
    def __init__(self, plan: SitePlan) -> None:
        self.plan, self.program = plan, plan.program
        self._plain: dict[ModuleCall, _Run | None] = {}

    def receivers(self, call: ModuleCall, argument: Place, value: Any) -> list[tuple[ModuleCall, int | str]] | None:
        """The submodule calls to which a call passes an argument on; None if it does anything else with it."""
        if call not in self._plain:
            self._plain[call] = _run(self.program, call, None)
        plain, tried = self._plain[call], _run(self.program, call, argument)
        if plain is None or tried is None:
            return None
        occurrences = _occurrences(plain, tried, value)
        parts = [node for node in tried.nodes if node.op == "call_module"]
        if occurrences is None or [node.target for node in parts] != [str(id(child.module)) for child in call.children]:
            return None
        children = dict(zip(parts, call.children, strict=True))
        receivers: list[tuple[ModuleCall, int | str]] = []
        for node, key in occurrences:
            further = self._receivers_behind(children[node], key, value)
            if further is None:
                return None
            receivers += further
        return receivers

    def _receivers_behind(
        self, call: ModuleCall, key: int | str, value: Any
    ) -> list[tuple[ModuleCall, int | str]] | None:
        """Who receives an argument of a submodule call: that call, its own submodules if opened, nobody if gone."""
        if call in self.plan.calls:
            return [(call, key)]
        if call not in self.plan.opened or not self._is_left(call):
            return []
        argument = _parameter_of(call, key)
        return None if argument is None else self.receivers(call, argument, value)

    def _is_left(self, call: ModuleCall) -> bool:
        """Whether anything of an opened call is still written."""
        if any(node in self.plan.operations for node in call.nodes):
            return True
        return any(child in self.plan.calls or self._is_left(child) for child in call.children)


def _parameter_of(call: ModuleCall, key: int | str) -> Place | None:
    """The parameter that an argument of a call goes to."""
    parameters = signature_of(call.module).parameters
    if isinstance(key, str):
        if key in parameters:
            return key, None
        rest = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
        return (rest[0], key) if rest else None
    named = list(parameters.values())[: key + 1]
    positional = len(named) == key + 1 and all(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in named
    )
    return (named[key].name, None) if positional else None


# running a forward on proxies


class _Scratch(fx.proxy.GraphAppendingTracer):
    """Appends operations on proxies to a graph; objects that are not graph values are represented by their identity."""

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, (torch.Tensor, nn.Module)):
            return f"object {id(a)}"
        try:
            return super().create_arg(a)
        except NotImplementedError:
            return f"object {id(a)}"


def _run(program: Program, call: ModuleCall, tried: Place | None) -> _Run | None:
    """Run the code of one module on proxies, with a proxy for the tested argument; None if that fails."""
    module = call.module
    if "forward" in module.__dict__:
        return None
    graph = fx.Graph()
    tracer = _Scratch(graph)
    proxies: dict[fx.Node, fx.Proxy] = {}

    def proxy(node: fx.Node) -> fx.Proxy:
        if node not in proxies:
            proxies[node] = fx.Proxy(graph.placeholder(f"given_{len(proxies)}"), tracer)
        return proxies[node]

    extra = fx.Proxy(graph.placeholder("tried"), tracer)
    try:
        bound = signature_of(module).bind(*call.args, **call.kwargs) if call.parent else None
        arguments_ = dict(bound.arguments) if bound is not None else arguments(program, call)
        arguments_ = {name: _with_proxies(value, proxy) for name, value in arguments_.items()}
        if tried is not None:
            name, key = tried
            arguments_[name] = extra if key is None else {**arguments_.get(name, {}), key: extra}
        bound_arguments = inspect.BoundArguments(signature_of(module), arguments_)
        with preserved(module), torch.no_grad():
            returned = type(module).forward(
                _with_stand_ins(module, tracer), *bound_arguments.args, **bound_arguments.kwargs
            )
            returned = tracer.create_arg(returned)
    except Exception:  # whatever the reason, this forward does not run on proxies
        return None
    return _Run(list(graph.nodes), returned, extra.node)


def _with_proxies(tree: Any, proxy: Any) -> Any:
    """Arguments with proxies in place of nodes, in ordinary containers."""
    if isinstance(tree, fx.Node):
        return proxy(tree)
    if isinstance(tree, (tuple, list)):
        items = [_with_proxies(item, proxy) for item in tree]
        named: Any = type(tree)
        return named(*items) if hasattr(tree, "_fields") else items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: _with_proxies(item, proxy) for key, item in tree.items()}
    return tree


def _with_stand_ins(module: nn.Module, tracer: _Scratch) -> nn.Module:
    """A module of the same class whose submodules record how they are called instead of running."""
    memo: dict[int, nn.Module] = {}

    def stand_in(part: nn.Module) -> nn.Module:
        if id(part) not in memo:

            def called(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
                return tracer.create_proxy("call_module", str(id(part)), args, kwargs, name="part")

            kind = type(part)
            memo[id(part)] = _shallow(
                part, new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(__call__=called))
            )
            memo[id(part)].__dict__["_modules"] = children(part)
        return memo[id(part)]

    def children(part: nn.Module) -> dict[str, nn.Module | None]:
        return {name: None if child is None else stand_in(child) for name, child in part._modules.items()}

    outer = _shallow(module, type(module))
    outer.__dict__["_modules"] = children(module)
    return outer


def _shallow(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module with the same attributes, except that plain containers are copied so that a forward may fill them."""
    copy: nn.Module = object.__new__(kind)
    plain = (list, dict, set)
    copy.__dict__.update(
        (name, value.copy() if type(value) in plain else value) for name, value in module.__dict__.items()
    )
    return copy


# comparing two runs


def _occurrences(plain: _Run, tried: _Run, value: Any) -> list[tuple[fx.Node, int | str]] | None:
    """Where the tested argument is passed to a submodule; None if the two runs differ in anything else."""
    if len(plain.nodes) != len(tried.nodes):
        return None
    number = {node: position for run in (plain, tried) for position, node in enumerate(run.nodes)}

    def same(one: Any, other: Any) -> bool:
        def shape(tree: Any) -> Any:
            return fx.node.map_arg(tree, lambda node: f"node {number[node]}")

        return tried.tried not in nodes_in(other) and bool(shape(one) == shape(other))

    occurrences: list[tuple[fx.Node, int | str]] = []
    for one, other in zip(plain.nodes, tried.nodes, strict=True):
        if (one.op, one.target, len(one.args), list(one.kwargs)) != (
            other.op, other.target, len(other.args), list(other.kwargs),
        ):  # fmt: skip
            return None
        for key, argument in _by_key(other):
            before = one.args[key] if isinstance(key, int) else one.kwargs[key]
            if argument is tried.tried and other.op == "call_module" and _equal(before, value):
                occurrences.append((other, key))
            elif not same(before, argument):
                return None
    return occurrences if same(plain.returned, tried.returned) else None


def _by_key(node: fx.Node) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(node.args)
    yield from node.kwargs.items()


def _equal(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))
