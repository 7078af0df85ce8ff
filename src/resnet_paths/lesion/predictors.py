"""Cheap predictors of the damage from deleting a block, computed from one pass or from the weights alone.

Deletions cost a forward pass per block and need labels. The question is which cheap score predicts their order;
`ranking` answers it. All scores that need a pass are taken from two passes together, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from ..data import ImageSource, as_data
from ..graph.inputs import placed
from ..network import UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..sweep.progress import reporter, tracked
from ..tables import data_frame
from .evaluate import quick

if TYPE_CHECKING:
    import pandas as pd

COSTS: dict[str, str] = {
    "branch_ratio": "1 forward",
    "block_influence": "1 forward",
    "norm_scale": "none",
    "taylor": "1 forward, 1 backward",
    "taylor_abs": "1 forward, 1 backward",
    "gradient_share": "1 forward, 1 backward",
    "logit_contribution": "1 forward, 1 backward",
    "cka": "1 forward",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class DamagePredictors(Record):
    """Scores of each block obtained without deleting it; larger means more expected damage.

    Attributes:
        names: the blocks.
        values: the scores of each predictor, (n,); NaN where it is not defined.
        per_image: the values per image of each predictor that is a mean over images, (n, images).
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {"values": "block"}
    COORDINATES: ClassVar = {"block": "names"}

    names: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    per_image: Mapping[str, np.ndarray]
    source: Provenance = field(repr=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per block, one column per predictor."""
        return data_frame({"block": range(len(self.names)), "name": self.names, **self.values})


@checked
@torch.inference_mode(False)
def damage_predictors(
    net: UnrolledNetwork,
    data: ImageSource,
    *,
    cka_images: int = 128,
    batch_size: int = 100,
    fast: bool = True,
    progress: bool = True,
) -> DamagePredictors:
    """Eight cheap predictors of the damage from single deletions, where s is a block's shortcut and b its branch.

    - ``branch_ratio``: ``‖b‖ / ‖s‖``, mean over images.
    - ``block_influence``: ``1 - cos(s, s + b)``, mean over images (Men et al. 2024, equation 1, where s is the input).
    - ``norm_scale``: mean absolute scale of the branch's last norm (Liu et al. 2017, section 3); needs no data.
    - ``taylor``: ``-dL/dg`` at a gate of one, the first-order change of the cross-entropy (Molchanov et al. 2017,
      section 2.2, with the gate as the parameter).
    - ``taylor_abs``: its absolute value, mean over images.
    - ``gradient_share``: the share of the loss's gradient at the block's entry that comes through the branch,
      ``‖Jᵀ G‖ / (‖Jᵀ G‖ + ‖Sᵀ G‖)``.
    - ``logit_contribution``: what b adds, through shortcuts alone, to the label's logit minus the mean logit
      (see :func:`resnet_paths.paths.block_contributions`).
    - ``cka``: one minus linear CKA between s and s + b (Kornblith et al. 2019, equation 4), on `cka_images` random
      images.

    Args:
        net: the network, in eval mode; its model is not changed.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        cka_images: number of images for CKA, all in memory at once; 0 leaves CKA out.
        batch_size: images per batch for the other predictors.
        fast: see :class:`StudyOptions`.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ValueError: there are fewer than two images for CKA.

    Cost: about 3 forward and 2 backward passes in total, whatever the number of blocks.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> predictors = damage_predictors(net, digits("test").subset(slice(0, 20)))
        >>> len(predictors.values), predictors.values["taylor"].shape
        (8, (27,))
    """
    data = as_data(data)
    if cka_images and min(cka_images, len(data)) < 2:
        raise ValueError(f"expected at least two images for CKA, got {min(cka_images, len(data))}; pass cka_images=0")
    runner = quick(net, fast)
    parts: list[dict[str, np.ndarray]] = []
    batches = math.ceil(len(data) / batch_size)
    with reporter(progress) as report:
        for x, labels in tracked(data.batches(batch_size), batches, "predictors", report):
            x = placed(x, net.model)
            labels = labels.to(x.device)
            parts.append({**_gradients(runner, x, labels), **_contributions(runner, x, labels)})
    per_image = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
    values = {name: by_image.mean(1) for name, by_image in per_image.items()}
    values["norm_scale"] = _norm_scales(net)
    if cka_images:
        values["cka"] = _cka(runner, placed(data.sample(cka_images).x, net.model))
    return DamagePredictors(
        names=tuple(block.name for block in net),
        values={name: values[name] for name in COSTS if name in values},
        per_image=per_image,
        source=provenance(net.model, data),
    )


def _gradients(net: UnrolledNetwork, x: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Norms and angles from the forward pass; gradients of gates, branches and shortcuts from the backward pass."""
    with torch.no_grad():
        state = net.stem(x)
    state = replace(state, value=state.value.detach().requires_grad_())
    gates = torch.ones(len(net), len(x), dtype=x.dtype, device=x.device, requires_grad=True)
    by_branch, by_shortcut, ratios, influences = [], [], [], []
    with torch.enable_grad():
        while state.index < len(net):
            copies = [state.value.view_as(state.value) for _ in range(2)]
            if not state.value.requires_grad:  # the entry depends on no earlier block: a learned token
                copies = [copy.detach().requires_grad_() for copy in copies]
            branch = net.branch(replace(state, value=copies[0]))
            shortcut = net.shortcut(replace(state, value=copies[1]))
            by_branch.append(copies[0])
            by_shortcut.append(copies[1])
            gate = gates[state.index].view(-1, *[1] * (branch.ndim - 1))
            total = shortcut + gate * branch
            ratios.append(_norm(branch) / _norm(shortcut))
            influences.append(1 - _flat(shortcut * total).sum(1) / (_norm(shortcut) * _norm(total)))
            state = net.join(state, total)
        loss = F.cross_entropy(state.value, labels, reduction="sum")
        gradients = torch.autograd.grad(
            loss, [gates, *by_branch, *by_shortcut], allow_unused=True, materialize_grads=True
        )
    through = [
        torch.stack([_norm(g) for g in part]) for part in (gradients[1 : len(net) + 1], gradients[len(net) + 1 :])
    ]
    taylor = -gradients[0]
    measured = {
        "branch_ratio": torch.stack(ratios),
        "block_influence": torch.stack(influences),
        "taylor": taylor,
        "taylor_abs": taylor.abs(),
        "gradient_share": through[0] / (through[0] + through[1]),
    }
    return {name: value.detach().double().cpu().numpy() for name, value in measured.items()}


def _contributions(net: UnrolledNetwork, x: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """The product of each branch with the margin's gradient that reaches it through shortcuts alone."""
    with torch.no_grad():
        state = net.stem(x)
    branches = []
    with torch.enable_grad():
        while state.index < len(net):
            with torch.no_grad():
                branch = net.branch(replace(state, value=state.value.detach()))
            branches.append(branch.detach().requires_grad_())
            state = net.join(state, net.shortcut(state) + branches[-1])
        logits = state.value
        margin = logits.gather(1, labels[:, None]).sum() - logits.mean(1).sum()
        gradients = torch.autograd.grad(margin, branches, allow_unused=True, materialize_grads=True)
    added = torch.stack([_flat(b.detach() * g).sum(1) for b, g in zip(branches, gradients, strict=True)])
    return {"logit_contribution": added.double().cpu().numpy()}


def _cka(net: UnrolledNetwork, x: torch.Tensor) -> np.ndarray:
    """One minus linear CKA between the stream without and with each branch, (n,), from matrices (images, images)."""
    values = []
    with torch.inference_mode():
        state = net.stem(x)
        while state.index < len(net):
            shortcut, branch = net.shortcut(state), net.branch(state)
            total = shortcut + branch
            values.append(1 - linear_cka(shortcut, total))
            state = net.join(state, total)
    return np.array(values)


@checked
def linear_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same images (Kornblith et al. 2019, equation 4).

    ``‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)`` of centred features, computed from the matrices ``XXᵀ`` and ``YYᵀ``.

    Args:
        one: a representation, (images, ...).
        other: another one, (images, ...).

    Raises:
        ValueError: the numbers of images differ.

    Example:
        >>> x = torch.randn(10, 4)
        >>> round(linear_cka(x, 3 * x), 5)
        1.0
    """
    if len(one) != len(other) or not one.numel() or not other.numel():
        raise ValueError(
            f"expected two representations of the same images, got {tuple(one.shape)} and {tuple(other.shape)}"
        )
    return cka_of_products(centred_products(_flat(one)), centred_products(_flat(other)))


def centred_products(values: torch.Tensor) -> torch.Tensor:
    """The products of centred features of images, (images, images) from (images, features), in double precision.

    They are all that linear CKA needs of a representation, however wide it is.
    """
    centred = values - values.mean(0)
    return (centred @ centred.T).double()


def cka_of_products(one: torch.Tensor, other: torch.Tensor) -> float:
    """Linear CKA from the products of two representations; NaN if one of them is the same for all images."""
    return float((one * other).sum() / (one.norm() * other.norm()))


def _norm_scales(net: UnrolledNetwork) -> np.ndarray:
    """The mean absolute scale of each branch's last norm with a scale, (n,); NaN if there is none."""
    scales = np.full(len(net), np.nan)
    plan = net.segments
    for index, cut in enumerate(plan.cuts):
        for node in sorted(cut.branch_nodes, key=plan.flow.order.__getitem__):
            module = plan.program.model.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, _NORMS) and isinstance(module.weight, torch.Tensor):
                scales[index] = float(module.weight.detach().abs().mean())
    return scales


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(len(value), -1)


def _norm(value: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = _flat(value).norm(dim=1)
    return norms
