"""Taking the branches of blocks out of a real model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..data import ImageSource
from ..network import BlockRef, UnrolledNetwork, unroll
from .refit import Refitter
from .removal import without_blocks

Blocks = Sequence[BlockRef] | BlockRef


@checked
def drop_blocks(
    model: nn.Module | UnrolledNetwork,
    blocks: Blocks,
    *,
    refit: ImageSource | torch.Tensor | None = None,
    example_input: Any = None,
    inplace: bool = False,
) -> nn.Module:
    """A smaller, ordinary model without the branches of some blocks.

    Each block ``post(shortcut(x) + branch(x))`` becomes ``post(shortcut(x))``: what the network at a gate of 0
    computes, with the branch's parameters and time really gone (the lesion of Veit, Wilber and Belongie 2016,
    section 4.1). The innermost module whose forward makes the addition gets another forward; all else stays: classes
    (``isinstance``), attributes, methods, hooks, the keys of everything that is kept. Half of a module with two blocks
    (a transformer layer's attention) can be dropped too.

    The smaller model pickles, also to where this library is not installed, wherever the model's own classes can be
    imported; it copies, compiles, exports and trains as any model. Arguments that a changed module hands on to its
    parts (masks, caches) are used as they are given. An argument that decided what the module does (a flag, a mask that
    it asks about) must be as in the run that was followed, else the module raises a ``ValueError`` that names it. What
    a branch handed out beside its sum (attention maps) is returned as None.

    Args:
        model: any residual model, or its unrolled network.
        blocks: indices (negative from the end) or names of blocks. One inside another's branch vanishes with it.
        refit: images, without labels, on which the kept blocks are repaired in closed form; see :func:`refit_blocks`,
            which also tells what was chosen.
        example_input: see :func:`resnet_paths.unroll`; for models that cannot be traced symbolically.
        inplace: change the model itself; unroll it again afterwards.

    Returns:
        A copy of the model; with `inplace`, the model.

    Raises:
        BlockIndexError: there is no such block, or one is given twice.
        NotDroppableError: a block cannot be taken out; the message says why, and so does the table.
        UnrollError: the model cannot be copied.

    Cost: one copy of the model and one trace (none for an unrolled network); with `refit` see there.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.resnet18().eval()
        >>> smaller = drop_blocks(model, [1, "layer3.1"])
        >>> isinstance(smaller, torchvision.models.ResNet), sum(p.numel() for p in model.parameters())
        (True, 11689512)
        >>> sum(p.numel() for p in smaller.parameters())
        10434856
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    if refit is not None:
        return Refitter(net, refit)(blocks, inplace=inplace).model
    return without_blocks(net, net.indices(blocks), inplace=inplace)
