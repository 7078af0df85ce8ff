"""The energy of all 2^n paths by length, estimated from a few columns with random signs.

The energy is the sum of the squared gradient norms of single paths. Beside `by_length`, whose exact split adds the
gradients of the paths of a length before it takes a norm, so that paths cancel; and beside `sampling`, which needs a
backward pass for every path. Two draws of two columns cost about four exact splits, whatever the number of paths; the
docstring of `path_energy` lists the measured errors behind that default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..arguments import checked
from ..arguments.ranges import POSITIVE
from ..draws import seeded
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import log_student_interval
from ._objective import Loss, loss_name
from .forward_pass import ForwardPass, pass_to_start
from .merged_columns import pull_columns, seed_norms
from .sampling import pooled


@dataclass(frozen=True, eq=False)
class PathEnergy(Record):
    """An estimate of the sum of squared gradient norms over all paths of each length.

    Attributes:
        n: number of blocks that the paths choose among.
        loss: the loss's name.
        lengths: 0..n, (L,).
        energy: estimate of ``sum_{|P|=k} |g_P|^2``, (L, batch).
        standard_error: standard error of `energy`, (L, batch); 0 for lengths with at most `columns` paths, which are
            exact.
        low: lower end of the confidence interval, (L, batch).
        high: upper end of the confidence interval, (L, batch).
        confidence: the level of the interval.
        draws: number of draws of random signs.
        columns: maximum number of columns carried per length in one draw.
        rms: ``sqrt(energy / C(n, k))``, the root mean square norm of a path, (L, batch).
        vjps: number of rows pulled back, by kind of piece.
        source: model, data, seed and versions.
        counts: the number of paths of each length.
    """

    DIMENSIONS: ClassVar = {
        "energy": "length example",
        "standard_error": "length example",
        "low": "length example",
        "high": "length example",
        "rms": "length example",
    }
    COORDINATES: ClassVar = {"length": "lengths"}

    n: int
    loss: str
    lengths: torch.Tensor
    energy: torch.Tensor
    standard_error: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    confidence: float
    draws: int
    columns: int
    rms: torch.Tensor
    vjps: Mapping[str, int]
    source: Provenance = field(repr=False)
    counts: tuple[int, ...] = field(repr=False)

    def over_examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean energy over the batch and its standard error for this batch, (L,) each."""
        return pooled(self.energy, self.standard_error)


@checked(tolerance=POSITIVE)
@torch.inference_mode(False)
def path_energy(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    draws: int | None = None,
    columns: int = 2,
    tolerance: float | None = None,
    confidence: float = 0.95,
    at: BlockRef = "input",
    loss: Loss = "cross_entropy",
    seed: int = 0,
    max_bytes: int | None = None,
) -> PathEnergy:
    """The energy of all paths of each length, for all lengths at once.

    The sum over paths of length k of ``g_P g_P'`` is carried from the loss to the input as a matrix ``A_k`` of at
    most `columns` columns per example. A block turns it into ``[S'D' A_k, J'D' A_{k-1}]``; if that has too many
    columns, it is rotated to its principal axes, which leaves ``A A'`` unchanged, and the smaller half of the axes are
    summed in groups with independent random signs, whose products vanish in expectation. So

        E |A_k|^2  =  sum_{|P|=k} |g_P|^2,

    without bias and without cancellation between paths, and exactly if C(n, k) is at most `columns`. The energy is not
    the squared norm of the gradient of that length, in which paths do cancel.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts.
        draws: number of independent estimates, at least 2; with `tolerance`, the maximum number. 2 are used if all is
            exact. None: 2, or 64 with `tolerance`. Intervals from 2 draws are wide; use more for narrow ones.
        columns: maximum number of columns per length; the error falls faster than the cost rises, and memory grows with
            it. One column means plain random signs, drawn anew for each block and length. The standard error of one
            draw (mean over 4 images, median over lengths) was 33, 18, 13, 9 and 5 % with 1, 2, 3, 4 and 8 columns for a
            trained ResNet-56, and 8, 5, 3, 3 and 2 % for a random ResNet-20. The default is two because two draws of
            two columns cost about four exact splits and leave 13 %; one column costs two and leaves 23 %, four columns
            cost eight and leave 6 %.
        tolerance: stop once the standard error of the batch's mean energy is at most this fraction of it for every
            length (checked from 8 draws on, since an error estimated from fewer is too uncertain to stop by).
        confidence: the level of the interval.
        at: ``"input"``, or a block, for paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        seed: seed of the signs.
        max_bytes: as in :func:`gradient_by_length`.

    Returns:
        Energies with standard errors, and Student intervals of the logarithm (so that they stay positive): the interval
        is ``energy * exp(+-q se / energy)``.

    Raises:
        ValueError: there are too few draws or columns, the confidence is outside (0, 1), a gradient is not finite, or
            as :func:`gradient_by_length`.

    Cost: one forward pass, and per draw at most ``columns n(n+1)/2`` branch products for all lengths together; by
        default
    as many products as four exact splits, in about four times the time of one.
    Memory: ``2 columns (n+1)`` times the largest entry; use a smaller batch if that is too much.

    Source: the estimator is ours; compare Hutchinson (1990) for random signs.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> energy = path_energy(net, torch.randn(2, 3, 32, 32), [0, 3], draws=4)
        >>> energy.energy.shape, bool((energy.low <= energy.energy).all())
        (torch.Size([9, 2]), True)
    """
    if draws is None:
        draws = 2 if tolerance is None else 64
    if draws < 2:
        raise ValueError(f"expected at least 2 draws, as a standard error requires, got {draws}")
    record = pass_to_start(net, x, target, loss, at, max_bytes)
    generator = seeded(seed)
    counts = torch.tensor([float(count) for count in record.graph.counts], dtype=torch.float64, device="cpu")
    exact = counts <= columns
    squares: list[torch.Tensor] = []
    while len(squares) < draws:
        squares.append(_draw(record, columns, generator))
        if len(squares) >= 2 and bool(exact.all()):
            break
        if tolerance is not None and len(squares) >= 8 and _precise(squares, tolerance, exact):
            break
    energy, error = _estimate(squares, exact)
    ends = log_student_interval(energy.numpy(), error.numpy(), len(squares) - 1, confidence)
    low, high = (torch.from_numpy(end) for end in ends)
    return PathEnergy(
        n=record.n,
        loss=loss_name(loss),
        lengths=torch.arange(len(counts), device="cpu"),
        energy=energy,
        standard_error=error,
        low=low,
        high=high,
        confidence=confidence,
        draws=len(squares),
        columns=columns,
        rms=(energy / counts.clamp_min(1)[:, None]).sqrt(),
        vjps=record.vjps,
        source=provenance(net.model, [x, target], record.seed.dtype, seed),
        counts=record.graph.counts,
    )


def _draw(record: ForwardPass, columns: int, generator: torch.Generator) -> torch.Tensor:
    """One estimate of the energies, (lengths, batch), in float64."""
    scale = seed_norms(record).cpu().double().square()
    energy = scale.new_zeros((len(record.graph.counts), len(scale)))
    arrived = pull_columns(record, columns, generator)
    for length, squares in enumerate([] if arrived is None else _squares(arrived.values).split(arrived.sizes)):
        energy[length] = squares.sum(0)
    return energy * scale


def _squares(columns: torch.Tensor) -> torch.Tensor:
    """The squared norm per column and example."""
    return torch.cat(
        [column.double().square().reshape(*column.shape[:2], -1).sum(2) for column in columns.split(1)]
    ).cpu()


def _estimate(squares: list[torch.Tensor], exact: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    stacked = torch.stack(squares)
    error = stacked.std(0) / math.sqrt(len(squares))
    error[exact] = 0.0
    return stacked.mean(0), error


def _precise(squares: list[torch.Tensor], tolerance: float, exact: torch.Tensor) -> bool:
    mean, error = pooled(*_estimate(squares, exact))
    return bool((error <= tolerance * mean).all())
