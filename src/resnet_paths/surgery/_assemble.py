"""A written body as an ordinary module over the parts of the module that it replaces."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ._body import Body

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip
_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout, F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}  # fmt: skip


def assembled(body: Body, module: nn.Module) -> nn.Module:
    """The module that runs a body on the parts of `module`, under the same names, with its hooks and train flags.

    ``nn.Identity`` where nothing is left to do, ``nn.Sequential`` for a chain of children, otherwise a
    ``torch.fx.GraphModule``.
    """
    graph = body.write()
    new = _dropout_as_modules(graph, module)
    made = _identity(graph) or _chain(graph, module, new) or _graph_module(graph, module, new, body.constants)
    made.training = module.training
    for table in _HOOKS:
        if table in module.__dict__:
            made.__dict__[table] = module.__dict__[table]
    return made


def copied_into(made: nn.Module, memo: dict[int, Any]) -> None:
    """Replace the parts of an assembled module, and its hooks, by copies."""
    for table in _HOOKS:
        if table in made.__dict__:
            made.__dict__[table] = copy.deepcopy(made.__dict__[table], memo)
    for target in targets(made.graph) if isinstance(made, fx.GraphModule) else list(made._modules):
        holder, name = _holder(made, target)
        for table in ("_modules", "_parameters", "_buffers"):
            if name in holder.__dict__[table]:
                holder.__dict__[table][name] = copy.deepcopy(holder.__dict__[table][name], memo)


def _holder(made: nn.Module, target: str) -> tuple[nn.Module, str]:
    path, _, name = target.rpartition(".")
    return made.get_submodule(path), name


def targets(graph: fx.Graph) -> list[str]:
    """The names of the parts that a graph uses, each once, in order; parts of such parts are left out."""
    used = dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr"))
    return [target for target in used if not any(target.startswith(f"{other}.") for other in used)]


def _dropout_as_modules(graph: fx.Graph, module: nn.Module) -> dict[str, nn.Module]:
    """Functional dropout becomes a module: pickling a graph makes the train flag that it reads a constant."""
    new: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        flag = node.args[2] if len(node.args) > 2 else node.kwargs.get("training")
        if node.target not in _DROPOUTS or not isinstance(flag, fx.Node) or flag.op != "get_attr":
            continue
        probability = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        value = node.args[0] if node.args else node.kwargs["input"]
        name = _free_name(module, new, node.name)
        new[name] = _DROPOUTS[node.target](probability)
        with graph.inserting_before(node):
            call = graph.create_node("call_module", name, (value,))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
        if not flag.users:
            graph.erase_node(flag)
    return new


def _free_name(module: nn.Module, new: dict[str, nn.Module], name: str) -> str:
    while hasattr(module, name) or name in new:
        name += "_"
    return name


def _identity(graph: fx.Graph) -> nn.Module | None:
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    alone = len(inputs) == 1 and not str(inputs[0].target).startswith("*")
    return nn.Identity() if alone and _result(graph) is inputs[0] else None


def _chain(graph: fx.Graph, module: nn.Module, new: dict[str, nn.Module]) -> nn.Module | None:
    """A chain of children, each called once on what the one before it gives."""
    first, *steps = [node for node in graph.nodes if node.op != "output"]
    names = [str(node.target) for node in steps]
    plain = first.op == "placeholder" and not str(first.target).startswith("*")
    if not plain or len(set(names)) < len(names) or any("." in name for name in names):
        return None
    previous = first
    for node in steps:
        if node.op != "call_module" or node.args != (previous,) or node.kwargs:
            return None
        previous = node
    if _result(graph) is not previous:
        return None
    parts = {**module._modules, **new}
    return nn.Sequential(OrderedDict((name, parts[name]) for name in names))  # type: ignore[misc]


def _graph_module(
    graph: fx.Graph, module: nn.Module, new: dict[str, nn.Module], constants: dict[str, torch.Tensor]
) -> nn.Module:
    root = nn.Module()
    root.__dict__.update(module.__dict__)
    root.__dict__["_modules"] = {**module._modules, **new}
    root.__dict__["_buffers"] = {**module._buffers, **constants}
    made = fx.GraphModule(root, graph, class_name=type(module).__name__)
    originals = dict(module.named_modules(remove_duplicate=False))
    for name, part in made.named_modules():
        original = originals.get(name)
        part.training = module.training if original is None else original.training
        if original is not None and part is not original:
            lasting = original._buffers.keys() - original._non_persistent_buffers_set
            part._non_persistent_buffers_set = set(part._buffers) - lasting
    return made


def _result(graph: fx.Graph) -> Any:
    return next(node for node in graph.nodes if node.op == "output").args[0]
