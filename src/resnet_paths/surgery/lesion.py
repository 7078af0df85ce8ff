"""A model temporarily without the branches of some blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from ..arguments import checked
from ..graph.pieces import Segments
from ..graph.still_needed import needed_nodes
from ..graph.wrappers import unwrap
from ..network import NotDroppableError, UnrolledNetwork, unroll
from ..network.block import resolve_all
from .changed_modules import Changes, active_lesions
from .drop import Blocks


@checked
@contextmanager
def lesioned(model: nn.Module | UnrolledNetwork, blocks: Blocks, *, example_input: Any = None) -> Iterator[nn.Module]:
    """Within the context, the model itself runs without the branches of some blocks; afterwards it is as before.

    The modules that make the additions temporarily get another forward; modules, parameters, hooks and names all
    stay, so training within the context trains the model. Each forward and each train flag is restored, also after an
    exception. Contexts combine and may be left in any order, also from several threads (all of which see the
    combined effect of the open contexts). Arguments are treated as by :func:`resnet_paths.drop_blocks`.

    Args:
        model: any residual model, or its unrolled network.
        blocks: indices or names of blocks; if the model (not its network) is passed while lesioned, of those left.
        example_input: see :func:`resnet_paths.unroll`.

    Yields:
        The model.

    Raises:
        BlockIndexError: there is no such block, or one is given twice.
        NotDroppableError: a block cannot be dropped; the message says why.

    Cost: one trace (none for an unrolled network); no copy.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.surgery import drop_blocks
        >>> model = torchvision.models.resnet18().eval()
        >>> x = torch.randn(1, 3, 32, 32)
        >>> with lesioned(model, [3, 7]):
        ...     damaged = model(x)
        >>> torch.equal(damaged, drop_blocks(model, [3, 7])(x))
        True
    """
    net, indices = _resolved(model, blocks, example_input)
    changes = Changes(net, indices)
    changes.enter()
    try:
        yield net.model
    finally:
        changes.leave()


def _resolved(
    model: nn.Module | UnrolledNetwork, blocks: Blocks, example_input: Any
) -> tuple[UnrolledNetwork, list[int]]:
    """The network that contains the blocks, and their indices; for a lesioned model, the network of that lesion."""
    if isinstance(model, UnrolledNetwork):
        others = [changes for changes in active_lesions(model.model) if changes.net is not model]
        if others:
            raise NotDroppableError(
                "expected the model itself, or the unrolled network of the context around this one, got another "
                "unrolled network of a model that is already lesioned; pass the model"
            )
        return model, model.indices(blocks)
    active = active_lesions(unwrap(model))
    if not active:
        net = unroll(model, example_input)
        return net, net.indices(blocks)
    net = active[0].net
    plan = active[0].plan or net.segments
    remaining = _blocks_left([index for changes in active for index in changes.indices], plan)
    renumbered = [replace(net[index], index=position) for position, index in enumerate(remaining)]
    return net, [remaining[position] for position in resolve_all(renumbered, blocks)]


def _blocks_left(gone: list[int], plan: Segments) -> list[int]:
    """The blocks that a lesioned model still has: blocks in the branch of a removed one are gone too."""
    needed = needed_nodes(plan.program, [plan.cuts[index] for index in gone])
    return [index for index, cut in enumerate(plan.cuts) if index not in gone and cut.add in needed]
