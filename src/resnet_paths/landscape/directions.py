"""Directions in parameter space: random and normalised, between checkpoints, or given.

A surface is only as informative as its directions. Weights before a norm may be scaled without any effect, so a step of
fixed length is large for one network and small for another; rescaling a draw to each filter's own norm makes surfaces
comparable (Li et al. 2018, section 4). For twins, with and without shortcuts, that is not enough: they also need the
same draw, and a draw from one generator for all tensors would shift with the first tensor that one of them lacks. So
each tensor has its own generator, seeded by the seed, the tensor's name and its shape.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..arguments import checked
from ..choices import Normalise
from ..draws import normal, seeded
from ..files import existing_file, whole_file
from ..graph.wrappers import unwrap
from ..sweep.fingerprints import deciding

Include = Literal["weights", "all"] | Callable[[str, torch.Tensor], bool]

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.Bilinear)
_NORMALISE = ("filter", "layer", "model", "none")


@checked
@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in the space of a model's parameters.

    Attributes:
        tensors: for each parameter that moves, by its name, a tensor of its shape; all others stay.
        kind: how it was made, such as ``random filter`` or ``between``.
        seed: of the draw, if there was one.
        facts: further facts about it, such as the share of variance that it explains.
    """

    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    kind: str = "given"
    seed: int | None = None
    facts: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frozen = {name: tensor.detach() for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", MappingProxyType(frozen))
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))

    @property
    def norm(self) -> float:
        """The Euclidean norm over all parameters."""
        return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in self.tensors.values()))

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        return deciding(
            self, aside={"kind", "seed", "facts"}, tensors=dict(self.tensors)
        )  # its origin does not affect values

    def __reduce__(self) -> tuple[object, ...]:
        return Direction, (dict(self.tensors), self.kind, self.seed, dict(self.facts))


@checked
def random_direction(
    model: nn.Module, *, seed: int = 0, normalise: Normalise = "filter", include: Include = "weights"
) -> Direction:
    """A random Gaussian direction, rescaled to the model's own weights.

    ``d_f <- d_f / ‖d_f‖ ‖θ_f‖`` for each filter f (Li et al. 2018, section 4); ``layer`` normalises each tensor
    instead of each filter, ``model`` all of them together, and ``none`` leaves the draw
    unchanged. A filter is what makes
    one output: a row of a linear weight, a slice along the output channels of a convolution. Norm parameters, biases
    and other vectors have no filters: by default they do not move, and with ``include="all"`` each is rescaled as one
    filter.

    The draw of a tensor follows from the seed and its name and shape alone, so that networks with and without skip
    connections get the same draw wherever both have the parameter. Use a different seed for each direction.

    Args:
        model: the model; it is not changed.
        seed: of the draw.
        normalise: filter, layer, model or none.
        include: ``weights`` (of convolutions, linear layers and embeddings, and other parameters with two dimensions
            or more that are larger than 1), ``all``, or a function of name and parameter.

    Returns:
        The direction, on the model's device and in its dtype.

    Raises:
        ValueError: an unknown choice, or a model without such parameters.

    Cost: one Gaussian draw per parameter, no forward pass.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> direction = random_direction(layer, seed=1)
        >>> list(direction.tensors)
        ['weight']
        >>> bool(torch.allclose(direction.tensors["weight"].norm(dim=1), layer.weight.norm(dim=1)))
        True
    """
    if normalise not in _NORMALISE:
        raise ValueError(f"expected normalise 'filter', 'layer', 'model' or 'none', got {normalise!r}")
    model = unwrap(model)
    owners = _owners(model)
    moved = {name: p.detach() for name, p in model.named_parameters() if _included(name, p, owners[name], include)}
    if not moved:
        raise ValueError(
            f"expected parameters to move, got none in {type(model).__name__} with include={include!r}; "
            "use include='all', or a function of name and parameter"
        )
    drawn = {name: _draw(seed, name, tensor) for name, tensor in moved.items()}
    if normalise == "model":
        scale = math.sqrt(_square(moved) / _square(drawn))
        scaled = {name: tensor * scale for name, tensor in drawn.items()}
    elif normalise == "none":
        scaled = drawn
    else:
        scaled = {name: _rescaled(drawn[name], moved[name], owners[name], normalise) for name in moved}
    tensors = {name: scaled[name].to(moved[name].device, moved[name].dtype) for name in moved}
    return Direction(tensors, f"random {normalise}", seed)


@checked
def direction_between(start: nn.Module, end: nn.Module | Mapping[str, torch.Tensor]) -> Direction:
    """From a model's parameters to those of another checkpoint: 0 is the model, 1 the checkpoint.

    Buffers, such as batch norm's running statistics, are not parameters and do not move: see the choice of
    ``batchnorm`` in :func:`loss_surface`.

    Args:
        start: the model at coordinate 0.
        end: a model of the same parameters, or its state dict.

    Raises:
        ValueError: a parameter is missing at the other end, or has another shape.

    Example:
        >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> step = direction_between(a, b)
        >>> bool(torch.allclose(a.weight + step.tensors["weight"], b.weight))
        True
    """
    there = dict(unwrap(end).named_parameters()) if isinstance(end, nn.Module) else dict(end)
    here = dict(unwrap(start).named_parameters())
    missing = [name for name, p in here.items() if name not in there or there[name].shape != p.shape]
    if missing:
        raise ValueError(
            f"expected the parameters of {type(start).__name__} at the other end too, got none of this name and shape "
            f"for {missing[:3]}; give a checkpoint of the same model"
        )
    steps = {name: (there[name].detach().to(p.device).double() - p.detach().double()).to(p.dtype)
             for name, p in here.items()}  # fmt: skip
    return Direction(steps, "between")


@checked
def direction_from(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor] | torch.Tensor,
    *,
    kind: str = "given",
    facts: Mapping[str, float | int | str] | None = None,
) -> Direction:
    """A direction from your own tensors by name, or from one vector over all parameters in order.

    Args:
        model: the model whose parameters it moves.
        tensors: for some of the parameters; or a vector, as ``torch.nn.utils.parameters_to_vector`` lays it out.
        kind: what it is.
        facts: further facts to keep with it.

    Raises:
        ValueError: an unknown name, a wrong shape or length.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> direction_from(layer, torch.arange(3.0)).tensors["bias"]
        tensor([2.])
    """
    parameters = dict(unwrap(model).named_parameters())
    if isinstance(tensors, torch.Tensor):
        sizes = [p.numel() for p in parameters.values()]
        if tensors.ndim != 1 or len(tensors) != sum(sizes):
            raise ValueError(f"expected a vector of {sum(sizes)} parameters, got shape {tuple(tensors.shape)}")
        tensors = {
            name: part.view(parameters[name].shape) for name, part in zip(parameters, tensors.split(sizes), strict=True)
        }
    if not tensors:
        raise ValueError("expected the tensors of at least one parameter, got none")
    for name, tensor in tensors.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            wanted = tuple(parameters[name].shape) if name in parameters else f"one of {list(parameters)[:3]}..."
            raise ValueError(f"expected for {name!r}: {wanted}, got shape {tuple(tensor.shape)}")
    own = {
        name: tensor.detach().to(parameters[name].device, parameters[name].dtype) for name, tensor in tensors.items()
    }
    return Direction(own, kind, None, dict(facts or {}))


@checked
def shared_direction(direction: Direction, model: nn.Module) -> Direction:
    """The part of a direction that another model has too: its parameters of the same names and shapes.

    This is how a lesioned network keeps the full network's directions; ``facts["left_out"]`` counts the tensors that
    it lacks. The scale is the first model's: see :func:`random_direction` for twins on their own scale.

    Raises:
        ValueError: the model has none of them.

    Example:
        >>> direction = random_direction(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        >>> shared_direction(direction, nn.Sequential(nn.Linear(2, 2))).facts["left_out"]
        1
    """
    parameters = dict(unwrap(model).named_parameters())
    kept = {
        name: tensor.to(parameters[name].device, parameters[name].dtype)
        for name, tensor in direction.tensors.items()
        if name in parameters and parameters[name].shape == tensor.shape
    }
    if not kept:
        raise ValueError(
            f"expected a model with parameters of the direction, got none of {list(direction.tensors)[:3]}"
        )
    left_out = len(direction.tensors) - len(kept)
    return Direction(kept, direction.kind, direction.seed, {**direction.facts, "left_out": left_out})


@checked
def cosine(one: Direction, other: Direction) -> float:
    """The cosine between two directions over all parameters: 0 for orthogonal ones.

    Two random directions of many parameters are almost orthogonal; this says how nearly.

    Example:
        >>> direction = random_direction(nn.Linear(3, 2))
        >>> round(cosine(direction, direction), 6)
        1.0
    """
    common = one.tensors.keys() & other.tensors.keys()
    product = sum(_dot(one.tensors[name], other.tensors[name]) for name in sorted(common))
    norms = one.norm * other.norm
    return product / norms if norms else math.nan


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    """A direction from a file is on the CPU; one made from a model is on the model's device."""
    return float((one.double() * other.to(one.device).double()).sum())


@checked
def save_direction(direction: Direction, path: str | Path) -> Path:
    """Write a direction as a safetensors file, with its kind, seed and facts."""
    target = Path(path)
    facts = {"kind": direction.kind, "seed": direction.seed, "facts": dict(direction.facts)}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in direction.tensors.items()}
    with whole_file(target) as partial:
        save_file(tensors, str(partial), {"direction": json.dumps(facts)})
    return target


@checked
def load_direction(path: str | Path) -> Direction:
    """Read a file written by :func:`save_direction`.

    Raises:
        ValueError: a file of something else.
    """
    source = existing_file(path, "a direction")
    try:
        with safe_open(str(source), framework="pt") as file:
            facts = (file.metadata() or {}).get("direction")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"expected a direction in {source.name}, which cannot be read: {error}") from error
    if facts is None:
        raise ValueError(f"expected a direction, got {source.name}, which does not say that it holds one")
    try:
        return Direction(tensors, **json.loads(facts))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected a direction in {source.name}, whose description is altered: {error}") from error


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module that holds each parameter, by the parameter's name."""
    return {name: model.get_submodule(name.rpartition(".")[0]) for name, _ in model.named_parameters()}


def _included(name: str, parameter: torch.Tensor, owner: nn.Module, include: Include) -> bool:
    if callable(include):
        return bool(include(name, parameter))
    if include not in ("weights", "all"):
        raise ValueError(f"expected include 'weights', 'all' or a function, got {include!r}")
    return include == "all" or _has_filters(name, parameter, owner)


def _has_filters(name: str, parameter: torch.Tensor, owner: nn.Module) -> bool:
    if isinstance(owner, _WEIGHTED):
        return name.rpartition(".")[2] == "weight"
    norm = "norm" in type(owner).__name__.lower()
    return not norm and sum(size > 1 for size in parameter.shape) >= 2


def _filters(
    parameter: torch.Tensor, owner: nn.Module, normalise: Normalise
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape to view the parameter in, and the dimensions within one filter (all: it counts as a whole)."""
    shape = tuple(parameter.shape)
    everything = tuple(range(parameter.ndim))
    if normalise == "layer" or parameter.ndim < 2 or "norm" in type(owner).__name__.lower():
        return shape, everything
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):  # weights are (inputs, outputs / groups, ...)
        grouped = (owner.groups, shape[0] // owner.groups, *shape[1:])
        return grouped, tuple(axis for axis in range(len(grouped)) if axis not in (0, 2))
    return shape, everything[1:]


def _draw(seed: int, name: str, like: torch.Tensor) -> torch.Tensor:
    """Standard normal, float64, from the seed, the name and the shape alone."""
    digest = hashlib.blake2b(f"{seed}|{name}|{tuple(like.shape)}".encode(), digest_size=8).digest()
    generator = seeded(int.from_bytes(digest, "big") >> 1)
    return normal(like.shape, generator)


def _rescaled(drawn: torch.Tensor, weight: torch.Tensor, owner: nn.Module, normalise: Normalise) -> torch.Tensor:
    if not drawn.ndim:
        return drawn.sign() * weight.cpu().double().abs()
    shape, axes = _filters(weight, owner, normalise)
    wanted = torch.linalg.vector_norm(weight.cpu().double().reshape(shape), dim=axes, keepdim=True)
    block = drawn.view(shape) / torch.linalg.vector_norm(drawn.view(shape), dim=axes, keepdim=True)
    scaled: torch.Tensor = (block * wanted).view(drawn.shape)
    return scaled


def _square(tensors: Mapping[str, torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values())
