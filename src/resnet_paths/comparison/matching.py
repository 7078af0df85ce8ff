"""Which blocks of several networks correspond.

Networks that share a family, a smaller network and its original, or checkpoints of one run give their blocks the same
names, and names say exactly what corresponds. Networks of different families do not. Their blocks are aligned in order,
as two sequences are: the pairs that keep the order of both networks and whose outputs are most similar in total (linear
CKA, which compares representations of different widths on the same images). An alignment says what corresponds best,
not that it corresponds well; so the similarity of each pair is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..arguments import checked
from ..graph.eval_mode import check_eval
from ..graph.inputs import placed
from ..graph.trees import leaves
from ..lesion.evaluate import Network
from ..lesion.predictors import centred_products, cka_of_products
from ..network import UnrolledNetwork

MatchedBy = Literal["first", "name", "similarity", "nothing"]


@dataclass(frozen=True, eq=False)
class BlockMatches:
    """Rows of corresponding blocks.

    Attributes:
        names: of each row, by the first network that has its block.
        indices: (networks, rows) the index of the block in each network; -1 where a network has none.
        similarity: (networks, rows) linear CKA of the block's output with that of the first network's block, for
            networks that were aligned by it; NaN otherwise.
        matched_by: for each network: ``"first"``, ``"name"``, ``"similarity"``, or ``"nothing"`` where a plain network
            shares no name with the others.
    """

    names: tuple[str, ...]
    indices: np.ndarray
    similarity: np.ndarray
    matched_by: tuple[MatchedBy, ...]


@checked
def match_blocks(networks: Sequence[Network], inputs: Sequence[Any]) -> BlockMatches:
    """Find the blocks that correspond in several networks.

    A network whose names agree with the rows found so far in at least half of its blocks (or of theirs, if those are
    fewer) is matched by name. Any other is aligned with the first network: among all pairings that keep both orders,
    the one whose sum of linear CKA (Kornblith et al. 2019) between outputs of paired blocks is largest. Blocks without
    a partner have rows of their own.

    Args:
        networks: in eval mode; the first is the reference.
        inputs: of each network, the same images, batch first.

    Returns:
        The rows, in the order of the first network; others' own blocks follow the block that precedes them there.

    Cost: nothing where names agree; otherwise one forward pass of each network, and n m products of two matrices of
    images by images.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> resnets = torchvision.models.resnet18, torchvision.models.resnet34
        >>> small, large = (unroll(make(num_classes=2).eval()) for make in resnets)
        >>> x = torch.randn(4, 3, 32, 32)
        >>> matches = match_blocks([small, large], [x, x])
        >>> matches.matched_by, matches.indices.shape
        (('first', 'name'), (2, 16))
    """
    rows: list[dict[int, int]] = [{0: index} for index in range(len(networks[0]))]
    names = [block.name for block in networks[0]]
    matched_by: list[MatchedBy] = ["first"]
    likeness: dict[tuple[int, int], float] = {}
    outputs: list[torch.Tensor] | None = None
    for number, net in enumerate(networks[1:], 1):
        own = [block.name for block in net]
        pairs = {index: names.index(name) for index, name in enumerate(own) if name in names}
        how: MatchedBy = "name"
        if 2 * len(pairs) < min(len(own), len(names)):
            pairs, how = {}, "nothing"
            if isinstance(net, UnrolledNetwork) and isinstance(networks[0], UnrolledNetwork):
                outputs = block_outputs(networks[0], inputs[0]) if outputs is None else outputs
                pairs, how = {}, "similarity"
                for index, first, value in _aligned(block_outputs(net, inputs[number]), outputs):
                    pairs[index] = next(row for row, blocks in enumerate(rows) if blocks.get(0) == first)
                    likeness[number, first] = value
        matched_by.append(how)
        _insert(rows, names, number, own, pairs)
    indices = np.array([[row.get(number, -1) for row in rows] for number in range(len(networks))])
    similarity = np.full(indices.shape, np.nan)
    for (number, first), value in likeness.items():
        similarity[number, int(np.flatnonzero(indices[0] == first)[0])] = value
    return BlockMatches(tuple(names), indices, similarity, tuple(matched_by))


def _insert(rows: list[dict[int, int]], names: list[str], number: int, own: list[str], pairs: dict[int, int]) -> None:
    """Enter a network's blocks into the rows; a block without a partner follows the one that precedes it."""
    partners = {index: rows[row] for index, row in pairs.items()}
    after = -1
    for index, name in enumerate(own):
        if index in partners:
            partners[index][number] = index
            after = next(row for row, blocks in enumerate(rows) if blocks is partners[index])
        else:
            after += 1
            rows.insert(after, {number: index})
            names.insert(after, name)


def block_outputs(net: UnrolledNetwork, x: Any) -> list[torch.Tensor]:
    """For each block, the centred products of its outputs (before the activation after the sum), (images, images).

    The products stand for the outputs in linear CKA, and take hardly any memory.
    """
    check_eval(net.model)
    images = len(next(leaf for leaf in leaves(x) if isinstance(leaf, torch.Tensor)))
    products = []
    with torch.inference_mode():
        state = net.stem(placed(x, net.model))
        while state.index < len(net):
            total = net.shortcut(state) + net.branch(state)
            values = total.reshape(images, -1).double()  # windows may share the batch's dimension
            products.append(centred_products(values).cpu())
            state = net.join(state, total)
    return products


def _aligned(own: list[torch.Tensor], reference: list[torch.Tensor]) -> list[tuple[int, int, float]]:
    """(own block, reference's block, similarity) of the best pairing in order (Needleman, Wunsch 1970)."""
    alike = np.array([[cka_of_products(one, other) for other in reference] for one in own])
    alike = np.nan_to_num(alike)  # outputs that are the same for all images have no similarity with any other
    best = np.zeros((len(own) + 1, len(reference) + 1))
    for i in range(1, len(own) + 1):
        for j in range(1, len(reference) + 1):
            best[i, j] = max(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1] + alike[i - 1, j - 1])
    pairs, i, j = [], len(own), len(reference)
    while i and j:
        if best[i, j] == best[i - 1, j - 1] + alike[i - 1, j - 1]:
            pairs.append((i - 1, j - 1, float(alike[i - 1, j - 1])))
            i, j = i - 1, j - 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
