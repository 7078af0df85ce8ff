"""What importing the library, its help and its completion cost beside importing PyTorch, in processor seconds.

    python analysis/benchmarks/start_up.py [--repeats 5] [--before OTHER/src]

Each line of the table is run in new processes, in turn with the others, after one run that warms the disk's cache.
``--before`` measures another checkout in the same turns. Writes start_up.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMAND = "import sys; sys.argv = ['resnet-paths', {}]; from resnet_paths.cli import main; main()"
WAYS = {
    "`import torch`": "import torch",
    "`import resnet_paths`": "import resnet_paths",
    "`from resnet_paths import unroll`": "from resnet_paths import unroll",
    "what the README's first example imports": "from resnet_paths import load_data, load_model, plan_drop, unroll",
    "`import resnet_paths.landscape, resnet_paths.report`": "import resnet_paths.landscape, resnet_paths.report",
    "`resnet-paths --help`": COMMAND.format("'--help'"),
    "`resnet-paths plan --help`": COMMAND.format("'plan', '--help'"),
    "completion of `resnet-paths report --skip le`": COMMAND.format(""),
}
COMPLETION = {
    "_RESNET_PATHS_COMPLETE": "complete_bash",
    "COMP_WORDS": "resnet-paths report --skip le",
    "COMP_CWORD": "3",
}
CLOCK = "import atexit, sys, time; atexit.register(lambda: print(time.process_time(), file=sys.stderr)); {}"


def seconds(name: str, source: Path) -> float:
    """Processor time of a process that does one thing and ends."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # as installed
    environment = {**kept, "PYTHONPATH": str(source), **(COMPLETION if name.startswith("completion") else {})}
    command = [sys.executable, "-c", CLOCK.format(WAYS[name])]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(ended.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    sources = {"now": SOURCE, **({"before": given.before.resolve()} if given.before else {})}
    times: dict[tuple[str, str], list[float]] = {(when, name): [] for name in WAYS for when in sources}
    for repeat in range(given.repeats + 1):
        for when, name in times:
            spent = seconds(name, sources[when])
            if repeat:
                times[when, name].append(spent)
    alone = statistics.median(times["now", "`import torch`"])
    lines = [
        "# What starting costs",
        "",
        f"`python analysis/benchmarks/start_up.py --repeats {given.repeats}`; {platform.machine()}, Python "
        f"{platform.python_version()}, torch {version('torch')}. Processor seconds of new processes, in turn: medians "
        "and ranges." + (" Before: names were not yet imported at first use." if given.before else ""),
        "",
        "| what is run | now | range | times PyTorch's |" + (" before |" if given.before else ""),
        "|---|---:|---|---:|" + ("---:|" if given.before else ""),
    ]
    for name in WAYS:
        spent = times["now", name]
        middle = statistics.median(spent)
        line = f"| {name} | {middle:.2f} | {min(spent):.2f} to {max(spent):.2f} | {middle / alone:.2f} |"
        lines.append(line + (f" {statistics.median(times['before', name]):.2f} |" if given.before else ""))
    (Path(__file__).with_name("start_up.md")).write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
