"""Which parameters belong to which residual block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx, nn

from ..arguments import checked
from ..graph.blocks import parameters_of
from ..graph.pieces import Segments
from ..network import UnrolledNetwork


@checked
def block_parameters(model: nn.Module | UnrolledNetwork) -> dict[str, tuple[str, ...]]:
    """The names of the parameters that each residual block uses: branch, shortcut and the activation after the sum.

    Parameters that several blocks use are given to the first; those of stem and head belong to none.

    Args:
        model: an unrolled network.

    Raises:
        ValueError: a model that was not unrolled, or blocks without parameters.

    Cost: none; the graph is read.

    Example:
        >>> import torchvision
        >>> from resnet_paths import unroll
        >>> blocks = block_parameters(unroll(torchvision.models.resnet18().eval()))
        >>> blocks["layer1.0"][:2], "layer2.0.downsample.0.weight" in blocks["layer2.0"]
        (('layer1.0.conv1.weight', 'layer1.0.bn1.weight'), True)
    """
    if not isinstance(model, UnrolledNetwork):
        raise ValueError(
            f"expected an unrolled network, got {type(model).__name__}; call unroll(model) first, or give blocks="
        )
    plan = model.segments
    names = {id(parameter): name for name, parameter in model.model.named_parameters()}
    blocks: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for index, block in enumerate(model.blocks):
        nodes = _block_nodes(plan, index)
        used = {names[id(parameter)] for node in nodes for parameter in parameters_of(node, plan.program)} - taken
        blocks[block.name] = tuple(name for name in names.values() if name in used)
        taken |= used
    empty = [name for name, used_here in blocks.items() if not used_here]
    if empty:
        raise ValueError(f"expected parameters in each block, got none in {empty}; give blocks= without them")
    return blocks


def _block_nodes(plan: Segments, index: int) -> set[fx.Node]:
    """The operations of a block, with those that compute its weights from parameters or from side inputs."""
    cut = plan.cuts[index]
    nodes = {*cut.shortcut_nodes, *cut.branch_nodes, cut.add, cut.post}
    todo = list(nodes)
    while todo:
        for source in todo.pop().all_input_nodes:
            if source not in nodes and source not in plan.flow.carries:
                nodes.add(source)
                todo.append(source)
    return nodes


def check_blocks(model: nn.Module | UnrolledNetwork, blocks: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Blocks as given, each of parameters that exist.

    Raises:
        ValueError: a block is empty or names what the model does not have.
    """
    module = model.model if isinstance(model, UnrolledNetwork) else model
    known = {name for name, _ in module.named_parameters()}
    for block, names in blocks.items():
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(f"expected names of parameters in block {block!r}, got {unknown or 'none'}")
    if not blocks:
        raise ValueError("expected at least one block, got none")
    return {block: tuple(names) for block, names in blocks.items()}
