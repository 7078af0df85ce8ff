"""Whether a Hessian is symmetric, as it must be: PyTorch's second derivatives of some layers are wrong.

A wrong derivative would go unnoticed in everything that is built on the product, and eigensolvers assume symmetry.
Comparing with finite differences would cost passes at every size of step; symmetry costs three products, once. Three
vectors make three pairs, so that a gap is not missed by one unlucky draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from ..draws import normal, seeded
from ..warned import warn

Product = Callable[[torch.Tensor], torch.Tensor]
_PROBES = 3
_NOTHING = 1e-9
"""A product with normal numbers below which the second derivatives of a loss are rounding, in float64 too."""


def check_symmetry(
    product: Product,
    model: nn.Module,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    like: torch.Tensor,
    exactly: Callable[[], Product] | None = None,
) -> None:
    """Refuse a matrix H with ``u'Hv`` other than ``v'Hu``, by three random vectors.

    With entries of variance 1 the gap is of the size of the antisymmetric part, ``|u'Hv - v'Hu| ~ |H - H'|``, and
    rounding makes it a few units in the last place of ``|Hu| + |Hv|``, whatever the number of parameters. Both
    weight norms of PyTorch 2 have a relative gap of 0.06 to 0.4. Half precision is not probed. Derivatives that are
    wrong but symmetric cannot be detected. A network that is certain of all its answers has second derivatives below
    the float32 rounding error of their terms: if they are symmetric in float64, the check passes with a warning.

    Args:
        product: H times vectors (P, K).
        model: whose parameters H is of.
        names: of these.
        shapes: of these.
        like: a parameter, for type and device.
        exactly: returns the product in float64; called only if the probe fails.

    Raises:
        ValueError: not symmetric; names the layers.

    Cost: three products; if the probe fails, two more for each layer, to find out which one is wrong.
    """
    tolerance = max(1e-6, 1e4 * torch.finfo(like.dtype).eps)  # 1e-3 in float32: a fiftieth of weight norms' gap
    sizes = [math.prod(shape) for shape in shapes]
    if tolerance > 0.01 or not sum(sizes) or asymmetry(product, sizes, range(len(names)), like) <= tolerance:
        return
    if _is_rounding(product, exactly, sizes, like):
        warn(
            f"the Hessian is smaller here than what {str(like.dtype).removeprefix('torch.')} rounds away (it is "
            "symmetric, or nearly zero, in float64, but not in the model's type): its numbers mean little; use "
            "model.double() and float64 data"
        )
        return
    layers: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        layers.setdefault(_owner(name), []).append(index)
    guilty = [layer for layer, indices in layers.items() if asymmetry(product, sizes, indices, like) > tolerance]
    kinds = sorted({_kind(model, layer) for layer in guilty}) or ["a layer that could not be identified"]
    places = f" ({', '.join(guilty[:3])}{', ...' if len(guilty) > 3 else ''})" if guilty else ""
    raise ValueError(
        f"expected a symmetric Hessian, got an asymmetric one: PyTorch's second derivatives of "
        f"{', '.join(kinds)}{places} are wrong; merge reparametrised weights "
        "(torch.nn.utils.parametrize.remove_parametrizations), or leave these parameters out (parameters=)"
    )


def _is_rounding(
    product: Product, exactly: Callable[[], Product] | None, sizes: Sequence[int], like: torch.Tensor
) -> bool:
    """Whether the asymmetry comes from rounding in the model's dtype, and not from a wrong layer.

    Then it is gone in float64, or smaller there by far; or the matrix itself is nearly zero there: derivatives of a
    softmax are differences of numbers near one.
    """
    everything = range(len(sizes))
    try:
        exact = product if exactly is None else exactly()
        wide = like.double()
        if exactly is not None:
            gap = asymmetry(exact, sizes, everything, wide)
            if gap <= 1e-6 or gap <= 1e-2 * asymmetry(product, sizes, everything, like):
                return True
        vector = normal((sum(sizes), 1), seeded(0)).to(like.device)
        return float(exact(vector.to(wide.dtype)).norm()) <= _NOTHING
    except (RuntimeError, TypeError):  # a loss with weights in float32, a device without float64
        return False


def asymmetry(product: Product, sizes: Sequence[int], indices: Sequence[int], like: torch.Tensor) -> float:
    """The largest ``|u'Hv - v'Hu| / (|Hu| + |Hv|)`` of random vectors on some parameters alone; 0 for a zero matrix."""
    generator = seeded(0)
    rows = torch.zeros(sum(sizes), _PROBES, dtype=torch.float64, device="cpu")
    starts = [sum(sizes[:index]) for index in indices]
    places = torch.cat(
        [torch.arange(start, start + sizes[i], device="cpu") for start, i in zip(starts, indices, strict=True)]
    )
    rows[places] = normal((len(places), _PROBES), generator)
    products = product(rows.to(like.device, like.dtype)).cpu().double()
    inside = products[places]
    gram, norms = rows[places].T @ inside, inside.norm(dim=0)
    gaps = (gram - gram.T).abs() / (norms[:, None] + norms[None, :]).clamp_min(1e-300)
    return float(gaps.max()) if bool(torch.isfinite(gaps).all()) else 0.0


def reparametrised(model: nn.Module) -> list[str]:
    """The kinds of reparametrisation in a model, such as weight norm."""
    kinds = set()
    for module in model.modules():
        if any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
            kinds.add("weight_norm")
        if is_parametrized(module):
            lists = module.parametrizations.values()  # type: ignore[operator]
            kinds |= {_plain_name(type(one).__name__) for several in lists for one in several}
    return sorted(kinds)


def _owner(name: str) -> str:
    """The module that a parameter belongs to; for a reparametrised one, the module whose weight it determines."""
    return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _kind(model: nn.Module, layer: str) -> str:
    module = model.get_submodule(layer)
    ways = reparametrised(module)
    return f"{', '.join(ways)} of {type(module).__name__}" if ways else type(module).__name__


def _plain_name(name: str) -> str:
    """``_WeightNorm`` as its function is called, ``weight_norm``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name.lstrip("_")).lstrip("_")
