"""Front end 2: the graph of a model from runs on an example, for models that cannot be traced symbolically.

Every torch function that runs outside a leaf module is recorded with the nodes of its tensors. The model runs at two
batch sizes; integers that differ between the runs are expressed in terms of the batch size (`batch_size.py`). Anything
else that differs depends on the values of the input, so the module that computes it becomes opaque
(`opaque_modules.py`), and recording starts over.

Why not ``torch.export``, with a dynamic batch size? We tried it in torch 2.14 on the 481 models of the coverage page
(`analysis/coverage/export_front_end.md`). It followed 471, each exactly at another batch size; recording followed 479.
Its median processor time was 2.7 s per model, that of recording 0.56 s. Its graphs contain no module calls,
only their names, and take parameters as inputs; hooks and train flags are frozen at export (a removed hook still runs,
dropout stays on). This library needs all three live: a block is dropped as a module, hooks belong to the user, and the
model may change its mode.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from ..imports import load_symbolic_shapes
from . import operations
from .batch_size import with_batch_size
from .custom_functions import CustomFunction, kept_whole
from .dataflow import ancestors
from .errors import TraceError
from .eval_mode import exported_parts
from .held_values import HeldTensors, Reads, version
from .hooks import PostHooks, PreHooks
from .in_place import AS_OPERATORS, with_item, without_change
from .inputs import arguments_by_name, named_tensors
from .leaves import is_leaf, is_single_function
from .locking import MODEL_LOCK
from .opaque_modules import CannotFollow, ClosedMethod, follow_with_opaque_modules
from .own_thread import replaced_for
from .preserve import checkpointing_bypassed, compiled_functions_bypassed, preserved
from .program import ModuleCall, Program, first_difference, first_node, map_nodes
from .random_draws import ADVICE, draws, noticing_draws, reads, same_for_other_seeds
from .read_floats import Change, check_use_of_floats, has_fractions, with_other_floats
from .regions import Regions
from .training_flag import with_flag
from .trees import fields_of, items, leaves, map_leaves


class _Recorder(Regions):
    """Records the torch functions and modules that a model runs."""

    def __init__(
        self, model: nn.Module, opaque: dict[str, str], *, methods: bool = False, change: Change | None = None
    ) -> None:
        super().__init__()
        self.model, self.opaque = model, opaque
        self.otherwise = change
        self.float_reads: list[str] = []  # the modules that read numbers off tensors
        self.graph = fx.Graph()
        self.methods: list[str] = []
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.names |= {id(tensor): name for name, tensor in model.named_buffers()}
        self.own = {id(module): _parameter_ids(module) for module in model.modules()}
        self.held = HeldTensors({self.names[id(t)]: t for t in (*model.parameters(), *model.buffers())})
        self.constants: dict[str, torch.Tensor] = {}
        self.known: dict[int, fx.Node] = {}
        self.alive: list[Any] = []  # keeps objects alive: Python reuses the id of a freed one
        self.sharing: dict[int, list[torch.Tensor]] = {}  # by storage
        self.stale: dict[int, str] = {}  # tensors overwritten through another view, and the module that did it
        self.quiet = False
        self.reads = Reads(model, lambda: not self.quiet, self._method if methods else None)
        self.root = ModuleCall("", model, None)
        self.current = self.root

    # nodes

    def add(self, kind: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs or {})
        node.meta["call"] = self.current
        self.current.nodes.append(node)
        self.note(node)
        if self.methods and self.methods[-1].startswith(f"{self.current.path}:"):
            node.meta["method"] = self.methods[-1]
        node.meta["sized"] = kind != "get_attr" and (
            _sized_by_values(target)
            or (kind == "call_module" and target in self.opaque)
            or any(source.meta["sized"] for source in node.all_input_nodes)
        )
        node.meta["data"] = kind == "placeholder" or (
            not operations.asks_shape(node) and any(source.meta["data"] for source in node.all_input_nodes)
        )
        node.meta["held"] = (kind == "get_attr" and target not in self.constants) or (
            not operations.asks_shape(node) and any(source.meta["held"] for source in node.all_input_nodes)
        )
        drawn = draws(target) or any(source.meta.get("random") for source in node.all_input_nodes)
        node.meta["random"] = drawn and not node.meta["data"]
        return node

    def tree(self, value: Any) -> Any:
        """A nest with nodes in place of tensors."""
        return map_leaves(value, self._leaf)

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.node(value)
        node = None if value is None or isinstance(value, (bool, int, str)) else self.known.get(id(value))
        return value if node is None else node

    def node(self, tensor: torch.Tensor) -> fx.Node:
        """The node that provides a tensor's current value."""
        if id(tensor) in self.stale:
            raise CannotFollow(self.stale[id(tensor)], "it writes to a view of a tensor that is read later")
        recorded = self.known.get(id(tensor))
        if recorded is not None:
            return self.readable(recorded)
        name = self.names.get(id(tensor))
        if name is None:
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = tensor.detach()
        node = self.add("get_attr", name)
        if id(tensor) not in self.names:
            self.learn(tensor, node)
        return node

    def readable(self, node: fx.Node) -> fx.Node:
        """The node through which to read a value: itself, or its ``detach`` outside a region without gradients."""
        return self.read(node, lambda source: self.add("call_method", "detach", (source,)))

    def learn(self, value: Any, node: fx.Node) -> None:
        """Associate the tensors in a result with the node that made it, or with items of that node."""
        if isinstance(value, torch.Tensor):
            self._keep(value, node)
            self.sharing.setdefault(_memory(value), []).append(value)
        elif isinstance(value, float):
            self._keep(value, node)
        for key, item in items(value):
            if _holds_tensor(item) or isinstance(item, float):
                self.learn(item, self.add("call_function", operator.getitem, (node, key)))
        if _is_object_with_tensors(value):
            self._keep(value, node)
            for name, item in vars(value).items():
                if _holds_tensor(item):
                    self.learn(item, self.add("call_function", getattr, (node, name)))

    def _keep(self, value: Any, node: fx.Node) -> None:
        self.known[id(value)] = node
        self.stale.pop(id(value), None)
        self.alive.append(value)

    # functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        self.notice(func, args)
        inputs = [value for value in leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if any(torch._C._functorch.is_functorch_wrapped_tensor(value) for value in inputs):
            raise CannotFollow(self.place, "it transforms a function of its own by torch.func (vmap, grad, jvp)")
        # Writes show in the version counters, not in names: any function may write to an argument (out=, running
        # statistics).
        versions = [version(value) for value in inputs]
        nodes = self.tree(args), self.tree(kwargs)
        result = func(*args, **kwargs)
        changed = [value for value, old in zip(inputs, versions, strict=True) if version(value) != old]
        if changed:
            self.change(func, args, nodes, changed)
        elif reads(func) and inputs:
            result = self.answer(func, nodes, result)
        elif inputs and isinstance(nodes[0][0], fx.Node) and nodes[0][0].meta["sized"] and _asks_size(func):
            shape = tuple(inputs[0].shape)
            self._keep(inputs[0], self.add("call_function", operations.of_shape, (nodes[0][0], shape, self.place)))
        elif _holds_tensor(result) and not any(result is value for value in inputs):
            self.learn(result, self.call(func, *nodes))
        return result

    def answer(self, func: Any, nodes: tuple[Any, Any], result: Any) -> Any:
        """The Python value that the forward gets for a tensor.

        A bool or an integer may decide what the forward does next, so a check is recorded that each run gives the same
        one (where it comes from the model's own tensors: that they do not change). A float is read again in each run;
        whether Python computes with it is found out by running the forward with other floats (`read_floats.py`).

        Raises:
            CannotFollow: a decision depends on random numbers.
        """
        path, node = self.place, nodes[0][0]
        if not isinstance(node, fx.Node):
            return result
        if node.meta["random"]:
            raise CannotFollow(path, f"its decisions depend on random numbers ({node.name}.{func.__name__}); {ADVICE}")
        if has_fractions(result):
            self.float_reads.append(path)
            result = result if self.otherwise is None else with_other_floats(result, self.otherwise)
            if type(result) is float:
                self.learn(result, self.add("call_function", torch.Tensor.item, (node,)))
            return result
        if node.meta["held"] and not node.meta["data"]:
            self.held.note(str(source.target) for source in ancestors(node) if source.meta["held"] and not source.args)
        if type(result) is bool or node.meta["data"]:
            checked = self.call(func, *nodes) if func in _OF_SEVERAL else node  # `0 in x` is not `bool(x)`
            answer = result.tolist() if isinstance(result, np.ndarray) else result
            self.add("call_function", operations.same_answer, (checked, answer, path))
        return result

    def call(self, func: Any, args: Any, kwargs: Any) -> fx.Node:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self.add("call_function", getattr, (args[0], func.__self__.__name__))
        method = getattr(torch.Tensor, name, None) is func or name.startswith("__")
        plain = not kwargs and len(args) == (1 if name == "__neg__" else 2)
        target = AS_OPERATORS[name] if name in AS_OPERATORS and method and plain else func
        training = self.current.module.training
        if with_flag(func, args, kwargs, training, None) is not None:
            path = f"{self.current.path}.training" if self.current.path else "training"
            args, kwargs = with_flag(func, args, kwargs, training, self.add("get_attr", path))
        return self.add("call_function", target, args, kwargs)

    def change(self, func: Any, values: Any, nodes: Any, changed: list[torch.Tensor]) -> None:
        """Replace a function that modifies a tensor by one that computes the new value; later readers read that."""
        target, (args, kwargs) = changed[0], nodes
        if id(target) in self.names:
            self.add("call_function", func, args, kwargs)
            return
        first = bool(values) and values[0] is target
        others = [tensor for tensor in changed if _memory(tensor) != _memory(target)]
        if others or id(target._base) in self.names or not first:
            raise CannotFollow(self.place, "it writes to a view of a tensor")
        if self.frozen and not self.known[id(target)].meta.get("frozen"):
            raise CannotFollow(self.place, "it overwrites a value within torch.no_grad()")
        instead = without_change(func, kwargs)
        if instead is not None:
            node = self.call(instead[0], args, instead[1])
        else:
            copy = self.add("call_function", torch.clone, (args[0],))
            node = self.add("call_function", func, (copy, *args[1:]), kwargs)
        before, whole = self.known[id(target)], self._whole(target)
        before.meta["overwritten_by"] = node
        self.written(target)
        self._keep(target, node)
        if whole is not None:
            after = self.add("call_function", with_item, (*before.args, node))
            self.known[id(whole)].meta["overwritten_by"] = after
            self._keep(whole, after)

    def _whole(self, part: torch.Tensor) -> torch.Tensor | None:
        """The tensor of which another is a part, ``x[:, :8]``, if its later readers may see the part overwritten."""
        taken = self.known[id(part)]
        if taken.target is not operator.getitem:
            return None
        source = taken.args[0]
        if self.frozen and isinstance(source, fx.Node) and not source.meta.get("frozen"):
            return None
        others = (t for t in self.sharing.get(_memory(part), []) if t is not part and id(t) not in self.stale)
        return next((other for other in others if self.known.get(id(other)) is source), None)

    def written(self, target: torch.Tensor) -> None:
        """Mark tensors that share memory with one just written to: their nodes have old values and must not be read."""
        for other in self.sharing.get(_memory(target), []):
            if other is not target and _overlap(target, other):
                self.stale[id(other)] = self.place

    def custom(self, function: Any, forward: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Record a custom autograd function as one operation."""
        inputs = [value for value in leaves(args) if isinstance(value, torch.Tensor)]
        versions = [version(value) for value in inputs]
        nodes = self.tree(args)
        with self.silence():
            result = forward(*args)
        if [version(value) for value in inputs] != versions:
            raise CannotFollow(self.place, f"{function.__name__} overwrites its input")
        # Autograd returns an alias where forward returns its input; the record, too, must tell the two apart.
        result = map_leaves(result, lambda leaf: leaf.clone() if any(leaf is value for value in inputs) else leaf)
        self.learn(result, self.add("call_function", CustomFunction(function), nodes))
        return result

    # methods and modules

    @property
    def place(self) -> str:
        """The module, or its method, that is running."""
        inside = self.methods and self.methods[-1].startswith(f"{self.current.path}:")
        return self.methods[-1] if inside else self.current.path

    def _method(self, path: str, method: Any) -> Any:
        """The replacement of a module's own method, which can make it a single operation."""
        if self.quiet:
            return method
        key = f"{path}:{method.__name__}"

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.quiet:
                return method(*args, **kwargs)
            if key not in self.opaque:
                self.methods.append(key)
                try:
                    return method(*args, **kwargs)
                finally:
                    self.methods.pop()
            self._refuse_objects(key, path, (args, kwargs))
            target = ClosedMethod(method.__self__, method.__name__)
            node = self.add("call_function", target, self.tree(args), self.tree(kwargs))
            node.meta["sized"] = True
            with self.silence():
                result = method(*args, **kwargs)
            self.learn(result, node)
            return result

        return call

    def _refuse_objects(self, name: str, around: str, given: Any) -> None:
        for value in leaves(given):
            if _is_object_with_tensors(value) and id(value) not in self.known:
                raise CannotFollow(around, f"it passes tensors to {name} inside an object ({type(value).__name__})")

    def run(self, module: nn.Module, original: Any, args: Any, kwargs: Any) -> Any:
        """Run and record a call of one of the model's modules."""
        path = self.paths[id(module)]
        call = self.root if not path else ModuleCall(path, module, self.current)
        call.args, call.kwargs = self.tree(args), self.tree(kwargs)
        call.leaf = bool(path) and (path in self.opaque or is_leaf(module))
        if path and not call.leaf and is_single_function(module, args, kwargs, torch.Tensor):
            with self.silence():
                call.leaf = not _reads_only_shape(module, args, kwargs)
        if path:
            self.current.children.append(call)
        outer, self.current = self.current, call
        try:
            result = self.leaf(module, original, args, kwargs) if call.leaf else self.inside(module, args, kwargs)
            call.returns(result, map_leaves(result if path else fields_of(result), self._output))
        finally:
            self.current = outer
        return result

    def _output(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and id(value) in self.stale:
            return self.node(value)
        node = None if isinstance(value, (bool, int, str)) else self.known.get(id(value))
        return self._leaf(value) if node is None else node

    def leaf(self, module: nn.Module, original: Any, args: Any, kwargs: Any) -> Any:
        """Run and record a module as one operation."""
        inputs = [value for value in leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        versions = [version(value) for value in inputs]
        call = self.current
        around = call.parent.path if call.parent is not None else ""
        self._refuse_objects(call.path, around, (args, kwargs))
        with self.silence():
            borrows = any(
                self.own[id(part)] != _parameter_ids(part) for part in module.modules() if id(part) in self.own
            )
        if borrows:
            raise CannotFollow(around, f"it runs {call.path} with other parameters than its own (functional_call)")
        node = self.add("call_module", call.path, call.args, call.kwargs)
        with self.silence():
            result = original(module, *args, **kwargs)
        changed = [value for value, old in zip(inputs, versions, strict=True) if version(value) != old]
        if any(result is value for value in inputs) and not changed:
            result = result.clone()
        if changed and not (len(changed) == 1 and result is changed[0] and getattr(module, "inplace", False)):
            raise CannotFollow(around, f"{call.path} changes its input in place")
        if changed:
            self.written(result)
        self.learn(result, node)
        return result

    def inside(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module whose forward is followed."""
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
        """Within the block, nothing is recorded."""
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    @contextmanager
    def following(self, *, gradients: bool) -> Iterator[None]:
        """Within the block, what this thread runs is recorded."""

        def calling(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                inner = getattr(module, "_orig_mod", module)
                if self.quiet or id(inner) not in self.paths:
                    return original(module, *args, **kwargs)
                return self.run(inner, original, args, kwargs)

            return call

        def wanted(args: tuple[Any, ...]) -> bool:
            return not self.quiet and _holds_tensor(args)

        with (
            replaced_for(self.model.modules(), nn.Module, "__call__", calling),
            kept_whole(wanted, self.custom),
            self.reads.noted(),
            self.followed(gradients=gradients),
        ):
            yield


_OF_SEVERAL = {torch.Tensor.__contains__, torch.equal, torch.Tensor.equal, torch.allclose, torch.Tensor.allclose}
_SIZED_BY_VALUES = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "nms", "bincount"}


def _sized_by_values(target: Any) -> bool:
    """Whether the shape of a function's result may depend on the values of its arguments."""
    name = str(getattr(target, "__name__", ""))
    return name.split(".")[0] in _SIZED_BY_VALUES


def _asks_size(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(func.__self__, "__name__", "") == "shape"
    return name in ("size", "numel", "nelement", "__len__")


def _holds_tensor(tree: Any) -> bool:
    return any(isinstance(value, torch.Tensor) or _is_object_with_tensors(value) for value in leaves(tree))


def _is_object_with_tensors(value: Any) -> bool:
    """Whether a value is an object with tensors among its attributes (an image list)."""
    if isinstance(value, (torch.Tensor, nn.Module, type)) or not hasattr(value, "__dict__"):
        return False
    return any(isinstance(leaf, torch.Tensor) for leaf in leaves(list(vars(value).values())))


def _parameter_ids(module: nn.Module) -> list[int]:
    """The identities of a module's own parameters, also in scripted modules, which make a new object at each access."""
    return [0 if value is None else int(value._cdata) for _, value in module._parameters.items()]


def _memory(tensor: torch.Tensor) -> int:
    try:
        address: int = tensor.untyped_storage()._cdata
        return address
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one storage have elements in common."""
    if one.dtype is not other.dtype or one.layout is not torch.strided or other.layout is not torch.strided:
        return True
    marks = torch.zeros(one.untyped_storage().nbytes() // one.element_size(), dtype=torch.bool, device="cpu")
    marks.as_strided(one.size(), one.stride(), one.storage_offset()).fill_(True)
    return bool(marks.as_strided(other.size(), other.stride(), other.storage_offset()).any())


def _reads_only_shape(module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a module without parameters returns the same for other values, so that no data flows through it."""

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return ~leaf if leaf.dtype is torch.bool else leaf + 1

    def same(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf

    try:
        one = list(leaves(module.forward(*map_leaves(args, same), **map_leaves(kwargs, same))))
        two = list(leaves(module.forward(*map_leaves(args, other), **map_leaves(kwargs, other))))
    except Exception:  # it fails on other values, so it reads them
        return False
    tensors = [pair for pair in zip(one, two, strict=False) if isinstance(pair[0], torch.Tensor)]
    return len(one) == len(two) and bool(tensors) and all(a.shape == b.shape and a.equal(b) for a, b in tensors)


class _Example:
    """An example input as the arguments of a call, with its tensors by name."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        try:
            self.args, self.kwargs, by_name = arguments_by_name(model, example)
        except TypeError as error:
            kind = type(model).__name__
            raise TraceError(f"expected an example input that {kind}.forward takes, got: {error}") from None
        pairs = [pair for name, value in by_name.items() for pair in named_tensors(value, name)]
        self.tensors = dict(pairs)
        if not any(value.ndim for value in self.tensors.values()):
            raise TraceError(f"expected tensors in the example input, got {type(example).__name__}")
        self.names = {id(tensor): name for name, tensor in pairs}
        batched = [tensor for name, tensor in pairs if "." not in name and tensor.ndim]
        self.batch = batched[0].shape[0] if batched else None

    def with_other(self, other: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, Any, dict[str, torch.Tensor]]:
        """The arguments with each tensor replaced, and the replacements by name."""
        replacements = {name: other(tensor) for name, tensor in self.tensors.items()}

        def replaced(leaf: Any) -> Any:
            return replacements[self.names[id(leaf)]] if isinstance(leaf, torch.Tensor) else leaf

        return map_leaves(self.args, replaced), map_leaves(self.kwargs, replaced), replacements

    def again(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor for the second run: one more row, or other values if there is no batch (a list of images)."""
        if self.batch is None:
            return tensor.flip(-1) * 0.875 if tensor.is_floating_point() and tensor.ndim else tensor.clone()
        if not tensor.ndim or tensor.shape[0] != self.batch:
            return tensor.clone()
        rows = torch.arange(self.batch + 1, device="cpu") % self.batch
        return tensor.index_select(0, rows.to(tensor.device))


class _Followed(NamedTuple):
    """One run: its graph, whether Python's or NumPy's generators were used, and who read numbers off tensors."""

    program: Program
    drawn: bool
    float_reads: list[str]


def _run(recorder: _Recorder, call: Any, *, gradients: bool) -> Program:
    args, kwargs, tensors = call
    model = recorder.model
    placeholders: dict[str, fx.Node] = {}
    for name, tensor in tensors.items():
        placeholders[name] = recorder.add("placeholder", name.replace(".", "_"))
        recorder.learn(tensor, placeholders[name])
    with recorder.following(gradients=gradients):
        model(*args, **kwargs)
    recorder.root.output = map_nodes(recorder.root.output, recorder.readable)
    output = first_node(recorder.root.output)
    if output is None:
        raise TraceError("expected a model that returns a tensor, or a tuple or dict with one, got none in its output")
    recorder.graph.output(output)
    return Program(
        model, recorder.graph, recorder.root, placeholders, output, recorder.constants, dict(recorder.opaque), "record",
        recorder.reads.kept(), held_tensors=recorder.held.noted(),
    )  # fmt: skip


def _one_run(
    model: nn.Module,
    example: _Example,
    other: Callable[[torch.Tensor], torch.Tensor],
    opaque: dict[str, str],
    *,
    methods: bool,
    change: Change | None = None,
) -> _Followed:
    """The graph of one run, with gradients on if the model runs with them, so that regions without them are noticed."""
    problem: Exception | None = None
    for gradients in (True, False):
        with (
            preserved(model),
            checkpointing_bypassed(model),
            compiled_functions_bypassed(),
            torch.inference_mode(False),
            noticing_draws() as drawn,
        ):
            try:
                call = example.with_other(other)
                recorder = _Recorder(model, opaque, methods=methods, change=change)
                return _Followed(_run(recorder, call, gradients=gradients), drawn(), recorder.float_reads)
            except (TraceError, CannotFollow):
                raise
            except Exception as error:
                problem = problem or error
    given = "the example" if other is torch.clone else "the example with a row more, on which it is recorded too"
    advice = "; export it with a dynamic batch size (dynamic_shapes)" if exported_parts(model) else ""
    raise TraceError(f"the model fails on {given}: {type(problem).__name__}: {problem}{advice}") from problem


def record(model: nn.Module, example: Any) -> Program:
    """The graph of a model from runs on an example, at two batch sizes. Other threads may run the model meanwhile.

    Args:
        model: any module; it is left unchanged.
        example: tensor, tuple of positional or dict of keyword arguments, batch first; a list is one argument (images
            of different sizes), each item of which becomes a separate input.

    Raises:
        TraceError: the model fails on the example, or its operations depend on the batch size in a way
            that is not ``a * batch + b``, or on the values of the input.
    """
    given = _Example(model, example)
    load_symbolic_shapes()

    with MODEL_LOCK:
        try:
            return _recorded(model, given, methods=False)
        except TraceError:
            if not _own_methods(model):
                raise
            problem = sys.exc_info()[1]
        try:
            return _recorded(model, given, methods=True)
        except TraceError:
            raise problem from None  # type: ignore[misc]


def _recorded(model: nn.Module, given: _Example, *, methods: bool) -> Program:
    """Like `record`. With `methods`, single methods of a module can be closed where its forward cannot.

    That is tried only after plain recording has failed, so that few models have their methods intercepted.
    """

    def run(opaque: dict[str, str], other: Callable[[torch.Tensor], torch.Tensor], change: Change | None) -> _Followed:
        return _one_run(model, given, other, opaque, methods=methods, change=change)

    def both(opaque: dict[str, str]) -> tuple[Program, bool]:
        one, two = run(opaque, torch.clone, None), run(opaque, given.again, None)
        if one.float_reads:
            check_use_of_floats(
                one.program, one.float_reads[-1], lambda change: run(opaque, torch.clone, change).program
            )
        drawn = one.drawn or two.drawn
        if given.batch is not None:
            return with_batch_size(one.program, two.program, given.batch), drawn
        difference = first_difference(one.program, two.program)
        if difference is not None:
            raise CannotFollow(difference[0], f"its operations depend on the values of its input ({difference[1]})")
        return one.program, drawn

    return follow_with_opaque_modules(model, lambda opaque: same_for_other_seeds(lambda: both(opaque)))


def _own_methods(model: nn.Module) -> bool:
    """Whether a model's class has methods, besides those of nn.Module, that its forward may call."""
    names = {name for kind in type(model).__mro__ if not issubclass(nn.Module, kind) for name in vars(kind)}
    return any(callable(getattr(type(model), name)) and not hasattr(nn.Module, name) for name in names)
