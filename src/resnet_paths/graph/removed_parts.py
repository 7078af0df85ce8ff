"""Which parts of a model go with the dropped branches, and how many parameters that saves.

A submodule goes when every one of its calls is gone: neither a rewritten forward nor any code that stays runs it. A
parameter that a forward reads directly follows the same rule. What the traced run never used stays, since other methods
of the module may need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from .drop_plan import SitePlan
from .drop_sites import calls_of
from .program import ModuleCall, Program, call_of

Slot = tuple[nn.Module, str]
"""A module, and the name of one of its submodules, parameters or buffers."""


@dataclass
class RemovedParts:
    """What goes, by the modules that hold it.

    Attributes:
        modules: submodules.
        tensors: parameters and buffers.
    """

    modules: list[Slot] = field(default_factory=list)
    tensors: list[Slot] = field(default_factory=list)


class Holdings:
    """What a model contains, and which calls of the traced run use it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.calls: dict[int, list[ModuleCall]] = {}
        for call in calls_of(program):
            self.calls.setdefault(id(call.module), []).append(call)
        self.reads: dict[int, list[fx.Node]] = {}
        for node in program.graph.nodes:
            if node.op == "get_attr":
                self.reads.setdefault(id(program.attribute(str(node.target))), []).append(node)
        modules = list(program.model.modules())
        self._holders = Counter(id(child) for module in modules for child in module._modules.values())
        self._slots = Counter(_address(value) for module in modules for value in module._parameters.values())

    def removed(self, plans: Sequence[SitePlan]) -> RemovedParts:
        """What goes when the plans are carried out.

        Cost: one traversal of the rewritten modules and their submodules.
        """
        return _Search(self, plans).removed()

    def parameters(self, removed: RemovedParts) -> int:
        """The number of parameters removed; a parameter that is also held elsewhere stays."""
        held, slots = Counter(), Counter()  # type: ignore[var-annotated]
        sizes: dict[int, int] = {}
        taken: set[tuple[int, str]] = set()  # a module that goes with all its parts is listed beside them

        def is_new(module: nn.Module, name: str) -> bool:
            before = len(taken)
            taken.add((id(module), name))
            return len(taken) > before

        def take_parameter(module: nn.Module, name: str) -> None:
            parameter = dict(module._parameters.items()).get(name)
            if parameter is not None and is_new(module, name):
                slots[_address(parameter)] += 1
                sizes[_address(parameter)] = parameter.numel()

        def take_module(module: nn.Module, name: str) -> None:
            child = module._modules[name]
            held[id(child)] += is_new(module, name)
            if child is not None and held[id(child)] == self._holders[id(child)]:
                for inner, _ in child._modules.items():
                    take_module(child, inner)
                for inner, _ in child._parameters.items():
                    take_parameter(child, inner)

        for slot in removed.modules:
            take_module(*slot)
        for slot in removed.tensors:
            take_parameter(*slot)
        return sum(size for key, size in sizes.items() if slots[key] == self._slots[key])


def _address(parameter: nn.Parameter | None) -> int:
    """The identity of a parameter, also in scripted modules, which create a new Python object at each access."""
    return 0 if parameter is None else int(parameter._cdata)


class _Search:
    def __init__(self, holdings: Holdings, plans: Sequence[SitePlan]) -> None:
        self.holdings, self.plans = holdings, {plan.site: plan for plan in plans}
        program = holdings.program
        written = [node for plan in plans for node in plan.operations if node.op == "get_attr"]
        self.read = {id(program.attribute(str(node.target))) for node in written}
        flags = [str(node.target).removesuffix("training").rstrip(".") for node in written if _is_flag(node)]
        self.asked = {id(program.module(path)) for path in flags}

    def removed(self) -> RemovedParts:
        removed = RemovedParts()
        for site in self.plans:
            self._visit(site.module, removed)
        return removed

    def _visit(self, holder: nn.Module, removed: RemovedParts) -> bool:
        """Record which parts of a module go; True if nothing of it is left."""
        parts = [(name, child) for name, child in holder._modules.items() if child is not None]
        tensors = [*holder._parameters.items(), *holder._buffers.items()]
        held = [(name, tensor) for name, tensor in tensors if tensor is not None]
        was_leaf = any(call.leaf for call in self.holdings.calls.get(id(holder), ()))
        remaining = 0
        for name, child in parts:
            if self._goes(child) or (not self._runs(child) and self._visit(child, removed)):
                removed.modules.append((holder, name))
            else:
                remaining += 1
        for name, tensor in held:
            if self._tensor_goes(tensor, was_leaf):
                removed.tensors.append((holder, name))
            else:
                remaining += 1
        return bool(parts or held) and not remaining and id(holder) not in self.asked

    def _goes(self, module: nn.Module) -> bool:
        """Whether a submodule was run, and neither it nor anything in it is still run or read."""
        if not self.holdings.calls.get(id(module)):
            return False
        for part in module.modules():
            tensors = (*part._parameters.values(), *part._buffers.values())
            if self._runs(part) or id(part) in self.asked or any(id(tensor) in self.read for tensor in tensors):
                return False
            if any(self._is_read_by_unchanged_code(tensor) for tensor in tensors):
                return False
        return True

    def _runs(self, module: nn.Module) -> bool:
        return any(self._stays(call) for call in self.holdings.calls.get(id(module), ()))

    def _tensor_goes(self, tensor: object, was_leaf: bool) -> bool:
        was_read = was_leaf or bool(self.holdings.reads.get(id(tensor)))
        return was_read and id(tensor) not in self.read and not self._is_read_by_unchanged_code(tensor)

    def _is_read_by_unchanged_code(self, tensor: object) -> bool:
        """Whether an unchanged forward reads a parameter or buffer directly."""
        return any(self._runs_unchanged(call_of(node)) for node in self.holdings.reads.get(id(tensor), ()))

    def _runs_unchanged(self, call: ModuleCall) -> bool:
        """Whether a call still runs its own, unchanged forward."""
        return call not in self.plans and self._stays(call)

    def _stays(self, call: ModuleCall) -> bool:
        """Whether a call is still made: every rewritten forward around it makes it, or makes a call around it."""
        below: list[ModuleCall] = []
        for current in call.ancestors():
            plan = self.plans.get(current)
            if plan is not None and below and not any(inner in plan.calls for inner in below):
                return False
            below.append(current)
        return True


def _is_flag(node: fx.Node) -> bool:
    return str(node.target).split(".")[-1] == "training"
