"""Front end 1: the graph of a model by symbolic tracing (torch.fx), without an input.

Why two front ends? Tracing runs each forward on stand-ins for tensors. It needs no input, and whatever depends on the
size of a batch or an image stays an operation, so its graph is valid for all sizes. But a forward that depends on
values or sizes cannot be traced (most of Hugging Face). The recorder (`recording.py`) runs the model on an example
instead, and has to find out afterwards what depended on the sizes.

Modules of ``torch.nn`` are leaves. A module whose forward cannot be traced becomes a single operation as well, and
tracing starts over. What a graph cannot express is rewritten to an equivalent or refused: modification of tensors
(later readers read the new value; a read through another view is refused), custom gradients, regions without gradients,
random numbers, attributes that may change. We do not use ``fx.Tracer.trace`` itself: it patches ``nn.Module`` for all
threads, and wraps functions in their modules while they run.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace as fx_tracing

from ..imports import load_symbolic_shapes
from . import operations
from .custom_functions import CustomFunction, kept_whole
from .errors import TraceError
from .held_values import HeldTensors, Reads
from .hooks import PostHooks, PreHooks
from .in_place import changes_its_input, is_part_of_tensor, is_view, with_item, without_change
from .leaves import is_leaf, is_single_function
from .locking import MODEL_LOCK
from .opaque_modules import CannotFollow, follow_with_opaque_modules
from .own_thread import replaced_for, replaced_here
from .preserve import checkpointing_bypassed, preserved
from .program import ModuleCall, Program, first_node, map_nodes
from .random_draws import ADVICE, draws, noticing_draws, reads, same_for_other_seeds
from .regions import Regions
from .training_flag import with_flag
from .trees import fields_of, leaves, map_leaves

_COMPUTED = ("call_function", "call_method", "call_module")


class _Proxy(fx.Proxy):
    """A proxy on which ``a += b`` also affects other references to ``a``, as it does for a tensor."""

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

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


class _Watched(Regions):
    """Tracks the regions of a traced forward, refuses random tensors, and records what is computed from buffers.

    Buffers stay tensors during tracing (a forward may read their shape, or compare them with None), so what is computed
    from them alone is a constant of the graph.
    """

    def __init__(self, owned: list[tuple[str, torch.Tensor]], names: dict[int, str]) -> None:
        super().__init__()
        tensors = {name: value for name, value in owned if names[id(value)] == name}
        self.held = HeldTensors(tensors)
        self._behind = {id(value): frozenset({name}) for name, value in tensors.items()}
        self._alive: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, torch.Tensor) and draws(func):
            raise TraceError(f"it draws random numbers ({func.__name__}), which tracing would make constants; {ADVICE}")
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        behind = frozenset().union(*(self._behind.get(id(tensor), ()) for tensor in tensors))
        if behind and reads(func):
            self.held.note(behind)
        for leaf in leaves(result) if behind else ():
            if isinstance(leaf, torch.Tensor):
                self._behind.setdefault(id(leaf), behind)
                self._alive.append(leaf)  # Python reuses the id of a freed object
        return result

    def becomes_constant(self, tensor: torch.Tensor) -> None:
        """Record that a tensor not owned by the model became a constant of the graph."""
        self.held.note(self._behind.get(id(tensor), ()), tensor)


class _Views:
    """Which nodes share memory, and which of them must no longer be read because another was overwritten."""

    def __init__(self) -> None:
        self._owner: dict[fx.Node, fx.Node] = {}
        self._views: dict[fx.Node, list[fx.Node]] = {}
        self._positions: dict[fx.Node, dict[fx.Node, int]] = {}
        self._stale: set[fx.Node] = set()

    def note(self, view: fx.Node) -> None:
        """Record a node that may share memory with its first argument."""
        source = view.args[0]
        assert isinstance(source, fx.Node)
        owner = self._owner[view] = self._owner.get(source, source)
        self._views.setdefault(owner, []).append(view)
        self._positions[view] = dict(self._positions.get(source, {}))
        if view.target is operator.getitem and isinstance(view.args[1], int):
            self._positions[view][source] = view.args[1]

    def written(self, node: fx.Node) -> None:
        """Record that the node's value, and any value sharing its memory, is out of date."""
        owner = self._owner.get(node, node)
        sharing = {owner, *self._views.get(owner, [])} - {node}
        self._stale.update(other for other in sharing if not self._are_different_items(node, other))

    def _are_different_items(self, one: fx.Node, other: fx.Node) -> bool:
        """Whether two values are different items of the same value."""
        positions, other_positions = self._positions.get(one, {}), self._positions.get(other, {})
        return any(other_positions.get(source, position) != position for source, position in positions.items())

    def check(self, node: fx.Node) -> None:
        """Check that a node may be read."""
        if node in self._stale:
            raise TraceError(f"{node.name} is read after its memory was overwritten through another view of it")


class _Tracer(fx.Tracer):
    def __init__(self, model: nn.Module, opaque: dict[str, str]) -> None:
        super().__init__()
        self.model, self.opaque = model, opaque
        self.root = model
        self.graph = fx.Graph()
        self.submodule_paths = {module: path for path, module in model.named_modules()}
        self._modules = {path: module for module, path in self.submodule_paths.items()}
        self.constants: dict[str, torch.Tensor] = {}
        self.reads = Reads(model)
        self.top = self.current = ModuleCall("", model, None)
        owned = _tensors_of(model)
        self._names = {id(tensor): name for name, tensor in owned}
        self.regions = _Watched(owned, self._names)
        self._parameters: dict[str, fx.Proxy] = {}
        self._replaced: dict[fx.Node, fx.Node] = {}
        self._views = _Views()
        self._in_table = False  # inside a module that may be a position table, which reads its buffers
        self._alive: list[torch.Tensor] = []  # Python reuses the id of a freed object

    # nodes

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, torch.Tensor):
            return super().create_arg(a)
        name = self._names.get(id(a))
        if name is None:
            name = f"_tensor_constant{len(self.constants)}"
            self.constants[name] = a.detach()
            self._names[id(a)] = name
            self._alive.append(a)
            self.regions.becomes_constant(a)
        return self.create_node("get_attr", name, (), {})

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        args, kwargs = self.now((args, kwargs), detached=target is not operator.getitem)
        changed = None
        if kind in _COMPUTED:
            target, args, kwargs, changed = self._functional(kind, target, args, dict(kwargs))
        if kind == "call_function":
            args, kwargs = self._live_training_flag(args, kwargs, target)
        node = self._add(kind, target, args, kwargs, name, type_expr)
        if changed is not None:
            self._replaced[changed] = node
            changed.meta["overwritten_by"] = node
            if is_part_of_tensor(changed):
                self._replace_part(changed, node)
            self._views.written(changed)
        return node

    def _replace_part(self, part: fx.Node, value: fx.Node) -> None:
        """Let later readers of a tensor see that a part of it was overwritten, as by ``x[:, :8] += y``."""
        whole = part.args[0]
        assert isinstance(whole, fx.Node)
        if not self.regions.frozen or whole.meta.get("frozen"):
            self._replaced[whole] = self._add("call_function", with_item, (*part.args, value), {})
            whole.meta["overwritten_by"] = self._replaced[whole]

    def _add(self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        node.meta["call"] = self.current
        self.current.nodes.append(node)
        self.regions.note(node)
        if kind in _COMPUTED and args and isinstance(args[0], fx.Node) and "size" not in node.meta:
            if is_view(node, self._module(node)):
                self._views.note(node)
            if target is operator.getitem and args[0].meta.get("frozen"):
                node.meta["frozen"] = True
        return node

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def now(self, tree: Any, *, detached: bool = True) -> Any:
        """Replace each node by the one with its current value, detached if it comes from a region without gradients."""
        return map_nodes(tree, lambda node: self._now(node, detached))

    def _now(self, node: fx.Node, detached: bool) -> fx.Node:
        while node in self._replaced:
            node = self._replaced[node]
        self._views.check(node)
        return self.regions.read(node, self._detach) if detached else node

    def _detach(self, node: fx.Node) -> fx.Node:
        return self._add("call_method", "detach", (node,), {})

    def _functional(
        self, kind: str, target: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, Any, dict[str, Any], fx.Node | None]:
        """The out-of-place form of an operation, and the node whose value it would have modified."""
        changed = args[0] if args and isinstance(args[0], fx.Node) else None
        if isinstance(kwargs.get("out"), fx.Node):
            raise TraceError(f"{target} writes to out=, which cannot be followed")
        if kind == "call_module":
            inplace = changes_its_input(self._modules[target])
            changed = changed if inplace else None
        elif (instead := without_change(target, kwargs)) is not None:
            target, kwargs = instead
        elif kind == "call_method" and target.endswith("_") and not target.endswith("__"):
            args = (self._add("call_method", "clone", (changed,), {}), *args[1:])
        else:
            changed = None
        if changed is not None and self.regions.frozen and not changed.meta.get("frozen"):
            raise TraceError("it overwrites a value within torch.no_grad(), which a graph cannot express")
        return target, args, kwargs, changed

    def _live_training_flag(self, args: Any, kwargs: Any, target: Any) -> tuple[Any, Any]:
        """Replace a constant that came from ``self.training`` by a read of the flag in each run."""
        training = self.current.module.training
        if with_flag(target, args, kwargs, training, None) is None:
            return args, kwargs
        path = f"{self.current.path}.training" if self.current.path else "training"
        attribute = self._add("get_attr", path, (), {})
        return with_flag(target, args, kwargs, training, attribute)  # type: ignore[no-any-return]

    # the interface that PyTorch expects of a tracer

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        followed = torch.Tensor if self._in_table else nn.Parameter
        name = self._names.get(id(attr_val)) if isinstance(attr_val, followed) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Within the block, this thread's module calls and parameter reads go to this tracer."""
        patcher, known = fx_tracing._Patcher(), set(self._modules.values())

        def calling(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                self._wrap_known_functions(patcher, module)
                if getattr(module, "_orig_mod", module) not in known:
                    return original(module, *args, **kwargs)
                return self.call_module(module, functools.partial(original, module), args, kwargs)

            return call

        def calling_other(original: Callable[..., Any]) -> Callable[..., Any]:
            """What is not the model's, of any class, is a function: ``nn.ReLU()(x)``."""

            def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                _check_weightless(module)
                return original(module, *args, **kwargs)

            return call

        def getting(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda module, name: self.getattr(name, original(module, name), self._parameters)

        with ExitStack() as stack:
            stack.enter_context(_marked_as_tracing())
            stack.enter_context(patcher)
            fx_tracing._patch_wrapped_functions(patcher)
            self._wrap_known_functions(patcher, self.model)
            for module in self._autowrap_search:
                fx_tracing._autowrap_check(patcher, vars(module), self._autowrap_function_ids)
            stack.enter_context(replaced_for(self._modules.values(), nn.Module, "__call__", calling))
            stack.enter_context(replaced_here(nn.Module, "_call_impl", calling_other))
            stack.enter_context(replaced_for(self._modules.values(), nn.Module, "__getattr__", getting))
            stack.enter_context(kept_whole(self._has_proxies, self._custom))
            stack.enter_context(self.regions.followed())
            stack.enter_context(self.reads.noted())
            yield

    def _wrap_known_functions(self, patcher: Any, module: nn.Module) -> None:
        names = getattr(module.forward, "__globals__", {})
        fx_tracing._autowrap_check(patcher, names, self._autowrap_function_ids)

    @staticmethod
    def _has_proxies(args: tuple[Any, ...]) -> bool:
        return any(isinstance(value, fx.Proxy) for value in leaves(args))

    def _custom(self, function: Any, forward: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return self.create_proxy("call_function", CustomFunction(function), args, {})

    # modules

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        m = getattr(m, "_orig_mod", m)
        path = self.path_of_module(m)
        call = ModuleCall(path, m, self.current, *self._given(args, kwargs))
        call.leaf = path in self.opaque or is_leaf(m)
        self.current.children.append(call)
        outer, self.current = self.current, call
        try:
            if not call.leaf and is_single_function(m, args, kwargs, fx.Proxy):
                value = self._followed_if_shape_only(m, args, kwargs)
            elif not call.leaf:
                value = self._run(m, args, kwargs)
            if call.leaf:
                value = self.create_proxy("call_module", path, args, kwargs)
        except CannotFollow:
            raise
        except Exception as error:
            raise CannotFollow(path, f"{type(error).__name__}: {error}") from error
        finally:
            self.current = outer
        call.returns(value, self.now(_nodes(value), detached=False))
        return value

    def _given(self, args: Any, kwargs: Any) -> Any:
        return self.now(_nodes((args, kwargs)))

    def _run(self, m: nn.Module, args: Any, kwargs: Any) -> Any:
        if m._forward_pre_hooks:
            hooked = self.create_proxy("call_function", PreHooks(m), args, kwargs)
            args = tuple(operator.getitem(hooked, position) for position in range(len(args)))
        value = m.forward(*args, **kwargs)
        if not m._forward_hooks:
            return value
        if not isinstance(value, fx.Proxy):
            raise TraceError(f"{self.current.path} has forward hooks and returns more than one tensor")
        return self.create_proxy("call_function", PostHooks(m), (value, tuple(args), dict(kwargs)), {})

    def _followed_if_shape_only(self, m: nn.Module, args: Any, kwargs: Any) -> Any:
        """The result of a module without parameters, followed only if it uses nothing but the shape of its input.

        Such a module (a position table) passes on no data. Any other (drop-path, a lambda) becomes one operation, and
        everything that following it has added to the graph is removed again.
        """
        call, seen = self.current, dict(self.reads.seen)
        replaced, constants = dict(self._replaced), dict(self.constants)
        given = {node for node in leaves(_nodes((args, kwargs))) if isinstance(node, fx.Node)}
        self._in_table = True
        try:
            value = self._run(m, args, kwargs)
            if self._replaced == replaced and not _depends_on(value, given, set(call.nodes)):
                return value
        except Exception:
            pass
        finally:
            self._in_table = False
        for node in reversed(call.nodes):
            for source in node.all_input_nodes:
                if source.meta.get("detached") is node:
                    del source.meta["detached"]
            self.graph.erase_node(node)
        kept = {name: proxy for name, proxy in self._parameters.items() if proxy.node not in set(call.nodes)}
        self._parameters.clear()
        self._parameters.update(kept)
        call.nodes.clear()
        self.reads.seen, self._replaced, self.constants = seen, replaced, constants
        call.leaf = True
        return None

    # the full model

    def program(self) -> Program:
        """Follow the model's forward."""
        placeholders, args, kwargs = self._arguments()
        with self.following():
            try:
                value = self.model.forward(*args, **kwargs)
                result = self.now(map_leaves(fields_of(value), self.create_arg))
            except CannotFollow:
                raise
            except Exception as error:
                raise CannotFollow("", f"{type(error).__name__}: {error}") from error
        self.graph.output(result)
        _add_root_hooks(self.model, self.graph, self.top)
        end = next(node for node in reversed(self.graph.nodes) if node.op == "output")
        output = first_node(end.args[0])
        if output is None:
            raise TraceError(
                "expected a model that returns a tensor, or a tuple or dict with one, got none in its output; "
                "return the logits from forward"
            )
        used = {name: node for name, node in placeholders.items() if node.users}
        self.top.args = tuple(used.values())
        self.top.returns(value, end.args[0])
        return Program(
            self.model, self.graph, self.top, used, output, self.constants, dict(self.opaque), "trace",
            self.reads.kept(), held_tensors=self.regions.held.noted(),
        )  # fmt: skip

    def _arguments(self) -> tuple[dict[str, fx.Node], list[Any], dict[str, Any]]:
        """Stand-ins for the required arguments; the others get their defaults.

        A forward with only ``*args`` (a wrapper around another model) gets one argument.
        """
        placeholders: dict[str, fx.Node] = {}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for position, parameter in enumerate(inspect.signature(self.model.forward).parameters.values()):
            optional = parameter.default is not parameter.empty
            star = parameter.kind is parameter.VAR_POSITIONAL
            if parameter.kind is parameter.VAR_KEYWORD or (position and (optional or star)):
                continue
            name = f"{parameter.name}_0" if star else parameter.name
            stand_in = self.create_proxy("placeholder", name, (), {})
            placeholders[name] = stand_in.node
            if parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[name] = stand_in
            else:
                args.append(stand_in)
        return placeholders, args, kwargs


def _check_weightless(module: nn.Module) -> None:
    """Check that a module that is not one of the model's has no tensors: the graph could not name them."""
    if next(chain(module.parameters(), module.buffers()), None) is not None:
        raise TraceError(
            f"it calls a {type(module).__name__} that is not one of its modules (keep modules as attributes or in an "
            "nn.ModuleList, not in a plain list)"
        )


def _tensors_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """A model's tensors by name: plain attributes, then buffers, then parameters (of several names the last counts)."""
    plain = (
        (f"{path}.{name}" if path else name, value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    )
    return [*plain, *model.named_buffers(), *model.named_parameters()]


@contextmanager
def _marked_as_tracing() -> Iterator[None]:
    """Tell compiled functions that this thread is tracing, if PyTorch keeps that flag per thread (from 2.9 on)."""
    if not hasattr(fx_tracing, "_is_fx_tracing_tls"):
        yield
        return
    before = fx_tracing._get_is_fx_tracing()
    fx_tracing._set_is_fx_tracing(True)
    try:
        yield
    finally:
        fx_tracing._set_is_fx_tracing(before)


def _nodes(tree: Any) -> Any:
    """A nest with nodes in place of proxies."""
    return map_leaves(tree, lambda leaf: leaf.node if isinstance(leaf, fx.Proxy) else leaf)


def _depends_on(value: Any, given: set[fx.Node], created: set[fx.Node]) -> bool:
    """Whether values of the `given` nodes, not only their shapes, flow through the `created` nodes into a value."""
    todo = [node for node in leaves(_nodes(value)) if isinstance(node, fx.Node)]
    seen: set[fx.Node] = set()
    while todo:
        node = todo.pop()
        if node in given:
            return True
        if node not in seen and node in created and not operations.asks_shape(node):
            todo.extend(node.all_input_nodes)
        seen.add(node)
    return False


def _add_root_hooks(model: nn.Module, graph: fx.Graph, root: ModuleCall) -> None:
    """Insert the hooks on the model itself after its inputs and before its output."""
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
    """The graph of a model by symbolic tracing. The model is left unchanged; other threads may run it meanwhile.

    Raises:
        TraceError: the model's own forward cannot be traced; the message says where it stopped.

    """

    def attempt(opaque: dict[str, str]) -> Program:
        return same_for_other_seeds(lambda: once(opaque))

    def once(opaque: dict[str, str]) -> tuple[Program, bool]:
        with noticing_draws() as drawn:
            return _Tracer(model, opaque).program(), drawn()

    load_symbolic_shapes()
    with MODEL_LOCK, preserved(model), checkpointing_bypassed(model):
        return follow_with_opaque_modules(model, attempt)
