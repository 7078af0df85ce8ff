"""State dicts as people store them: under keys, with prefixes, next to other objects; one mechanism for all files.

Every training script has its own layout, and a table of scripts would never be complete. So the layout is inferred: of
all prefixes, the one under which most of the model's names are found is used. Equally good prefixes are an error, and
entries that were not read a warning. The lists of names only set the order of preference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..arguments import few
from ..warned import warn

State = dict[str, torch.Tensor]

ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module", "model_state", "weights", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "averaged")
_PREFIXES = ("", "model.", "net.", "network.", "module.", "backbone.", "encoder.")
_COUNTERS = ("total_ops", "total_params")  # buffers that profilers leave in every module


def state_in(content: Any, file: str, key: str | None = None) -> State:
    """The state dict in the content of a file.

    Args:
        content: a state dict, or dicts that contain one.
        file: the file's name, for messages.
        key: the entry that contains it, or the prefix of its names, if there are several.

    Raises:
        ValueError: there is none, or it is ambiguous which one is meant.
    """
    if key is not None and isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
        content, key = content[key], None
    while (entry := _entry(content, file)) is not None:
        content = content[entry]
    tensors = _tensors(content)
    if not tensors:
        holds = f" with {few(sorted(map(str, content)))}" if isinstance(content, Mapping) else ""
        raise ValueError(
            f"expected a state dict of tensors in {file}, got {type(content).__name__}{holds}; save "
            "model.state_dict(), or select the entry with key="
        )
    state = {plain_name(name): value for name, value in tensors.items()}
    if any(name.startswith("module.") for name in tensors):
        state.pop("n_averaged", None)  # the counter of an AveragedModel
    if key is not None:
        state = {name.removeprefix(f"{key}."): value for name, value in state.items() if name.startswith(f"{key}.")}
        if not state:
            raise ValueError(f"expected an entry {key!r} or names that start with it in {file}, got none")
    return state


def plain_name(name: str) -> str:
    """A parameter's name without the parts inserted by ``DataParallel`` and ``torch.compile``.

    Example:
        >>> plain_name("module._orig_mod.layer1._orig_mod.weight")
        'layer1.weight'
    """
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name).replace("._orig_mod.", ".")


@dataclass(frozen=True)
class Fit:
    """A state dict matched with a model's own.

    Attributes:
        state: the tensors that match by name, under the model's names.
        missing: names in the model but not in the state dict.
        extra: names in the state dict but not in the model.
        foreign: names in the state dict that belong to something other than the model: a criterion, a second network.
        shapes: names whose tensors have different shapes.
    """

    state: State
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    foreign: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the tensors of model and state dict match one to one, apart from foreign ones."""
        return not (self.missing or self.extra or self.shapes)

    def difference(self) -> str:
        """The mismatches, in words."""
        parts = (
            ("missing", self.missing),
            ("unexpected", self.extra + self.foreign),
            ("of another shape", self.shapes),
        )
        return "; ".join(f"{words}: {few(names)}" for words, names in parts if names)


def fit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], file: str) -> Fit:
    """Match a state dict with a model, whatever prefix its names have.

    Args:
        state: the state dict.
        own: the model's ``state_dict()``.
        file: the file's name, for messages.

    Raises:
        ValueError: two networks in the file fit equally well.
    """
    tensors = {plain_name(name): value for name, value in state.items()}
    names = {plain_name(name): name for name in own}
    prefix = _prefix(tensors, names, file)
    matched = {name: tensors[prefix + plain] for plain, name in names.items() if prefix + plain in tensors}
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in matched}

    used = {prefix + plain for plain in names}
    modules = {plain.split(".")[0] for plain in names}
    foreign: list[str] = []
    extra: list[str] = []
    for name in tensors:
        if name not in used:
            inner = name.removeprefix(prefix)
            elsewhere = not name.startswith(prefix) or inner.split(".")[0] not in modules
            (foreign if elsewhere or inner.split(".")[-1] in _COUNTERS else extra).append(name)
    return Fit(
        {**counters, **matched},
        tuple(name for name in own if name not in matched and name not in counters),
        tuple(extra),
        tuple(foreign),
        tuple(name for name, value in matched.items() if value.shape != own[name].shape),
    )


def say_foreign(found: Fit, file: str) -> None:
    """Warn about tensors that were not read."""
    if found.foreign:
        warn(
            f"{file} contains {len(found.foreign)} tensors that are not part of the model and were not read: "
            f"{few(found.foreign)}",
        )


def prefixes_of(state: Mapping[str, torch.Tensor], ending: str) -> list[str]:
    """The prefixes of a name in a state dict, shortest first.

    Example:
        >>> prefixes_of({"net.conv1.weight": torch.ones(1), "net.layer.conv1.weight": torch.ones(1)}, "conv1.weight")
        ['net.', 'net.layer.']
    """
    prefixes = {name.removesuffix(ending) for name in state if name == ending or name.endswith(f".{ending}")}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def _prefix(given: Mapping[str, torch.Tensor], names: Mapping[str, str], file: str) -> str:
    """The prefix of the model's names: the one that matches most of them."""
    counts: dict[str, int] = {"": sum(name in given for name in names)}
    for name in given:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[depth:]) in names:
                prefix = ".".join(parts[:depth]) + "."
                counts[prefix] = counts.get(prefix, 0) + 1
    highest = max(counts.values())
    equal = [prefix for prefix, count in counts.items() if count == highest]
    usual_prefixes = [prefix for prefix in _PREFIXES if prefix in equal]
    if usual_prefixes or len(equal) == 1 or highest < len(names):
        return usual_prefixes[0] if usual_prefixes else equal[0]
    raise ValueError(
        f"expected one network in {file}, got {len(equal)} that fit equally: {few(equal)}; select one with key="
    )


def _entry(content: Any, file: str) -> str | None:
    """The entry that contains a state dict, or dicts around one."""
    if not isinstance(content, Mapping):
        return None
    keys_with_states = [str(key) for key, value in content.items() if isinstance(key, str) and _leads_to_state(value)]
    known_keys = [key for key in (*ENTRIES, *AVERAGES) if key in keys_with_states]
    if not known_keys and (_tensors(content) or len(keys_with_states) != 1):
        return None
    entry = (known_keys or keys_with_states)[0]
    unused = [key for key in keys_with_states if key != entry and key in (*ENTRIES, *AVERAGES)]
    if unused:
        warn(f"{file}: read {entry!r}, not {few(unused)}; select another with key=")
    return entry


def _leads_to_state(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return bool(_tensors(value)) or any(_leads_to_state(value[key]) for key in (*ENTRIES, *AVERAGES) if key in value)


def _tensors(content: Any) -> State:
    """The tensors of a possible state dict, recognised by the names of parameters; {} if it is not one."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    named = any("." in name or name in ("weight", "bias") for name in tensors)
    return tensors if tensors and (named or len(tensors) == len(content)) else {}
