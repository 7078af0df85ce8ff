"""The source text of a class that differs from another in its forward; see `written_class`.

``$signature``, ``$body`` and so on are filled in. The text may depend only on torch and the standard library, because
it is stored in the files of smaller models, which must load where this library is not installed.
"""

from string import Template

TEXT = Template("""\
import copyreg
import inspect
import pickle
from typing import Any

import torch
from torch.fx.graph_module import _forward_from_src
$imports

_unwritten = $unwritten
_blocks = $blocks
_classes = {}


def _holds(value, expected):
    kind, item = expected
    if kind == "any":
        return True
    if kind == "given":
        return value is not None
    if kind == "dict":
        return value.keys() == item.keys() and all(_holds(value[key], item[key]) for key in item)
    if kind == "tuple":
        return isinstance(value, (tuple, list)) and len(value) == len(item) and all(map(_holds, value, item))
    return value is item or (item is not None and not isinstance(value, torch.Tensor) and bool(value == item))


def _refuse(name, value, expected):
    kind, item = expected
    if kind == "dict":
        absent = ("is", "absent")
        wrong = [key for key in (*item, *value) if not (key in item and key in value and _holds(value[key], item[key]))]
        name, value, (kind, item) = wrong[0], value.get(wrong[0], "absent"), item.get(wrong[0], absent)
    needed = "something" if kind == "given" else repr(item) if kind == "is" else "as it was"
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:60]
    raise ValueError(
        f"expected {name}={needed}, as in the run that was traced to drop {_blocks}, got {got}; "
        f"drop the blocks again with an example_input in which {name} has that value"
    )


def _derived(base):
    if base in _classes:
        return _classes[base]
    _defaults = {name: one.default for name, one in inspect.signature(base.forward).parameters.items()}

    def forward($signature):
$body
    def extra_repr(self):
        own = base.extra_repr(self)
        return own + ", " + $note if own else $note

    def __reduce_ex__(self, protocol):
        reduced = object.__reduce_ex__(self, max(protocol, 2))
        if reduced[0] is not copyreg.__newobj__:
            raise pickle.PicklingError(f"expected a module that pickles by its attributes, got {base.__qualname__}")
        return (_Loader(), (base, *reduced[1][1:]), *reduced[2:])

    names = {"forward": forward, "extra_repr": extra_repr, "__reduce_ex__": __reduce_ex__, "_own_class": base}
    for name in ("__module__", "__qualname__", "__doc__"):
        names[name] = getattr(base, name)
    _classes[base] = type(base)(base.__name__, (base,), names)
    return _classes[base]


class _Loader:
    def __call__(self, base, *args):
        return base.__new__(_derived(base), *args)

    def __reduce__(self):
        if _unwritten:
            raise pickle.PicklingError("expected functions that can be imported, got " + ", ".join(_unwritten))
        return _forward_from_src, (_text, {"_text": _text})


def forward(base, *args):
    return _Loader()(base, *args)


forward.derived = _derived
""")
