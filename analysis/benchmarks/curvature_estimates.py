"""Traces and Ritz values by this library and by curvlinops, on a matrix whose eigenvalues are known.

Why `resnet_paths.landscape` estimates traces and densities itself, around curvlinops' operators: an estimate needs its
error, so each draw's own value, and curvlinops returns means. Called several times with a part of the products each,
its Hutch++ gives several values, but worse ones. Its Lanczos does not orthogonalise.

    python analysis/benchmarks/curvature_estimates.py
"""

import argparse
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from curvlinops import hutchpp_trace
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from torch import nn

from resnet_paths.landscape import curvature_operator, hutch_plus_plus
from resnet_paths.landscape.spectrum import lanczos

HERE = Path(__file__).parent
SIZE, PRODUCTS = 1000, 48
LARGE = (50.0, 20.0, 10.0, 5.0, 3.0, 2.0, -1.0)


class Quadratic(nn.Module):
    """``wᵀ A w / 2``, whose Hessian is A."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.w = nn.Parameter(torch.ones(len(matrix)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same for each sample."""
        return (self.w @ (self.matrix @ self.w) / 2).expand(len(x), 1)


def spectrum_like_a_networks() -> torch.Tensor:
    """A few large eigenvalues, one below zero, and many that fall to 1e-6; float32."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
    values = torch.cat([torch.tensor(LARGE).double(), torch.logspace(0, -6, SIZE - len(LARGE)).double()])
    return ((vectors * values) @ vectors.T).float()


def error(estimate: Callable[[int], float], exact: float, runs: int) -> float:
    """Root mean square, in shares of the trace."""
    return math.sqrt(np.mean([(estimate(run) - exact) ** 2 for run in range(runs)])) / exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    matrix = spectrum_like_a_networks()
    exact = float(matrix.double().trace())
    operator = curvature_operator(
        Quadratic(matrix).eval(), [(torch.zeros(1, 1), torch.zeros(1))], loss=lambda output, target: output[:, 0]
    )

    def theirs(parts: int) -> Callable[[int], float]:
        def estimate(run: int) -> float:
            torch.manual_seed(run)
            return float(np.mean([float(hutchpp_trace(matrix, PRODUCTS // parts)) for _ in range(parts)]))

        return estimate

    rows = [
        ("this library, with a standard error", lambda run: hutch_plus_plus(operator, PRODUCTS, seed=2 * run).value)
    ]
    rows += [(f"curvlinops, {parts} x {PRODUCTS // parts} products", theirs(parts)) for parts in (1, 4, 16)]
    lines = [
        "# Traces and Ritz values beside curvlinops",
        "",
        f"Made by `python analysis/benchmarks/curvature_estimates.py --runs {options.runs}`: "
        f"torch {torch.__version__}, curvlinops {version('curvlinops-for-pytorch')}, float32, one thread. "
        f"A matrix of {SIZE} x {SIZE}: {', '.join(f'{value:g}' for value in LARGE)}, and the rest from 1 to 1e-6.",
        "",
        f"| Hutch++, {PRODUCTS} products | root mean square error, share of the trace |",
        "|---|---:|",
        *(f"| {name} | {error(estimate, exact, options.runs):.2%} |" for name, estimate in rows),
        "",
        "| Lanczos steps | copies of the largest eigenvalue, this library | curvlinops |",
        "|---:|---:|---:|",
    ]
    for steps in (60, 200):
        torch.manual_seed(0)
        diagonal, beside, _ = lanczos(operator, torch.randn(SIZE), steps)
        own = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        peer = fast_lanczos(matrix, steps)[0].numpy()
        copies = [int((np.abs(values - max(LARGE)) < 1e-2).sum()) for values in (own, peer)]
        lines.append(f"| {steps} | {copies[0]} | {copies[1]} |")
    text = "\n".join([*lines, ""])
    (HERE / "curvature_estimates.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
