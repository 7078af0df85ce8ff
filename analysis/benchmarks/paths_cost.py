"""Cost of the exact split of the gradient by path length, in backward passes of the same batch.

    python analysis/benchmarks/paths_cost.py [--batch 32] [--threads 1] [--repeats 4]

Writes paths_cost.md beside this file. Random weights: cost does not depend on them.
"""

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from resnet_paths import UnrolledNetwork, gradient_by_length, unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.network import for_inference
from resnet_paths.paths.forward_pass import ForwardPass, pass_to_start

HERE = Path(__file__).resolve().parent


def processor_seconds(run: Callable[[], object]) -> float:
    """Processor time of a call, which other programs on the machine do not affect."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def decomposition(depth: int, batch: int, limit: int, repeats: int) -> list[str]:
    torch.manual_seed(0)
    model = cifar_resnet(depth).eval()
    net = unroll(model)
    folded = for_inference(net)
    x, target = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def backward() -> float:
        model.zero_grad()
        loss = F.cross_entropy(model(x), target, reduction="sum")
        return processor_seconds(loss.backward)

    def parts(of: UnrolledNetwork) -> dict[str, float]:
        """The forward pass, the recursion, and the ordinary gradient that it is checked against."""
        records: list[ForwardPass] = []
        record = partial(pass_to_start, of, x, target, "cross_entropy", "input", None)
        forward = processor_seconds(lambda: records.append(record()))
        check = processor_seconds(records[0].ordinary_gradient)
        whole = processor_seconds(lambda: gradient_by_length(of, x, target))
        return {"recursion": whole - forward - check, "split": whole - check, "whole": whole}

    split = gradient_by_length(net, x, target)
    gradient_by_length(folded, x, target)
    backward()
    turns = [(min(backward() for _ in range(3)), parts(net), parts(folded)) for _ in range(repeats)]
    once = min(turn[0] for turn in turns)
    rows = len(split.lengths) * batch * 16 * 32 * 32 * 4 / 2**20
    lines = []
    for place, name in ((1, "plain"), (2, "folded")):
        ways = ("recursion", "split", "whole")
        best = {way: min(turn[place][way] for turn in turns) for way in ways}  # type: ignore[index]
        ratios = {way: value / once for way, value in best.items()}
        verdicts = "; ".join(f"{way}: {'holds' if ratios[way] <= limit else 'does not hold'}" for way in ways[1:])
        times = " | ".join(f"{ratios[way]:.1f}" for way in ways)
        lines.append(
            f"| ResNet-{depth}, {len(net)} blocks, {name} | {split.vjps['branch']} | {once:.3f} s | "
            f"{best['whole']:.3f} s | {times} | at most {limit} | {verdicts} | {rows:.0f} MiB |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# Cost of the exact split of the gradient by path length",
        "",
        f"Made by `python analysis/benchmarks/paths_cost.py`: torch {torch.__version__}, {platform.machine()}, "
        f"{options.threads} thread(s), float32, batch {options.batch}, processor time, best of {options.repeats}; load "
        f"of the machine's {os.cpu_count()} cores: {os.getloadavg()[2]:.1f}.",
        "",
        "One backward pass is `loss.backward()` of the same batch, with the parameters' gradients, without the forward "
        "pass. *Recursion*: from the recorded activations to the split. *Split*: including the forward pass that "
        "records them. *Total*: a call of `gradient_by_length`, which also computes the ordinary gradient and compares "
        "the split with it. *Folded*: on the copy that `for_inference` makes (folded norms, channels last). "
        "Coefficients: their memory at the largest block input; the activations of one forward pass are kept too.",
        "",
        "| exact decomposition | branch products | backward | total | recursion / backward | split / backward | "
        "total / backward | expected | verdict | coefficients |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|",
        *decomposition(56, options.batch, 8, options.repeats),
        *decomposition(110, options.batch, 30, options.repeats),
        "",
        f"Peak resident memory of the process so far: {peak_mebibytes():.0f} MiB.",
        "",
    ]
    (HERE / "paths_cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
