"""The input of the explorer, on the page and in notebooks: an exploration as one JSON text.

The module in ``templates/explorer.js`` reads it. Arrays are base64 of deflated little-endian numbers. Nothing that
can be derived is stored: accuracies, intervals, classes and images follow from which answers are wrong.

- ``switches``: indices of the n blocks that can be switched; ``blocks``: all, with name, stage, shortcut, the block in
  whose branch it stands (``inside``, or -1), and what goes with it: ``seconds``, ``parameters``, ``macs``;
- ``total``: the same three for the full network (seconds: the sum of all pieces, timed alone; macs: of one image);
- ``graph``: for each vertex of the :class:`~resnet_paths.paths.PathGraph` its block and ``[is_branch, sources]``;
- ``wrong``: (sets, images) bits, each set filled up to whole bytes, the first image lowest;
- ``losses``: (sets,) float32, means over the images;
- ``kept``: (sets, n) bits in the same form; null where all 2^n were measured, in the order of ``all_coalitions``;
- ``estimate``: rates, centre and (sets, images + 1) float16 coefficients of :class:`~resnet_paths.lesion.SetEstimate`;
  for the held-out sets, how many blocks they delete and the errors of their estimated accuracies;
- ``network``: where sets are estimated and the network is small, what computes them in the page
  (:mod:`resnet_paths.report.in_page`); otherwise null, and ``not_computed`` says why;
- ``pictures``: one picture of many small ones, and the place in it of each image that has one.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..arguments import checked
from ..data import ImageData
from ..data.thumbnails import thumbnails
from ..graph.inputs import placed
from ..imports import first_import
from ..lesion import Exploration, SetEstimate, stages
from ..network import UnrolledNetwork
from ..paths.block_graph import BRANCH, PathGraph, path_graph
from ..tradeoff import count_macs, count_parameters, latency_by_block, macs_by_block
from .deflated import deflated
from .in_page import NotInPageError, network_in_page

FORMAT = 1
_MOST_PICTURES = 96
_MOST_PIXELS = 40
_COLUMNS = 12


@checked
def explorer_data(
    net: UnrolledNetwork,
    data: ImageData,
    exploration: Exploration,
    *,
    model_code: str = "model",
    seconds: float = 0.01,
    batch: int = 32,
    in_page: bool = True,
) -> str:
    """The text that the explorer reads; the module's docstring describes it.

    Args:
        net: the network.
        data: the images of the exploration.
        exploration: by :func:`resnet_paths.lesion.explore`.
        model_code: the expression for the model in the line of code.
        seconds: minimum time to measure each piece of the network.
        batch: batch size for timing.
        in_page: whether the page is to compute sets that were not measured, if the network is small enough.

    Raises:
        ValueError: other images than those of the exploration.

    Cost: about ``3 n seconds``, two passes to count, and the cost of computing the network in the page.
    """
    if not np.array_equal(data.labels.cpu().numpy(), exploration.labels):
        raise ValueError(f"expected the {len(exploration.labels)} images of the exploration, got {data.name}")
    x = placed(data.normalised(data.images[:batch]), net.model)
    blocks, total = _blocks(net, x, seconds)
    content = {
        "format": FORMAT,
        "model_code": model_code,
        "classes": list(exploration.classes),
        "labels": exploration.labels.tolist(),
        "switches": list(exploration.blocks),
        "blocks": blocks,
        "total": total,
        "graph": _graph(path_graph(net)),
        **_sets(exploration),
        **_computed(net, data, exploration, total["macs"], in_page),
        "pictures": _pictures(data, exploration),
    }
    return json.dumps(content)


def _sets(exploration: Exploration) -> dict[str, Any]:
    return {
        "sets": len(exploration.kept),
        "kept": None if exploration.exhaustive else deflated(_bits(exploration.kept)),
        "wrong": deflated(_bits(exploration.wrong)),
        "losses": deflated(exploration.losses.mean(1, dtype=np.float64).astype(np.float32)),
        "estimate": None if exploration.estimate is None else _estimate(exploration.estimate),
    }


def _computed(
    net: UnrolledNetwork, data: ImageData, exploration: Exploration, macs: int, wanted: bool
) -> dict[str, Any]:
    """The network for the page's evaluator, or why there is none."""
    if not wanted or exploration.exhaustive:
        return {"network": None, "not_computed": None}
    try:
        return {"network": network_in_page(net, data, exploration, macs), "not_computed": None}
    except NotInPageError as error:
        return {"network": None, "not_computed": str(error)}


def _bits(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags, axis=1, bitorder="little")


def _estimate(estimate: SetEstimate) -> dict[str, Any]:
    return {
        "rates": estimate.rates.tolist(),
        "centre": estimate.centre.tolist(),
        "coefficients": deflated(estimate.coefficients),
        "deleted": estimate.deleted.tolist(),
        "errors": np.abs(estimate.estimated - estimate.measured).tolist(),
    }


def _blocks(net: UnrolledNetwork, x: torch.Tensor, seconds: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is drawn and counted for each block, and the totals."""
    latency, macs = latency_by_block(net, x, seconds=seconds), macs_by_block(net, x)
    inside, parameters = enclosing(net), [block.branch_parameters for block in net]
    for index, outer in enumerate(inside):
        if outer >= 0:  # a branch's parameters are those of the blocks in it too
            parameters[outer] -= net[index].branch_parameters
    names = stage_names([block.name for block in net], stages(net, x[:1]))
    blocks = [
        {
            "index": block.index,
            "name": block.name,
            "stage": names[block.index],
            "shortcut": block.shortcut,
            "inside": inside[block.index],
            "reason": block.reason,
            "seconds": latency.branch[block.index],
            "parameters": max(parameters[block.index], 0),
            "macs": macs[block.index] // len(x),
        }
        for block in net
    ]
    total = {
        "seconds": sum(latency.branch) + sum(latency.shortcut) + sum(latency.join) + latency.stem,
        "parameters": count_parameters(net.model),
        "macs": count_macs(net.model, x) // len(x),
    }
    return blocks, total


def enclosing(net: UnrolledNetwork) -> list[int]:
    """For each block, the innermost other block whose branch contains it, or -1."""
    n = len(net)
    outer = [-1] * n
    for index in reversed(range(n)):
        gates = [1.0] * n
        gates[index] = 0.0
        for other, gone in enumerate(net.segments.superfluous(gates)):
            if gone and other < index:
                outer[other] = index  # the last written, of the smallest index, is the innermost
    return outer


def stage_names(names: Sequence[str], runs: Sequence[Sequence[int]]) -> list[str]:
    """For each block, the name of its stage: the common prefix of its blocks' names, otherwise its number.

    Example:
        >>> stage_names(["layer1.0", "layer1.1", "layer2.0", "neck"], [[0, 1], [2], [3]])
        ['layer1', 'layer1', 'layer2', 'stage 3']
    """
    names_by_block = [""] * len(names)
    known: set[str] = set()
    for number, run in enumerate(runs, start=1):
        begin = {names[index].rpartition(".")[0].removeprefix("model.") for index in run}
        name = begin.pop() if len(begin) == 1 else ""
        if not name or name in known or len(name) > 8:
            name = f"stage {number}"
        known.add(name)
        for index in run:
            names_by_block[index] = name
    return names_by_block


def _graph(graph: PathGraph) -> list[Any]:
    return [
        [vertex.block, [[int(term.kind == BRANCH), list(term.sources)] for term in vertex.terms]]
        for vertex in graph.vertices
    ]


def _pictures(data: ImageData, exploration: Exploration) -> dict[str, Any]:
    """The images that deletions make the network misclassify most often, in one picture."""
    whole = len(exploration.kept) - 1 if exploration.exhaustive else 0
    often = exploration.wrong.mean(0) - exploration.wrong[whole]
    chosen = np.argsort(-often, kind="stable")[: min(_MOST_PICTURES, len(often))]
    images = data.images[torch.as_tensor(chosen.copy(), device=data.images.device)]
    pixels = thumbnails(images, _MOST_PIXELS)
    height, width = pixels.shape[1:3]
    rows = -(-len(pixels) // _COLUMNS)
    sheet = np.zeros((rows * height, _COLUMNS * width, 3), np.uint8)
    for position, image in enumerate(pixels):
        y, x = divmod(position, _COLUMNS)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return {
        "uri": _picture(sheet),
        "width": width,
        "height": height,
        "columns": _COLUMNS,
        "places": {str(image): position for position, image in enumerate(chosen.tolist())},
    }


def _picture(sheet: np.ndarray) -> str:
    """A data URI of the picture: PNG, or JPEG if that is much smaller."""
    with first_import("PIL"):
        from PIL import Image

    image, texts = Image.fromarray(sheet), {}
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        image.save(file, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
        texts[kind] = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return texts["PNG"] if len(texts["PNG"]) < 3 * len(texts["JPEG"]) else texts["JPEG"]
