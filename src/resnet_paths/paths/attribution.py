"""Attribution of blocks with captum, whose methods for inputs are applied to the gates.

Beside `lesion`, whose Shapley values serve the same purpose with an evaluator that shares prefixes: captum has many
attribution methods, and users of captum know their properties. With the gates as inputs, none of them needs to know
about blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ..arguments import checked
from ..choices import Attribution
from ..draws import permutation, seeded
from ..graph.private_copy import private_use
from ..imports import first_import
from ..network import UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ._objective import check_eval, check_target

_ONE_SCORE = "; wrap the model in one that returns a score per class"


@checked
class GateForward(nn.Module):
    """A network as a function of gates, in the form that captum expects.

    Row b of the gates, (batch, n), holds the gates of example b. So every captum method for inputs can be applied to
    blocks: ``IntegratedGradients(GateForward(net)).attribute(gates, baselines, target, (x,))``.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> x = torch.randn(2, 3, 32, 32)
        >>> bool(torch.allclose(GateForward(net)(torch.ones(2, 8), x), net(x), atol=1e-5))
        True
    """

    def __init__(self, net: UnrolledNetwork) -> None:
        super().__init__()
        self._net = [net]

    def forward(self, gates: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The output, (batch, classes), for gates (batch, n) and inputs (batch, ...).

        Raises:
            ValueError: the shapes of gates and inputs do not match.
        """
        (net,) = self._net
        if gates.ndim != 2 or gates.shape[1] != len(net) or len(gates) != len(x):
            raise ValueError(
                f"expected gates of shape ({len(x)}, {len(net)}), one row per example, got {tuple(gates.shape)}"
            )
        state = net.stem(x)
        while state.index < len(net):
            shortcut, branch = net.shortcut(state), net.branch(state)
            gate = gates[:, state.index].to(branch.dtype).view(-1, *[1] * (branch.ndim - 1))
            state = net.join(state, shortcut + gate * branch)
        return state.value


@dataclass(frozen=True, eq=False)
class BlockAttribution(Record):
    """How much each block contributes to the target's logit, per example.

    Attributes:
        method: ``"integrated_gradients"``, ``"ablation"``, ``"shapley"`` or ``"conductance"``.
        blocks: the blocks' names, (n,).
        values: (n, batch).
        difference: the sum of the values for complete methods: the logit at gates of one minus that at gates of zero,
            (batch,); None for ablation and conductance.
        residual: ``max |sum - difference| / max |difference|``; None for ablation and conductance.
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {
        "values": "block example",
        "difference": "example",
    }
    COORDINATES: ClassVar = {"block": "blocks"}
    TABLE: ClassVar = ("values",)

    method: str
    blocks: tuple[str, ...]
    values: torch.Tensor
    difference: torch.Tensor | None
    residual: float | None
    source: Provenance = field(repr=False)


@checked
@torch.inference_mode(False)
def attribute_blocks(
    net: UnrolledNetwork,
    x: torch.Tensor,
    target: Any,
    *,
    method: Attribution = "integrated_gradients",
    steps: int = 50,
    draws: int = 25,
    seed: int = 0,
) -> BlockAttribution:
    """Attribute the target's logit to blocks by a captum method applied to the gates, from all zeros to all ones.

    - ``"integrated_gradients"``: ``int_0^1 dF(z 1)/dg_i dz``, by Gauss-Legendre quadrature. It sums to
      F(1) - F(0) up to the quadrature's error, `residual`.
    - ``"ablation"``: F(1) - F(1 with g_i = 0): the lesion of block i.
    - ``"shapley"``: the mean gain from adding block i over random orders; it sums to F(1) - F(0) (captum sums in
      single precision).

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, one tensor, batch first.
        target: class indices (batch,).
        method: one of these three.
        steps: number of quadrature points of integrated gradients.
        draws: number of orders for Shapley sampling.
        seed: seed of the orders; the global random state is not changed.

    Raises:
        ValueError: the method is unknown, the model is in training mode, or a target is out of range.

    Cost, by method: `steps` forward and backward passes; n + 1 forward passes; `draws` (n + 1) forward passes.

    Source: Sundararajan et al. (2017); Castro et al. (2009); Kokhlikyan et al. (2020) for captum.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> attribute_blocks(net, torch.randn(2, 3, 32, 32), [0, 3], method="ablation").values.shape
        torch.Size([8, 2])
    """
    with first_import("captum.attr"):
        from captum.attr import FeatureAblation, IntegratedGradients, ShapleyValueSampling  # imported late: it is slow

    check_eval(net)
    forward = GateForward(net)
    with torch.no_grad():
        full = net(x)
        classes = check_target(full, target, _ONE_SCORE)
        ones = full.new_ones((len(x), len(net)))
        empty = forward(torch.zeros_like(ones), x)
    options: dict[str, Any] = {"target": classes, "additional_forward_args": (x,)}
    with torch.device(full.device):  # captum creates tensors on the default device
        if method == "integrated_gradients":
            values = IntegratedGradients(forward).attribute(
                ones, torch.zeros_like(ones), n_steps=steps, internal_batch_size=len(x), **options
            )
        elif method == "ablation":
            with torch.no_grad():
                values = FeatureAblation(forward).attribute(ones, torch.zeros_like(ones), **options)
        else:
            sampling = ShapleyValueSampling(forward)
            sampling.permutation_generator = _orders_from(seed)  # captum's own generator uses the global random state
            with torch.no_grad():
                values = sampling.attribute(ones, torch.zeros_like(ones), n_samples=draws, **options)
    values = values.detach().T
    difference = (full - empty).gather(1, classes[:, None])[:, 0]
    sums = method != "ablation"
    gap = (values.sum(0) - difference).abs().max() / difference.abs().max()
    return BlockAttribution(
        method=method,
        blocks=tuple(block.name for block in net),
        values=values,
        difference=difference if sums else None,
        residual=float(gap) if sums else None,
        source=provenance(net.model, [x, classes], full.dtype, seed if method == "shapley" else None),
    )


def _orders_from(seed: int) -> Callable[[int, int], Iterator[list[int]]]:
    """A source of random orders of features that uses its own generator."""
    generator = seeded(seed)

    def orders(features: int, count: int) -> Iterator[list[int]]:
        return (permutation(features, generator).tolist() for _ in range(count))

    return orders


@checked
@torch.inference_mode(False)
def block_conductance(
    net: UnrolledNetwork, x: torch.Tensor, target: Any, *, baseline: torch.Tensor | float = 0.0, steps: int = 50
) -> BlockAttribution:
    """How much of the change in the target's logit flows through each block, by captum's layer conductance.

    The conductance of a block is ``int (dF/dy)(dy/dz) dz`` along the straight line from a baseline input to x,
    summed over the block's output y. In a chain every block lies on all paths to the output, so each block's
    conductance is F(x) - F(baseline) up to quadrature error. Where other paths bypass a block, it is the part that
    flows through the block. To split the change between blocks, use :func:`attribute_blocks`.

    Args:
        net: the unrolled network, its model in eval mode; every block must be a separate module.
        x: the model's input, one tensor, batch first.
        target: class indices (batch,).
        baseline: the input at which the line starts.
        steps: number of quadrature points.

    Raises:
        ValueError: a block is only part of a module, or as :func:`attribute_blocks`.

    Cost: `steps` forward and backward passes per block.

    Source: Dhamdhere et al. (2018).

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> block_conductance(net, torch.randn(1, 3, 32, 32), [0], steps=2).values.shape
        torch.Size([8, 1])
    """
    check_eval(net)
    with torch.no_grad():
        classes = check_target(net(x), target, _ONE_SCORE)
    modules: Mapping[str, nn.Module] = dict(net.model.named_modules())
    parts = [block.name for block in net if block.name not in modules or block.name != block.owner]
    if parts:
        raise ValueError(
            f"expected blocks that are modules of their own, got {parts[0]}, which is only part of one; use "
            "attribute_blocks, which needs no modules"
        )
    baseline = _checked_baseline(x, baseline)
    with first_import("captum.attr"):
        from captum.attr import LayerConductance  # imported late: it is slow

    values = []
    with private_use(net.model) as model:  # on the model itself, captum's hooks would see runs of other threads
        for block in net:
            method = LayerConductance(lambda x: net.followed(model(x)), model.get_submodule(block.name))
            neurons = method.attribute(x, baseline, target=classes, n_steps=steps, internal_batch_size=2 * len(x))
            values.append(neurons.detach().flatten(1).sum(1))
    stacked = torch.stack(values)
    return BlockAttribution(
        method="conductance",
        blocks=tuple(block.name for block in net),
        values=stacked,
        difference=None,
        residual=None,
        source=provenance(net.model, [x, classes], stacked.dtype),
    )


def _checked_baseline(x: torch.Tensor, baseline: torch.Tensor | float) -> torch.Tensor | float:
    """A baseline that captum accepts."""
    if isinstance(baseline, torch.Tensor):
        if baseline.shape[1:] != x.shape[1:] or len(baseline) not in (1, len(x)):
            raise ValueError(f"expected a baseline with the shape of x, {tuple(x.shape)}, got {tuple(baseline.shape)}")
        return baseline
    if abs(baseline) > torch.finfo(x.dtype).max:
        raise ValueError(f"expected a baseline within the range of {x.dtype}, got {float(baseline):g}")
    return float(baseline)  # an int may be too large for PyTorch
