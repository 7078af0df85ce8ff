"""Drop the branches of blocks from a real model."""

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

    Each block ``post(shortcut(x) + branch(x))`` becomes ``post(shortcut(x))``. That is what the network computes at a
    gate of 0, but here the branch's parameters and run time are really gone (the lesion of Veit, Wilber and Belongie
    2016, section 4.1). The innermost module whose forward makes the addition gets another forward; everything else
    stays: classes (``isinstance``), attributes, methods, hooks, the keys of all that is kept. Half of a module with two
    blocks (a transformer layer's attention) can be dropped too.

    The smaller model can be pickled if the model can, and loads wherever the model's own classes can be imported, even
    without this library. It copies, compiles, exports and trains like any model. Arguments that a changed module passes
    on to its submodules (masks, caches) may have any value. An argument that decided what the module does (a flag, a
    mask that it compares with None) must be as in the traced run, otherwise the module raises a ``ValueError`` that
    names it.
    Whatever a branch returned besides its sum (attention maps) is returned as None.

    Args:
        model: any residual model, or its unrolled network.
        blocks: indices (negative from the end) or names of blocks. A block inside another's branch goes with it.
        refit: unlabelled images on which the remaining blocks are repaired in closed form; see :func:`refit_blocks`,
            which also reports how the repair was chosen.
        example_input: see :func:`resnet_paths.unroll`; for models that cannot be traced symbolically.
        inplace: whether to change the model itself; unroll it again afterwards.

    Returns:
        A copy of the model; with `inplace`, the model itself.

    Raises:
        BlockIndexError: there is no such block, or one is given twice.
        NotDroppableError: a block cannot be dropped; the message says why, and so does the table of blocks.
        UnrollError: the model cannot be copied.

    Cost: one copy of the model and one trace (none for an unrolled network); for `refit` see :func:`refit_blocks`.

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
