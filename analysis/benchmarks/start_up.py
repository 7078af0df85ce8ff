"""What importing the library costs beside importing PyTorch, in processor seconds.

    python analysis/benchmarks/start_up.py [--repeats 5]

Each line of the table is imported by new processes, in turn with the others. Writes start_up.md beside this file.
"""

import argparse
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

WAYS = {
    "`import torch`": "import torch",
    "`import resnet_paths`": "import resnet_paths",
    "the command line (`resnet_paths.cli`)": "import resnet_paths.cli",
}
CLOCK = "import time; {}; print(time.process_time())"


def seconds(statement: str) -> float:
    """Processor time of a process that imports something and ends."""
    command = [sys.executable, "-c", CLOCK.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, statement in WAYS.items():
            times[name].append(seconds(statement))
    alone = statistics.median(times["`import torch`"])
    lines = [
        "# What importing costs",
        "",
        f"`python analysis/benchmarks/start_up.py --repeats {repeats}`; {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Processor seconds of new processes, in turn.",
        "",
        "| import | median | range | times PyTorch's |",
        "|---|---:|---|---:|",
    ]
    for name, found in times.items():
        middle = statistics.median(found)
        lines.append(f"| {name} | {middle:.2f} | {min(found):.2f} to {max(found):.2f} | {middle / alone:.2f} |")
    (Path(__file__).with_name("start_up.md")).write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
