"""Which network of the CIFAR family a state dict belongs to, from its keys and shapes.

Checkpoints of this library name the factory of their network. The CIFAR ResNets that people bring from elsewhere, among
them those that this project's reference numbers were measured on, have the same layer names but say nothing about their
architecture. Depth, widths, shortcut and block all show in the keys and shapes, so such a file loads without `NAME@`.
"""

from __future__ import annotations

import re

import torch

from ..choices import BlockKind, Shortcut
from ._settings import EXPANSION
from .cifar import CifarResNet, cifar_resnet


def inferred_network(state: dict[str, torch.Tensor]) -> CifarResNet | None:
    """The network of :func:`cifar_resnet` with these keys and shapes; None for another family.

    Example:
        >>> inferred_network(cifar_resnet(20, shortcut="B").state_dict()).arguments["shortcut"]
        'B'
        >>> inferred_network({"weight": torch.zeros(2, 2)}) is None
        True
    """
    blocks: dict[int, set[int]] = {}
    for key in state:
        if match := re.match(r"layer(\d+)\.(\d+)\.conv1\.weight$", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    counts = {len(positions) for positions in blocks.values()}
    entry = "conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"
    if not {entry, "linear.weight"} <= set(state) or len(counts) != 1:
        return None
    bottleneck = "layer1.0.conv3.weight" in state
    layers = 3 if bottleneck else 2
    last = [f"layer{stage}.0.conv{layers}.weight" for stage in range(1, len(blocks) + 1)]
    second = "layer1.0.conv2.weight"
    if any(key not in state or state[key].ndim != 4 for key in [entry, second, *last]):
        return None

    stem, widths = state[entry], tuple(state[key].shape[0] // EXPANSION[_kind(bottleneck)] for key in last)
    return cifar_resnet(
        layers * counts.pop() * len(blocks) + 2,
        num_classes=state["linear.weight"].shape[0],
        in_channels=stem.shape[1],
        preactivation="bn_last.weight" in state,
        shortcut=_option(state, blocks),
        block=_kind(bottleneck),
        widths=widths,
        stem="deep" if entry == "conv1.0.weight" else "7x7" if stem.shape[-1] == 7 else "3x3",
        groups=_groups(state[second])[0] if bottleneck else 1,
        group_width=_groups(state[second])[1] if bottleneck and state[second].shape[0] != widths[0] else None,
    )


def _kind(bottleneck: bool) -> BlockKind:
    return "bottleneck" if bottleneck else "basic"


def _groups(weight: torch.Tensor) -> tuple[int, int]:
    """The number and width of groups, from the weight (middle, middle / groups, 3, 3) of a bottleneck."""
    middle, width = weight.shape[:2]
    return middle // width, width


def _option(state: dict[str, torch.Tensor], blocks: dict[int, set[int]]) -> Shortcut:
    projected = {tuple(map(int, re.findall(r"\d+", key)[:2])) for key in state if ".shortcut." in key}
    if not projected:
        return "A"
    if any(key.endswith(".shortcut.1.weight") and value.ndim == 4 for key, value in state.items()):
        return "D"
    return "C" if len(projected) == sum(len(positions) for positions in blocks.values()) else "B"
