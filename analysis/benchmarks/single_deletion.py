"""All single deletions of ResNet-56: prefix reuse and folded, channels-last inference against the naive loop.

    python analysis/benchmarks/single_deletion.py --reference FOLDER [--images 500] [--repeats 3]

Naive: for each block, copy the model, replace the block by its shortcut, and run the full network. All variants run
in turn on the same images in one process; the table gives the median and the ratio to the naive loop of the same
round. Writes single_deletion.md beside this file.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "references"))

from naive_lesion import single_deletion_logits  # noqa: E402

from resnet_paths import unroll  # noqa: E402
from resnet_paths.data import load_data  # noqa: E402
from resnet_paths.models import load_model  # noqa: E402
from resnet_paths.network import for_inference  # noqa: E402


def batched(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([function(part) for part in x.split(size)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model = load_model(str(arguments.reference / "resnet56_cifar10_option_a.safetensors"))
    data = load_data(str(arguments.reference / "cifar10_sample.npz"), limit=arguments.images)
    net, x = unroll(model), data.x
    names, gates = [block.name for block in net], 1 - torch.eye(len(net))
    fast = for_inference(net)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        f"naive loop, {len(x)} images at once": lambda: single_deletion_logits(model, names, x),
        "naive loop, batches of 100": lambda: batched(lambda part: single_deletion_logits(model, names, part), x, 100),
        "prefix reuse, batches of 100": lambda: batched(lambda part: net(part, gates), x, 100),
        "prefix reuse, folded, channels last, 100": lambda: batched(lambda part: fast(part, gates), x, 100),
        "the same, batches of 50": lambda: batched(lambda part: fast(part, gates), x, 50),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, torch.Tensor] = {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            results[name] = way()
            times[name].append(time.perf_counter() - start)
    first, small = list(ways)[:2]
    reference = results[first]
    lines = [
        "# All 27 single deletions of ResNet-56",
        "",
        f"`python analysis/benchmarks/single_deletion.py --images {len(x)} --repeats {arguments.repeats}`; "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32. Ratios are "
        "medians over the rounds of (naive / variant) within one round.",
        "",
        "| variant | seconds (median, range) | speed-up over naive at once | over naive, batches of 100 | "
        "largest logit difference | changed predictions |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, seconds in times.items():
        ratios = [np.median(np.array(times[other]) / np.array(seconds)) for other in (first, small)]
        difference = float((results[name] - reference).abs().max())
        changed = int((results[name].argmax(-1) != reference.argmax(-1)).sum())
        lines.append(
            f"| {name} | {np.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {ratios[0]:.2f} | "
            f"{ratios[1]:.2f} | {difference:.1e} | {changed} |"
        )
    (ROOT / "analysis" / "benchmarks" / "single_deletion.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
