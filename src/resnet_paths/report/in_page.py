"""The network and its images as the explorer's evaluator reads them, where they are small enough for a page.

Above 16 blocks not every set of blocks can be measured beforehand. Where weights and images are small, the page
computes the answers that it does not contain: `templates/evaluator.js` does the operations that
:mod:`resnet_paths.network.arithmetic` lists, on weights rounded to float16, in double precision. The effect of the
rounding is measured here, and the page checks its own arithmetic against PyTorch before it uses it.

- ``operations``: as listed, without their tensors; in place of each, its name and its shape;
- ``weights``: all tensors, one after another in the order of the operations, float16;
- ``images``: (images, channels, height, width), bytes or float16 (``pixels`` says which), and ``mean`` and ``std``;
- ``checks``: a few measured sets, with loss and errors of the rounded network by PyTorch in float64;
- ``agreement``: for how many of the answers of how many measured sets the rounded network is right or wrong like the
  network itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..data import ImageData
from ..graph.errors import UnrollError
from ..lesion import Exploration, measure_sets
from ..network import UnrolledNetwork
from ..network.arithmetic import NoArithmeticError, Operation, plain_operations
from ..network.half_precision import half_precision_copy
from .deflated import deflated

MOST_TEXT = 1_000_000
"""Characters that the network and the images may take up on the page: a third of a report's intended size."""
MOST_WORK = 4e9
"""Multiply-adds of one answer: some four seconds in a browser."""
PASSES = 30
"""The cost of the comparison, in passes of the original network: half a pass for each set, in float64."""
_SETS_COMPARED = 20
_CHECKS = 3


class NotInPageError(ValueError):
    """A network cannot be computed in the page; the message is the reason that the page gives."""


def network_in_page(net: UnrolledNetwork, data: ImageData, exploration: Exploration, macs: int) -> dict[str, Any]:
    """What the evaluator reads; the module's docstring describes it.

    Args:
        net: the network.
        data: the images of the exploration.
        exploration: its measured sets are what the rounded network is compared with.
        macs: multiply-adds of one image.

    Raises:
        NotInPageError: the network is too large or too slow for a page, or has an operation that the evaluator lacks.

    Cost: a copy of the model in float64, and about ten forward passes over the images.
    """
    check_size(net, data, macs)
    if any(parameter.device.type == "mps" for parameter in net.model.parameters()):
        raise NotInPageError("its device has no double precision to compare with; move the model to the CPU")
    images = half_precision_images(data)
    try:
        half = half_precision_copy(net)
        first = images.x[[0, min(1, len(images) - 1)]]  # arithmetic_of needs two images, even if there is only one
        steps = plain_operations(half, first.to(next(half.model.parameters()).device))
        rows = np.unique(np.linspace(0, len(exploration.kept) - 1, _SETS_COMPARED, dtype=int))
        kept = exploration.kept[rows]
        losses, wrong = measure_sets(half, images, kept, exploration.blocks, fast=False, progress=False)
    except (NoArithmeticError, UnrollError) as error:
        raise NotInPageError(str(error)) from error
    content = _network(steps) | _images(images) | {
        "checks": _checks(kept, losses.mean(1), wrong.sum(1)),
        "agreement": {
            "sets": len(rows),
            "answers": wrong.size,
            "alike": int((wrong == exploration.wrong[rows]).sum()),
        },
    }  # fmt: skip
    letters = sum(len(content[name]) for name in ("weights", "images"))
    if letters > MOST_TEXT:
        raise NotInPageError(_too_large(letters))
    return content


def _checks(kept: np.ndarray, losses: np.ndarray, errors: np.ndarray) -> list[dict[str, Any]]:
    """The first sets whose loss is finite: JSON has no other numbers."""
    rows = np.flatnonzero(np.isfinite(losses))[:_CHECKS]
    if not len(rows):
        raise NotInPageError("with weights rounded to float16, its loss is not finite")
    return [
        {"kept": kept[row].tolist(), "loss": float(losses[row]), "errors": int(errors[row])} for row in rows.tolist()
    ]


def check_size(net: UnrolledNetwork, data: ImageData, macs: int) -> None:
    """Refuse, before any work, what will not fit.

    Raises:
        NotInPageError: one answer takes too long in a browser, or the weights alone are too many.
    """
    if macs * len(data) > MOST_WORK:
        raise NotInPageError(
            f"one answer takes {macs * len(data) / 1e9:.0f} billion multiply-adds, and the page allows "
            f"{MOST_WORK / 1e9:.0f}"
        )
    letters = letters_of_weights(net)
    if letters > MOST_TEXT:
        raise NotInPageError(_too_large(letters))


def letters_of_weights(net: UnrolledNetwork) -> int:
    """The minimum size of the weights: two bytes each, and base64 turns three bytes into four characters."""
    return 8 * sum(parameter.numel() for parameter in net.model.parameters()) // 3


def _too_large(letters: int) -> str:
    return f"its weights and images take {letters / 1e6:.1f} MB, and the page allows {MOST_TEXT / 1e6:.0f}"


def half_precision_images(data: ImageData) -> ImageData:
    """The same images in float64, rounded to float16 if they are not bytes: those that the page holds.

    Raises:
        NotInPageError: a pixel is too large for float16.
    """
    if data.images.dtype == torch.uint8:
        return data.to(dtype=torch.float64)
    rounded = data.images.half()
    if not bool(torch.isfinite(rounded).all()):
        raise NotInPageError("its images have values that float16 cannot hold")
    return replace(data, images=rounded.double(), dtype=torch.float64)


def _network(steps: tuple[Operation, ...]) -> dict[str, Any]:
    """Operations and weights. The weights must be float16 already: what the page computes is what was measured."""
    rounded: list[np.ndarray] = []
    listed = []
    for step in steps:
        shapes = {}
        if not all(np.isfinite(value) for value in step.settings.values() if isinstance(value, float)):
            raise NotInPageError(f"its {step.does} has an infinite bound")
        for name, values in step.tensors.items():
            half = values.astype(np.float16)
            if not np.allclose(half, values, rtol=1e-12, atol=0):
                raise NotInPageError(f"its {step.does} has tensors that are not weights and cannot be rounded")
            rounded.append(half.ravel())
            shapes[name] = list(half.shape)
        listed.append({"does": step.does, "of": step.of, "shape": step.shape, "tensors": shapes} | step.settings)
    return {"operations": listed, "weights": deflated(np.concatenate(rounded))}


def _images(data: ImageData) -> dict[str, Any]:
    pixels = data.images.cpu()
    is_bytes = pixels.dtype == torch.uint8
    values = pixels.numpy() if is_bytes else pixels.numpy().astype(np.float16)
    return {
        "images": deflated(values),
        "pixels": "bytes" if is_bytes else "float16",
        "mean": list(data.mean),
        "std": list(data.std),
    }
