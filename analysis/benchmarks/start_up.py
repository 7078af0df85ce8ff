"""Cost of importing the library, its help and its completion, relative to importing PyTorch, in processor seconds.

    python analysis/benchmarks/start_up.py [--repeats 5] [--before OTHER/src]

Each line of the table is run in new processes, in turn with the others, after one run that compiles the files. An
import is timed after PyTorch's in the same process, whose own time varies by more. ``--before`` measures another
checkout in the same turns. Writes start_up.md beside this file.
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
IMPORT = "import time, torch; began = time.process_time(); {}; print(time.process_time() - began, file=sys.stderr)"
COMMAND = "sys.argv = ['resnet-paths', {}]; atexit.register(lambda: print(time.process_time(), file=sys.stderr)); "
TORCH = "`import torch`"
IMPORTS = {
    "`import resnet_paths`": "import resnet_paths",
    "`from resnet_paths import unroll`": "from resnet_paths import unroll",
    "imports of the README's first example": "from resnet_paths import load_data, load_model, plan_drop, unroll",
    "`import resnet_paths.landscape, resnet_paths.report`": "import resnet_paths.landscape, resnet_paths.report",
}
COMMANDS = {
    "`resnet-paths --help`": "'--help'",
    "`resnet-paths plan --help`": "'plan', '--help'",
    "completion of `resnet-paths report --skip le`": "",
}
COMPLETION = {
    "_RESNET_PATHS_COMPLETE": "complete_bash",
    "COMP_WORDS": "resnet-paths report --skip le",
    "COMP_CWORD": "3",
}


def seconds(name: str, source: Path) -> float:
    """Processor time of an import after PyTorch's, or of a command's whole process."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # as installed
    if name in COMMANDS:
        code = COMMAND.format(COMMANDS[name]) + "from resnet_paths.cli import main; main()"
        kept |= COMPLETION if not COMMANDS[name] else {}
    elif name == TORCH:
        code = "import torch; print(time.process_time(), file=sys.stderr)"
    else:
        code = IMPORT.format(IMPORTS[name])
    command = [sys.executable, "-c", f"import atexit, sys, time; {code}"]
    environment = {**kept, "PYTHONPATH": str(source)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(ended.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    sources = {"now": SOURCE, **({"before": given.before.resolve()} if given.before else {})}
    times: dict[tuple[str, str], list[float]] = {
        (name, when): [] for name in (TORCH, *IMPORTS, *COMMANDS) for when in sources if name != TORCH or when == "now"
    }
    for repeat in range(given.repeats + 1):
        for name, when in times:
            spent = seconds(name, sources[when])
            if repeat:
                times[name, when].append(spent)
    torch = statistics.median(times[TORCH, "now"])
    lines = [
        "# Start-up time",
        "",
        f"`python analysis/benchmarks/start_up.py --repeats {given.repeats}`; {platform.machine()}, Python "
        f"{platform.python_version()}, torch {version('torch')}. Processor seconds in new processes, run in turn: "
        f"medians and ranges. `import torch` takes {torch:.2f}; imports are timed after it, in the same process."
        + (' "Before": the first import loaded everything.' if given.before else ""),
        "",
        "| command | " + " | ".join(f"{when} | range | times PyTorch's" for when in sources) + " |",
        "|---|" + "---:|---|---:|" * len(sources),
    ]
    for name in (*IMPORTS, *COMMANDS):
        cells = []
        for when in sources:
            spent = times[name, when]
            middle = statistics.median(spent)
            ratio = (middle + torch * (name in IMPORTS)) / torch
            cells.append(f"{middle:.2f} | {min(spent):.2f} to {max(spent):.2f} | {ratio:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (Path(__file__).with_name("start_up.md")).write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
