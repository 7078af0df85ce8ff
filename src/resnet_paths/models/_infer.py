"""Which network of the CIFAR family a state dict is of, from its keys and shapes."""

from __future__ import annotations

import re

import torch

from ._unit import Shortcut
from .cifar import CifarResNet, cifar_resnet


def inferred_network(state: dict[str, torch.Tensor]) -> CifarResNet | None:
    """The network of :func:`cifar_resnet` that has these keys and shapes; None where it is of another family.

    Example:
        >>> inferred_network(cifar_resnet(20, shortcut="B").state_dict()).arguments["shortcut"]
        'B'
        >>> inferred_network({"weight": torch.zeros(2, 2)}) is None
        True
    """
    units: dict[int, set[int]] = {}
    for key in state:
        if found := re.match(r"layer(\d+)\.(\d+)\.conv1\.weight$", key):
            units.setdefault(int(found[1]), set()).add(int(found[2]))
    counts = {len(places) for places in units.values()}
    if not {"conv1.weight", "linear.weight"} <= set(state) or len(counts) != 1:
        return None
    first = [f"layer{stage}.0.conv1.weight" for stage in range(1, len(units) + 1)]
    if any(key not in state or state[key].ndim != 4 for key in ["conv1.weight", *first]):
        return None

    stem, bottleneck = state["conv1.weight"], "layer1.0.conv3.weight" in state
    layers = 3 if bottleneck else 2
    return cifar_resnet(
        layers * counts.pop() * len(units) + 2,
        num_classes=state["linear.weight"].shape[0],
        in_channels=stem.shape[1],
        preactivation="bn_last.weight" in state,
        shortcut=_option(state, units),
        block="bottleneck" if bottleneck else "basic",
        widths=tuple(state[key].shape[0] for key in first),
        stem="7x7" if stem.shape[-1] == 7 else "3x3",
    )


def _option(state: dict[str, torch.Tensor], units: dict[int, set[int]]) -> Shortcut:
    projected = {tuple(map(int, re.findall(r"\d+", key)[:2])) for key in state if ".shortcut." in key}
    if not projected:
        return "A"
    return "C" if len(projected) == sum(len(places) for places in units.values()) else "B"
