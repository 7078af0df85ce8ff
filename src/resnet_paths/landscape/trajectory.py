"""A training run in the plane that explains most of its variance: PCA of checkpoints, projections, losses there.

Random planes miss a run altogether: in many dimensions a random direction is nearly orthogonal to every step (Li et al.
2018, section 7). Its principal components do show it, but make every run look low-dimensional, even a random walk; so
the record lists what a random walk would explain beside what was explained. `trajectory_losses` measures how far the
drawn height of a point is from the checkpoint's own loss, and whether batch norm's statistics or the plane accounts for
the difference.

Steps are few and parameters are many, so the singular values are those of the (steps, P) matrix, never of a P x P one;
in float64, as steps late in a run are small differences of large numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..checkpoints.reading import ENDINGS, load_state, read_checkpoint
from ..checkpoints.states import fit
from ..checkpoints.trajectory import Trajectory
from ..data import ImageSource
from ..graph.private_copy import private_copy
from ..graph.wrappers import unwrap
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ..provenance import Provenance, provenance
from ..records import Record
from ..tables import data_frame
from .cell_metrics import Loss, cell_data, named_metrics
from .cells import CellEvaluator, CellSettings
from .directions import Direction
from .working_copy import WeightSpace

if TYPE_CHECKING:
    import pandas as pd

State = Mapping[str, torch.Tensor]
Checkpoint = State | nn.Module | str | Path


@dataclass(frozen=True, eq=False)
class ProjectedTrajectory(Record):
    """A run in the coordinates of a few directions around its last weights.

    Attributes:
        directions: unit vectors in the space of the parameters; the first explains most.
        coordinates: (steps, directions) the projection ``<θ_t - θ_T, d_k>`` of each checkpoint; the last is 0.
        explained: (directions,) share of the checkpoints' total variance along each direction.
        outside: (steps,) distance of each checkpoint from the plane.
        distances: (steps,) distance of each from the last.
        cosine: largest absolute cosine between two of the directions (0 for principal components).
        random_walk: (directions,) what the principal components of a long random walk would explain.
        labels: of the steps.
        names: the parameters.
    """

    DIMENSIONS: ClassVar = {
        "coordinates": "step direction",
        "explained": "direction",
        "outside": "step",
        "distances": "step",
        "random_walk": "direction",
    }
    COORDINATES: ClassVar = {"step": "labels"}

    directions: tuple[Direction, ...]
    coordinates: np.ndarray
    explained: np.ndarray
    outside: np.ndarray = field(repr=False)
    distances: np.ndarray = field(repr=False)
    cosine: float
    random_walk: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.coordinates)

    def to_pandas(self) -> pd.DataFrame:
        """One row per checkpoint: its coordinates, and its distance from the last one and from the plane."""
        columns = {f"c{k + 1}": self.coordinates[:, k] for k in range(len(self.directions))}
        return data_frame({"step": self.labels, **columns, "distance": self.distances, "outside": self.outside})


@dataclass(frozen=True, eq=False)
class TrajectoryLosses(Record):
    """The loss of each checkpoint, and what the plane shows instead.

    Attributes:
        labels: of the steps.
        true: (steps,) loss of the checkpoint itself, with its own batch-norm statistics.
        own_weights: (steps,) loss of the checkpoint's weights with the last one's statistics.
        projected: (steps,) loss at the projection in the plane: the height of the surface under the drawn point.
        errors: (steps, 3) standard errors over images, of the three in this order.
        images: number of images.
        source: the last checkpoint, data and versions.
    """

    DIMENSIONS: ClassVar = {"true": "step", "own_weights": "step", "projected": "step", "errors": "step kind"}
    COORDINATES: ClassVar = {"step": "labels"}

    labels: tuple[str, ...]
    true: np.ndarray
    own_weights: np.ndarray
    projected: np.ndarray
    errors: np.ndarray
    images: int
    source: Provenance = field(repr=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per checkpoint."""
        columns = {"true": self.true, "own_weights": self.own_weights, "projected": self.projected}
        return data_frame({"step": self.labels, **columns})


@checked
def project_trajectory(
    model: nn.Module | UnrolledNetwork,
    checkpoints: Trajectory | Iterable[Checkpoint] | str | Path,
    *,
    count: int = 2,
    directions: Sequence[Direction] | None = None,
    parameters: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> ProjectedTrajectory:
    """The principal components of a run's checkpoints, and the run in their coordinates.

    With rows ``θ_t - θ_T`` for the steps t and their mean subtracted, the components are the right singular vectors;
    ``explained_k = s_k² / sum s²``. Coordinates are taken around the last weights θ_T, so that they are those of
    :func:`loss_surface` over the same directions. Beware of high shares: by themselves they show little, as a long
    random walk in many dimensions gives ``6 / (π k)²`` (0.61, 0.15, ...) for component k.

    Args:
        model: of the same class as the checkpoints; its own weights do not matter.
        checkpoints: in order: a :class:`resnet_paths.training.Trajectory`, or state dicts, models or files; or a
            folder, whose checkpoints count in the order of the numbers in their names.
        count: number of components.
        directions: project on these instead; they need not be orthogonal.
        parameters: names of the parameters that count; all by default. Buffers, such as running statistics, never do.
        labels: of the steps; by default a trajectory's epochs, or numbers from 0.

    Returns:
        The record; `directions` go to :func:`loss_surface` with the last checkpoint's model.

    Raises:
        ValueError: too few checkpoints, one that lacks a parameter or is not finite, or checkpoints that do not differ.

    Cost: no forward pass; ``steps² P`` operations, memory for all checkpoints in float64.

    Source: Li et al. (2018), section 7; for random walks Antognini and Sohl-Dickstein (2018), PCA of high dimensional
    random walks with comparison to neural network training.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> states = [{"weight": torch.tensor([[float(t), 0.0]])} for t in (0, 1, 3)]
        >>> found = project_trajectory(line, states, count=1)
        >>> abs(found.coordinates[:, 0]).round(6).tolist(), round(float(found.explained[0]), 6)
        ([3.0, 2.0, 0.0], 1.0)
    """
    network = unwrap(model.model if isinstance(model, UnrolledNetwork) else model)
    states = _states(checkpoints, network)
    names = _names(network, parameters, states)
    rows = torch.stack([_vector(state, names) for state in states])
    broken = [step for step, row in enumerate(rows) if not bool(torch.isfinite(row).all())]
    if broken:
        raise ValueError(
            f"expected finite weights in every checkpoint, got NaN or infinity in {broken[:5]} of {len(rows)} (from "
            "0); leave these out"
        )
    steps = rows - rows[-1]
    centred = steps - steps.mean(0)
    total = float(centred.square().sum())
    if total == 0:
        raise ValueError(f"expected checkpoints that differ, got {len(states)} with the same weights")

    if directions is None:
        vectors, explained = _components(centred, count, total)
    else:
        vectors = _block(directions, names, network)
        explained = (centred @ vectors.T).square().sum(0) / total
    coordinates = steps @ vectors.T
    gram = vectors @ vectors.T
    fitted = coordinates @ torch.linalg.pinv(gram) @ vectors
    chosen = tuple(
        Direction(_tensors(vector, names, network), kind, facts={"explained": float(share)})
        for vector, share, kind in zip(vectors, explained, _kinds(vectors, directions), strict=True)
    )
    off = (gram - torch.eye(len(gram), dtype=gram.dtype, device="cpu")).abs()
    return ProjectedTrajectory(
        directions=chosen,
        coordinates=coordinates.numpy(),
        explained=explained.numpy(),
        outside=torch.linalg.vector_norm(steps - fitted, dim=1).numpy(),
        distances=torch.linalg.vector_norm(steps, dim=1).numpy(),
        cosine=float(off.max()),
        random_walk=np.array([6 / (math.pi * k) ** 2 for k in range(1, len(vectors) + 1)]),
        labels=_labels(labels, checkpoints, len(states)),
        names=tuple(names),
    )


@checked
def trajectory_losses(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    checkpoints: Trajectory | Iterable[Checkpoint] | str | Path,
    projected: ProjectedTrajectory,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
) -> TrajectoryLosses:
    """The loss at each checkpoint and at its projection, to check how far the plot can be trusted.

    Args:
        model: of the same class; it is not changed.
        data: examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        checkpoints: those that were projected.
        projected: see :func:`project_trajectory`.
        loss: a metric by name, or a function of outputs and targets that returns one value per example; by default the
            one that fits the targets.
        batch_size: examples per batch.

    Returns:
        Three losses per step. `true` and `own_weights` differ by the running statistics, `own_weights` and
        `projected` by what the plane omits.

    Raises:
        ValueError: another number of checkpoints, or directions that are not orthogonal (coordinates are then not a
            projection).

    Cost: three forward passes of the data per checkpoint.
    """
    network = unwrap(model_of(model))
    data = cell_data(data, network)
    states = _states(checkpoints, network)
    if len(states) != len(projected):
        raise ValueError(f"expected the {len(projected)} checkpoints that were projected, got {len(states)}")
    if (
        projected.cosine > 1e-3
    ):  # that of principal components is about 1e-12; at 1e-3 a drawn point is off by a thousandth
        raise ValueError(
            f"expected orthogonal directions, got a cosine of {projected.cosine:.2g}: a point at these coordinates is "
            "not the projection; use the principal components"
        )
    metrics = named_metrics(("loss",), data, loss)
    last = _loaded(network, states[-1])
    settings = CellSettings(batch_size=batch_size)
    plane = CellEvaluator(WeightSpace(last, projected.directions), data, metrics, settings)
    values = np.empty((len(states), 3, len(data)))
    for step, state in enumerate(states):
        own, moved = _loaded(network, state), _loaded(network, {**states[-1], **_only(state, projected.names)})
        for column, run in enumerate((own, moved)):
            values[step, column] = CellEvaluator(WeightSpace(run, []), data, metrics, settings)([])["loss"]
        values[step, 2] = plane([float(c) for c in projected.coordinates[step]])["loss"]
    spread = values.std(2, ddof=1) if len(data) > 1 else np.full(values.shape[:2], np.nan)
    means = values.mean(2)
    return TrajectoryLosses(
        labels=projected.labels,
        true=means[:, 0],
        own_weights=means[:, 1],
        projected=means[:, 2],
        errors=spread / math.sqrt(len(data)),
        images=len(data),
        source=provenance(last, data),
    )


def _states(checkpoints: Trajectory | Iterable[Checkpoint] | str | Path, model: nn.Module) -> list[State]:
    """The state dicts, under the names of the model."""
    items: Iterable[Checkpoint] = checkpoints.states if isinstance(checkpoints, Trajectory) else _listed(checkpoints)
    own = model.state_dict()
    states: list[State] = []
    for step, item in enumerate(items):
        if isinstance(item, nn.Module):
            state: State = item.state_dict()
        elif isinstance(item, str | Path):
            state = read_checkpoint(Path(item))[0]
        elif isinstance(item, Mapping):
            state = item
        else:
            raise TypeError(f"expected checkpoints, got {type(item).__name__}; give state dicts, models or files")
        states.append(fit(state, own, f"checkpoint {step}").state)
    if len(states) < 2:
        raise ValueError(f"expected at least 2 checkpoints, got {len(states)}")
    return states


def _listed(checkpoints: Iterable[Checkpoint] | str | Path) -> Iterable[Checkpoint]:
    """The checkpoints of a folder, by the numbers in their names; or what was given."""
    if not isinstance(checkpoints, str | Path):
        return checkpoints
    folder = Path(checkpoints)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of checkpoints, or several of them, got {str(checkpoints)!r}")
    epochs = list(folder.glob("epoch-*.safetensors"))  # what train() keeps, beside other files
    files = epochs or [file for file in folder.iterdir() if file.name.lower().endswith(ENDINGS)]
    return sorted(files, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


def _names(model: nn.Module, chosen: Sequence[str] | None, states: Sequence[State]) -> list[str]:
    known = {name: p.shape for name, p in model.named_parameters()}
    names = list(known) if chosen is None else [name for name in known if name in set(chosen)]
    if not names or (chosen is not None and len(names) < len(set(chosen))):
        raise ValueError(f"expected names of parameters of {type(model).__name__}, got {list(chosen or [])[:5]}")
    for step, state in enumerate(states):
        missing = [name for name in names if name not in state or state[name].shape != known[name]]
        if missing:
            raise ValueError(
                f"expected the parameters of {type(model).__name__} in every checkpoint, got none of this name and "
                f"shape for {missing[:3]} in checkpoint {step}"
            )
    return names


def _vector(state: State, names: Sequence[str]) -> torch.Tensor:
    return torch.cat([state[name].detach().cpu().double().reshape(-1) for name in names])


def _only(state: State, names: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: state[name] for name in names}


def _components(centred: torch.Tensor, count: int, total: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Right singular vectors, from the small matrix of inner products of the steps."""
    most = len(centred) - 1
    if not 1 <= count <= most:
        raise ValueError(f"expected from 1 to {most} components of {len(centred)} checkpoints, got {count}")
    left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    # Checkpoints in float32 differ by 6e-8 of a weight at least; rounding in float64 leaves 1e-16 of the largest value.
    if float(sizes[count - 1]) <= 1e-9 * float(sizes[0]):
        raise ValueError(
            f"expected checkpoints that span {count} directions, got fewer; ask for fewer components (count=)"
        )
    signs = torch.sign(left[0, :count])
    signs[signs == 0] = 1.0
    return right[:count] * signs[:, None], sizes[:count].square() / total


def _block(directions: Sequence[Direction], names: Sequence[str], model: nn.Module) -> torch.Tensor:
    shapes = {name: p.shape for name, p in model.named_parameters()}
    rows = []
    for direction in directions:
        unknown = [name for name in direction.tensors if name not in names]
        if unknown:
            raise ValueError(f"expected directions over the chosen parameters, got also {unknown[:3]}")
        full = {name: direction.tensors.get(name, torch.zeros(shapes[name], device="cpu")) for name in names}
        row = _vector(full, names)
        rows.append(row / torch.linalg.vector_norm(row))
    if not rows:
        raise ValueError("expected at least one direction, got none")
    return torch.stack(rows)


def _tensors(vector: torch.Tensor, names: Sequence[str], model: nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters())
    parts = vector.split([parameters[name].numel() for name in names])
    return {
        name: part.reshape(parameters[name].shape).to(parameters[name]) for name, part in zip(names, parts, strict=True)
    }


def _kinds(vectors: torch.Tensor, directions: Sequence[Direction] | None) -> list[str]:
    if directions is None:
        return [f"principal component {k + 1}" for k in range(len(vectors))]
    return [direction.kind for direction in directions]


def _labels(given: Sequence[str] | None, checkpoints: object, count: int) -> tuple[str, ...]:
    if given is None:
        return tuple(map(str, checkpoints.epochs if isinstance(checkpoints, Trajectory) else range(count)))
    if len(given) != count:
        raise ValueError(f"expected {count} labels, one per checkpoint, got {len(given)}")
    return tuple(given)


def _loaded(model: nn.Module, state: State) -> nn.Module:
    """A copy of the model in eval mode with other weights."""
    other = private_copy(model).eval()
    return load_state(other, state)
