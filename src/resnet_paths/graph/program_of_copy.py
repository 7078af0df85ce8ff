"""The program of a model's copy, from the program of the model.

Many analyses work on a copy of the user's model: with norms folded, with other statistics. Following the copy's forward
gives the same graph again, and takes as long as unrolling did (with an example, also the check against the model). So
the graph is copied, and each module in it replaced by its counterpart.

That is right only where nothing that the graph holds as a constant can be different in the copy: its tensors have the
same shapes, types and devices, its train flags are the same, plain attributes that the forward read have the same
values, and a module whose class or tensors were exchanged is a leaf, of which the graph sees only the call. Where one
of these does not hold, there is no such program, and the caller follows the copy's forward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .custom_functions import CustomFunction
from .errors import UnrollError
from .held_values import HeldTensor, check_unchanged
from .hooks import PostHooks, PreHooks
from .opaque_modules import ClosedMethod
from .program import ModuleCall, Program, map_nodes
from .trees import leaves

Counterparts = dict[fx.Node, fx.Node]
_CONSTANTS = (
    bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range, type,
    torch.dtype, torch.device, torch.layout, torch.memory_format, np.generic,
)  # fmt: skip
_NEVER = -2  # neither a tensor's version nor the -1 of tensors without one
_STATELESS = (
    type, MethodDescriptorType, WrapperDescriptorType, CustomFunction,
    type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor),
)  # fmt: skip


def program_of_copy(
    program: Program, model: nn.Module, exchanged: Collection[str] = ()
) -> tuple[Program, Counterparts] | None:
    """The program of a copy of a program's model, and the node of it for each node of the original.

    Args:
        program: the original; it is only read.
        model: the copy: the same modules by name, with tensors of any values.
        exchanged: names of modules that may have another class or other tensors.

    Returns:
        None where the copy's forward may do something else than the graph says.

    Cost: linear in the size of the graph.

    Example:
        >>> from resnet_paths.graph.tracing import trace
        >>> one, other = (nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2))
        >>> program, _ = program_of_copy(trace(one), other)
        >>> [node.op for node in program.graph.nodes]
        ['placeholder', 'call_module', 'call_module', 'output']
    """
    modules, originals = dict(model.named_modules()), dict(program.model.named_modules())
    if modules.keys() != originals.keys():
        return None
    exchanged_ids = {id(inner) for path in exchanged for inner in originals[path].modules()}
    if _differs(originals, modules, exchanged_ids) or not _hidden(program, exchanged_ids):
        return None
    paths = {id(module): path for path, module in originals.items()}
    try:
        return _Copying(program, model, paths, modules).result()
    except (KeyError, UnrollError):  # a module or node outside the model, or an attribute that differs
        return None


def _differs(originals: Mapping[str, nn.Module], modules: Mapping[str, nn.Module], exchanged: set[int]) -> bool:
    """Whether a module that was not exchanged has another class, another train flag or other kinds of tensors."""
    for path, original in originals.items():
        module = modules[path]
        if original.training != module.training:
            return True
        if id(original) in exchanged:
            continue
        if type(original) is not type(module) or _kinds(original) != _kinds(module):
            return True
    return False


def _kinds(module: nn.Module) -> dict[str, Any]:
    return {
        name: None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
    }


def _hidden(program: Program, exchanged: set[int]) -> bool:
    """Whether the graph sees nothing of the exchanged modules but calls of leaves."""
    if not exchanged:
        return True
    for call in program.root.walk():
        if id(call.module) in exchanged and not call.leaf:
            return False
    tensors = {
        id(tensor)
        for module in program.model.modules()
        if id(module) in exchanged
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    return tensors.isdisjoint(program.tensors_read())


class _Copying:
    """One copy in the making.

    Args:
        program: the original.
        model: the copy of its model.
        paths: the names of the original's modules, by identity.
        modules: the copy's modules by name.
    """

    def __init__(
        self, program: Program, model: nn.Module, paths: Mapping[int, str], modules: Mapping[str, nn.Module]
    ) -> None:
        self.program, self.model = program, model
        self.paths, self.modules = paths, modules
        self.nodes: Counterparts = {}
        self.calls: dict[int, ModuleCall] = {}

    def result(self) -> tuple[Program, Counterparts]:
        """The copy.

        Raises:
            KeyError: something in the graph is not the model's, or not known to be the same for a copy.
            UnrollError: a plain attribute differs.
        """
        before, graph = self.program, fx.Graph()
        held = tuple(attribute._replace(module=self.module(attribute.module)) for attribute in before.held_attributes)
        check_unchanged(held)
        held_tensors = tuple(self.held(tensor) for tensor in before.held_tensors)
        for node in before.graph.nodes:
            _check_constants(node)
            twin = graph.node_copy(node, self.nodes.__getitem__)
            twin.target, twin.name = self.target(node.target), node.name
            self.nodes[node] = twin
        root = self.call(before.root, None)
        # Only now, because the notes of a node refer to the calls just copied.
        for node, twin in self.nodes.items():
            twin.meta = {key: self.note(value) for key, value in node.meta.items()}
        program = replace(
            before, model=self.model, graph=graph, root=root, output=self.nodes[before.output], held_attributes=held,
            placeholders={name: self.nodes[node] for name, node in before.placeholders.items()},
            constants=self.constants(), opaque=dict(before.opaque), held_tensors=held_tensors,
        )  # fmt: skip
        return program, self.nodes

    def held(self, held: HeldTensor) -> HeldTensor:
        """The same for the copy's tensor, which must have the same values."""
        value = attrgetter(held.name)(self.model)
        # A version that no tensor has forces a comparison of the values. No view: `constants` clones what may share
        # memory.
        twin = replace(held, seen=(value, _NEVER), view=False)
        twin.check(value)
        return twin

    def constants(self) -> dict[str, torch.Tensor]:
        """The constants; copied where they may share memory with the model."""
        shared = any(held.view for held in self.program.held_tensors)
        return {name: t.clone() if shared else t for name, t in self.program.constants.items()}

    def module(self, module: nn.Module) -> nn.Module:
        return self.modules[self.paths[id(module)]]

    def target(self, target: Any) -> Any:
        if isinstance(target, (PreHooks, PostHooks)):
            return type(target)(self.module(target.module))
        if isinstance(target, ClosedMethod):
            return replace(target, module=self.module(target.module))
        if not isinstance(target, (str, *_STATELESS)) and not _is_stateless(target):
            raise KeyError(target)
        return target

    def call(self, call: ModuleCall, parent: ModuleCall | None) -> ModuleCall:
        args, kwargs, output = self.nest((call.args, call.kwargs, call.output))
        nodes = [self.nodes[node] for node in call.nodes if node in self.nodes]  # not those erased since
        twin = replace(
            call, module=self.module(call.module), parent=parent, args=args, kwargs=kwargs, output=output, nodes=nodes
        )
        self.calls[id(call)] = twin
        twin.children = [self.call(child, twin) for child in call.children]
        return twin

    def nest(self, tree: Any) -> Any:
        return map_nodes(tree, self.nodes.__getitem__)

    def note(self, value: Any) -> Any:
        if isinstance(value, ModuleCall):
            return self.calls[id(value)]
        return self.nodes.get(value) if isinstance(value, fx.Node) else value


def _check_constants(node: fx.Node) -> None:
    """Check that a node's arguments hold nothing but nodes and constants that a copy of the model shares.

    Raises:
        KeyError: they do.
    """
    for value in leaves((node.args, node.kwargs)):
        if not isinstance(value, (fx.Node, *_CONSTANTS)):
            raise KeyError(value)


def _is_stateless(function: Any) -> bool:
    """Whether a function refers to no module or tensor."""
    if isinstance(function, FunctionType):
        return all(_is_harmless(value) for value in _held_by(function))
    return isinstance(function, BuiltinFunctionType) and not isinstance(function.__self__, (nn.Module, torch.Tensor))


def _held_by(function: FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty
            continue


def _is_harmless(value: Any) -> bool:
    if isinstance(value, FunctionType):
        return value.__closure__ is None
    return isinstance(value, (*_CONSTANTS, tuple, list)) and all(isinstance(leaf, _CONSTANTS) for leaf in leaves(value))
