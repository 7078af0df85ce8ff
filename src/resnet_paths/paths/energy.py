"""The energy of all 2^n paths by length, from random signs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
import xarray as xr

from ..unroll import UnitRef, UnrolledNetwork
from ._objective import Loss, loss_name
from ._polynomial import pull_polynomial, pull_stem
from ._records import Provenance, dataset, provenance, table
from ._tape import Tape
from .by_length import example_norms
from .sampling import pooled, student_interval


@dataclass(frozen=True, eq=False)
class PathEnergy:
    """The sum of squared gradient norms over all paths of each length, estimated.

    Attributes:
        n: number of units that the paths choose among.
        loss: the loss's name.
        lengths: 0..n, (L,).
        energy: estimate of ``sum_{|P|=k} |g_P|^2``, (L, batch).
        standard_error: of the estimate, (L, batch); 0 for the lengths 0 and n, which are exact.
        low: lower end of the confidence interval, (L, batch).
        high: upper end.
        confidence: the interval's level.
        draws: number of sign vectors drawn.
        rms: ``sqrt(energy / C(n, k))``, the root mean square norm of a path, (L, batch).
        vjps: rows pulled back, by kind of piece.
        source: model, data, seed and versions.
    """

    n: int
    loss: str
    lengths: torch.Tensor
    energy: torch.Tensor
    standard_error: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    confidence: float
    draws: int
    rms: torch.Tensor
    vjps: Mapping[str, int]
    source: Provenance = field(repr=False)

    def over_examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean energy over the batch and its standard error for this batch, (L,) each."""
        return pooled(self.energy, self.standard_error)

    def to_xarray(self) -> xr.Dataset:
        """All arrays with dimensions length and example."""
        names = ("energy", "standard_error", "low", "high", "rms")
        return dataset(
            {name: (("length", "example"), getattr(self, name)) for name in names},
            {"length": self.lengths},
            self.source,
            n=self.n,
            loss=self.loss,
            draws=self.draws,
            confidence=self.confidence,
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row for each length and example."""
        return table(self.to_xarray())


def path_energy(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    draws: int = 64,
    rtol: float | None = None,
    confidence: float = 0.95,
    wrt: UnitRef = "input",
    loss: Loss = "cross_entropy",
    seed: int = 0,
    max_bytes: int | None = None,
) -> PathEnergy:
    """The energy of all paths of each length, for all lengths at once, from random signs.

    Multiply unit i's branch by an independent random sign s_i. The coefficient ``G_k(s)`` of
    :func:`gradient_by_length` is then ``sum_P s_P g_P`` over the paths of length k, with s_P the product of the
    signs along P. Products of different paths are uncorrelated, so

        E |G_k(s)|^2  =  sum_{|P|=k} |g_P|^2,

    without bias, cancellation between paths gone. Each example of the batch has signs of its own. The energy is
    not the squared norm of the gradient of that length, in which paths do cancel.

    Args:
        net: the unrolled network, its model in eval mode.
        x: the model's input, batch first.
        target: class indices (batch,), or what the loss takes.
        draws: sign vectors, at least 2; at most so many where `rtol` is given.
        rtol: stop as soon as the standard error of the batch's mean energy is at most this share of it for
            every length (checked from 8 draws on).
        confidence: level of the interval.
        wrt: ``"input"``, or a unit, for paths from its entry on.
        loss: as in :func:`gradient_by_length`.
        seed: of the signs.
        max_bytes: as in :func:`gradient_by_length`.

    Returns:
        Energies with standard errors, and Student intervals of the logarithm (they stay positive): the interval
        is ``energy * exp(+-q se / energy)``.

    Raises:
        ValueError: too few draws, a confidence outside (0, 1), or as :func:`gradient_by_length`.

    Cost: one forward pass, and n(n+1)/2 branch products a draw for all lengths together.

    Source: the random-sign (Rademacher) estimator is ours; compare Hutchinson (1990) for traces.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.unroll import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> energy = path_energy(net, torch.randn(2, 3, 32, 32), [0, 3], draws=4)
        >>> energy.energy.shape, bool((energy.low <= energy.energy).all())
        (torch.Size([9, 2]), True)
    """
    if draws < 2:
        raise ValueError(f"expected at least 2 draws, which a standard error needs, got {draws}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if rtol is not None and rtol <= 0:
        raise ValueError(f"expected rtol above 0, got {rtol}; None takes all draws")
    tape = Tape(net, x, target, loss, None if wrt == "input" else net.index(wrt), max_bytes)
    generator = torch.Generator().manual_seed(seed)
    squares: list[torch.Tensor] = []
    while len(squares) < draws:
        squares.append(_draw(tape, len(net), generator))
        if rtol is not None and len(squares) >= 8 and _precise(squares, rtol):
            break
    energy, error = _estimate(squares)
    low, high = student_interval(energy, error, len(squares), confidence)
    counts = torch.tensor([float(math.comb(tape.n, k)) for k in range(tape.n + 1)], dtype=torch.float64)
    return PathEnergy(
        n=tape.n,
        loss=loss_name(loss),
        lengths=torch.arange(tape.n + 1),
        energy=energy,
        standard_error=error,
        low=low,
        high=high,
        confidence=confidence,
        draws=len(squares),
        rms=(energy / counts.to(energy.device)[:, None]).sqrt(),
        vjps=dict(tape.vjps),
        source=provenance(net.model, [x, target], tape.seed.dtype, seed),
    )


def _draw(tape: Tape, units: int, generator: torch.Generator) -> torch.Tensor:
    """Squared norms of the coefficients at one draw of signs, (lengths, batch), in double precision."""
    coins = torch.randint(0, 2, (units, len(tape.seed)), generator=generator)
    signs = (2 * coins - 1).to(tape.seed.device)
    counted = range(tape.first, tape.first + tape.n)
    rows = pull_stem(tape, pull_polynomial(tape, tape.n + 1, counted, signs=signs))
    return example_norms(rows).double().square()


def _estimate(squares: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    stacked = torch.stack(squares)
    error = stacked.std(0) / math.sqrt(len(squares))
    error[[0, -1]] = 0.0
    return stacked.mean(0), error


def _precise(squares: list[torch.Tensor], rtol: float) -> bool:
    mean, error = pooled(*_estimate(squares))
    return bool((error <= rtol * mean).all())
