"""Records of images computed in parts, as the record of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch

from ..records import Record

R = TypeVar("R", bound=Record)


def joined(records: Sequence[R], fields: Sequence[str], worst: Sequence[str] = ()) -> R:
    """The record of all images, from those of parts of them.

    Memory grows with the images of one part only. Fields that are not listed are taken from the first part.

    Args:
        records: of the parts, in order.
        fields: names of tensors whose last dimension is the images.
        worst: names of numbers of which the largest counts.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> from resnet_paths.paths import gradient_by_length
        >>> net, x = unroll(torchvision.models.resnet18(num_classes=5).eval()), torch.randn(3, 3, 32, 32)
        >>> parts = [gradient_by_length(net, x[:2], [0, 3]), gradient_by_length(net, x[2:], [1])]
        >>> joined(parts, ["norms"]).norms.shape
        torch.Size([9, 3])
    """
    tensors = {name: torch.cat([getattr(record, name) for record in records], -1) for name in fields}
    return cast(
        "R",
        replace(
            cast("Any", records[0]),
            **tensors,
            **{name: max(getattr(record, name) for record in records) for name in worst},
        ),
    )
