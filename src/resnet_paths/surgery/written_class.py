"""The class that a module gets when a block in it is dropped: like its own, but with another forward.

A module should stay what it was except for the dropped branch: its parent reads its attributes, calls its methods,
checks its class. So it becomes an instance of a class that is derived from its own, has the same name, and differs only
in ``forward``. The alternatives that we rejected:

- ``nn.Identity``, ``nn.Sequential`` and ``fx.GraphModule`` have none of the block's attributes, methods and classes.
- A forward stored on the instance would even preserve ``type(block)``, but whoever calls ``type(block).forward``
  (symbolic tracing does) would silently get the old one, and methods stored on an instance cannot be pickled.

Derived classes do not pickle by name. So a module of such a class pickles as (a text, its own class, its attributes).
The text is Python source that defines the class, and is run by the function with which torch itself loads a
``GraphModule``. A file thus needs torch and whatever the original model's file needs, but not this library. Since the
forward is not traced again on loading, output records keep their class and modules that refer to each other load.

What is lost: ``type(block) is Block`` (``isinstance`` works), methods that run a removed submodule, and a class's own
``__reduce__``, which would restore the undropped class (pickling then raises an error). A module that is an
``fx.GraphModule`` gets another graph instead, since its class is generated from the graph anyway.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import textwrap
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.fx import graph_module
from torch.package.importer import sys_importer

from ..graph.custom_functions import CustomFunction
from ..graph.forwarded_arguments import Given
from ..graph.rewriting import STARS, WrittenForward
from .class_text import TEXT

_PACKAGE = __name__.partition(".")[0]


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before anything was dropped in it."""
    kind: type[nn.Module] = type(module).__dict__.get("_own_class", type(module))
    return kind


def written_class(written: WrittenForward, blocks: list[str]) -> type[nn.Module]:
    """The class that a module gets.

    Args:
        written: its new forward.
        blocks: the names of the blocks dropped in it.
    """
    module = written.plan.site.module
    code = written.graph.python_code("self")
    imports, unwritten = _imports(code.globals)
    body = _checks(written.fixed) + code.src[code.src.index("\n", code.src.index("def forward(")) + 1 :]
    digest = hashlib.sha256((imports + body).encode()).hexdigest()[:8]
    text = TEXT.substitute(
        imports=imports,
        unwritten=sorted(unwritten),
        signature=_signature(module),
        body=textwrap.indent(body, "    "),
        blocks=repr(", ".join(blocks)),
        note=repr(f"without {', '.join(blocks)} (forward {digest})"),
    )
    run: Any = graph_module._forward_from_src
    make = run(text, {**unwritten, "_text": text}) if unwritten else _run_once(text)
    kind: type[nn.Module] = make.derived(own_class(module))
    return kind


@functools.cache
def _run_once(text: str) -> Any:
    """Run a source text once, however often blocks are dropped: torch keeps every text that it runs forever."""
    return graph_module._forward_from_src(text, {"_text": text})


def _signature(module: nn.Module) -> str:
    """The parameters of a forward, with their current defaults."""
    parts, kinds = ["self"], inspect.Parameter
    parameters = list(inspect.signature(module.forward).parameters.values())
    starred = False
    for position, parameter in enumerate(parameters):
        if parameter.kind is kinds.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or parameter.kind in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL)
        default = "" if parameter.default is parameter.empty else f"=_defaults.get({parameter.name!r})"
        parts.append(STARS.get(parameter.kind, "") + parameter.name + default)
        following = parameters[position + 1 : position + 2]
        if parameter.kind is kinds.POSITIONAL_ONLY and not (following and following[0].kind is parameter.kind):
            parts.append("/")
    return ", ".join(parts)


def _checks(fixed: dict[str, Any]) -> str:
    """Lines that refuse arguments for which the forward is not valid."""
    lines = []
    for name, value in fixed.items():
        expected = _expected(value)
        if value is None:
            lines.append(f"    if {name} is not None: _refuse({name!r}, {name}, {expected})\n")
        elif value is Given:
            lines.append(f"    if {name} is None: _refuse({name!r}, {name}, {expected})\n")
        else:
            lines.append(f"    if not _holds({name}, {expected}): _refuse({name!r}, {name}, {expected})\n")
    return "".join(lines)


def _expected(value: Any) -> str:
    """A value of the traced run as source text: ("is", value), or the kind of condition on it."""
    if value is Given:
        return '("given", None)'
    if isinstance(value, dict):
        return '("dict", {' + ", ".join(f"{key!r}: {_expected(item)}" for key, item in value.items()) + "})"
    if isinstance(value, (tuple, list)):
        return '("tuple", (' + "".join(f"{_expected(item)}, " for item in value) + "))"
    text = _literal(value)
    return '("any", None)' if text is None else f'("is", {text})'


def _literal(value: Any) -> str | None:
    """Source text for a constant; None if it has no literal."""
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    plain = value is None or isinstance(value, (bool, int, str, torch.dtype, torch.memory_format, torch.layout))
    finite = isinstance(value, (float, complex)) and math.isfinite(abs(value))
    return repr(value) if plain or finite else None


def _import(name: str, value: Any) -> str:
    """The line that imports a function; two lines for a custom autograd function, which pickles by its class."""
    if isinstance(value, CustomFunction):
        return f"{_import(f'{name}_class', value.function)}\n{name} = {name}_class.apply"
    return graph_module._format_import_statement(name, value, sys_importer)


def _imports(names: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Lines that define the functions called by the code, and the functions that cannot be imported."""
    lines, unwritten = [], {}
    for name, value in names.items():
        if isinstance(value, str):
            lines.append(f"{name} = {value!r}")
        elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == _PACKAGE:
            lines.append(f"{textwrap.dedent(inspect.getsource(value))}\n{name} = {value.__name__}")
        else:
            try:
                lines.append(_import(name, value))
            except Exception:  # the importer raises many kinds of errors for a name that it does not find
                unwritten[name] = value
    return "\n".join(sorted(lines)), unwritten
