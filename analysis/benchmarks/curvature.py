"""What one product with a curvature matrix costs, in gradients of the same data.

    python analysis/benchmarks/curvature.py [--images 64] [--repeats 4] [--threads 1]

Writes curvature.md beside this file. Both libraries run in turn in one process; processor time, best of the repeats.
"""

import argparse
import platform
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import curvlinops
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths.data import digits
from resnet_paths.landscape import curvature_operator
from resnet_paths.models import cifar_resnet, load_model

HERE = Path(__file__).resolve().parent
COLUMNS = 4


def processor_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measured(model: nn.Module, x: torch.Tensor, target: torch.Tensor, repeats: int) -> tuple[dict[str, float], float]:
    """Seconds of each way, and the largest relative difference between our products and the peer's."""
    batch = [(x, target)]
    ours = {kind: curvature_operator(model, batch, kind=kind) for kind in ("hessian", "gauss_newton")}
    parameters = list(model.parameters())
    peer = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, batch, check_deterministic=False, num_data=len(x)
    )
    v = torch.randn(len(ours["hessian"]), COLUMNS, generator=torch.Generator().manual_seed(0))

    def gradient() -> None:
        torch.autograd.grad(F.cross_entropy(model(x), target), parameters)

    def kept() -> None:
        with ours["hessian"].graph_kept():
            for column in v.T:
                ours["hessian"] @ column

    ways: dict[str, Callable[[], object]] = {
        "gradient": gradient,
        "hessian": lambda: ours["hessian"] @ v[:, 0],
        "hessian, several": lambda: ours["hessian"] @ v,
        "hessian, kept": kept,
        "gauss_newton": lambda: ours["gauss_newton"] @ v[:, 0],
        "peer": lambda: peer @ v[:, 0],
        "peer, several": lambda: peer @ v,
    }
    best = dict.fromkeys(ways, float("inf"))
    for run in ways.values():
        run()
    for _ in range(repeats):
        for name, run in ways.items():
            best[name] = min(best[name], processor_seconds(run))
    one, other = ours["hessian"] @ v[:, 0], peer @ v[:, 0]
    return best, float((one - other).norm() / other.norm())


def rows(title: str, best: dict[str, float], gap: float) -> list[str]:
    gradient = best["gradient"]
    expected = {"hessian": 4.0, "gauss_newton": 4.0}
    labels = {
        "hessian": ("Hessian, one vector", 1),
        "hessian, several": (f"Hessian, per vector of {COLUMNS}", COLUMNS),
        "hessian, kept": (f"Hessian, per vector of {COLUMNS} one after another, graph kept", COLUMNS),
        "gauss_newton": ("Gauss-Newton, one vector", 1),
        "peer": ("Hessian by curvlinops' own product, one vector", 1),
        "peer, several": (f"Hessian by curvlinops' own product, per vector of {COLUMNS}", COLUMNS),
    }
    lines = []
    for name, (label, columns) in labels.items():
        ratio = best[name] / columns / gradient
        limit = expected.get(name)
        verdict = "" if limit is None else f"at most {limit:g}: {'holds' if ratio <= limit else 'does not hold'}"
        lines.append(
            f"| {title} | {label} | {gradient:.3f} s | {best[name] / columns:.3f} s | {ratio:.2f} | {verdict} |"
        )
    factor = best["peer"] / best["hessian"]
    lines.append(f"| {title} | one vector, curvlinops / this library | | | {factor:.2f} | difference {gap:.1e} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    data = digits("train").subset(slice(0, options.images))
    small = max(2, options.images // 16)
    colour = torch.randn(small, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(small) % 10
    cases = [
        (f"embedded ResNet-56, {options.images} digits", load_model("embedded"), data.x, data.labels),
        (f"ResNet-56 (16/32/64), {small} images of 32 x 32", cifar_resnet(56, seed=0).eval(), colour, labels),
    ]
    body = []
    for title, model, x, target in cases:
        body += rows(title, *measured(model, x, target, options.repeats))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        "# What a product with the Hessian costs",
        "",
        f"Made by `python analysis/benchmarks/curvature.py --images {options.images} --repeats {options.repeats}`: "
        f"torch {torch.__version__}, curvlinops {curvlinops_version()}, {platform.machine()}, {options.threads} "
        f"thread(s), float32, processor time, best of {options.repeats}. A gradient is one forward and one backward "
        "pass of the same data, with respect to all parameters.",
        "",
        "| network and data | product | gradient | product | in gradients | expected |",
        "|---|---|---:|---:|---:|---|",
        *body,
        "",
        "curvlinops' own product is a forward derivative of the backward pass under vmap. Ours, on its base class, "
        "is two backward passes, because the former is wrong for layer norm in this version of torch.",
        "",
        f"Peak resident memory of the process: {memory:.0f} MiB.",
        "",
    ]
    (HERE / "curvature.md").write_text("\n".join(lines))
    print("\n".join(lines))


def curvlinops_version() -> str:
    from importlib.metadata import version

    return version("curvlinops-for-pytorch")


if __name__ == "__main__":
    main()
