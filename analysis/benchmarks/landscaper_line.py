"""A line of losses by landscaper's `compute_loss_landscape`, in a separate environment; started by landscape.py.

    PYTHON_WITH_LANDSCAPER analysis/benchmarks/landscaper_line.py --reference FOLDER --images N --cells N
        --threads N --device cpu

landscaper pins other versions than this project's tests, so it has a separate environment, in which this
project and landscaper are installed. Each line on the standard input is a turn, answered by one line of JSON: seconds
on the wall, seconds of the processor, the losses, and the versions of landscaper and torch. An empty line ends it.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from landscaper.compute import compute_loss_landscape

from resnet_paths.data import load_data
from resnet_paths.landscape import random_direction
from resnet_paths.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    for name in ("images", "cells", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")).eval().to(options.device)
    data = load_data(str(options.reference / "cifar10_sample.npz"), "train", limit=options.images)
    x, labels = data.x.to(options.device), data.labels.to(options.device)
    drawn = random_direction(model, seed=1, include="all").tensors
    vector = [drawn[name] for name, _ in model.named_parameters()]

    def loss(network: torch.nn.Module, _: object) -> float:
        return float(F.cross_entropy(network(x), labels))

    for line in sys.stdin:
        if not line.strip():
            break
        start = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            values, _ = compute_loss_landscape(model, data, [vector], loss, options.cells, 0.1, 1, options.device)
        answer = {
            "wall": time.perf_counter() - start[0],
            "processor": time.process_time() - start[1],
            "values": [float(value) for value in values],
            "versions": f"landscaper {version('landscaper')} with torch {torch.__version__}",
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
