"""Writes sweep_*.md: the overhead of a sweep, its memory, and the gain from a second process.

python analysis/benchmarks/sweep_overhead.py
"""

import multiprocessing
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from resnet_paths.sweep import grid, local_workers, sweep

REPEATS = 3
RULE = "| --- | --- | --- | --- |"
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def nothing(point: dict, context: Any, seed: int) -> float:
    return point["n"] * 0.5


def forward(point: dict, context: dict, seed: int) -> torch.Tensor:
    with torch.inference_mode():
        return context["model"](context["x"] + point["n"]).mean()


def median(work: Callable[[], Any]) -> tuple[float, float, float]:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), min(seconds), max(seconds)


def row(name: str, n: int, times: tuple[float, float, float]) -> str:
    low, middle, high = (f"{1e6 * seconds / n:.0f}" for seconds in (times[1], times[0], times[2]))
    return f"| {name} | {n:,} | {middle} | {low} - {high} |"


def overhead(folder: Path) -> list[str]:
    lines = [
        "| sweep of an empty function | points | µs per point, median | range |",
        "| --- | --- | --- | --- |",
    ]
    count = iter(range(1000))
    for n in (1000, 100_000):
        points = grid(n=range(n))
        lines.append(row("in process, no journal", n, median(lambda p=points: sweep(nothing, p, progress=False))))
        fresh = lambda p=points: sweep(nothing, p, journal=folder / f"{next(count)}", progress=False)  # noqa: E731
        lines.append(row("in process, journal", n, median(fresh)))
        again = lambda p=points: sweep(nothing, p, journal=folder / "again", progress=False)  # noqa: E731
        again()
        lines.append(row("resume, all finished", n, median(again)))
        with local_workers(2, threads=1) as executor:
            sweep(nothing, grid(n=range(50)), executor=executor, progress=False)
            pooled = lambda p=points, e=executor: sweep(nothing, p, executor=e, progress=False)  # noqa: E731
            lines.append(row("2 processes, no journal", n, median(pooled)))
            kept = lambda p=points, e=executor: sweep(  # noqa: E731
                nothing, p, executor=e, journal=folder / f"{next(count)}", progress=False
            )
            lines.append(row("2 processes, journal", n, median(kept)))
    return lines


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(folder: Path) -> list[str]:
    """Resident memory over 100,000 points, after the first tenth and before the result is made."""
    lines = ["| 100,000 points | MB after 10,000 | MB after 99,000 | growth |", RULE]

    def watch(name: str, executor: Any) -> None:
        seen: dict[int, float] = {}
        report = lambda state: seen.setdefault(state.computed // 1000, resident())  # noqa: E731
        sweep(nothing, grid(n=range(100_000)), executor=executor, journal=folder / f"memory {name}", progress=report)
        first = next(mb for k, mb in seen.items() if k >= 10)
        last = [mb for k, mb in seen.items() if k < 100][-1]
        lines.append(f"| {name} | {first:.0f} | {last:.0f} | {last - first:+.1f} MB |")

    watch("in process, journal", None)
    with local_workers(2, threads=1) as executor:
        watch("2 processes, journal", executor)
    return lines


def waiting(point: dict, context: Any, seed: int) -> float:
    """Sleep 5 ms without using a core, so that other load on the machine does not matter."""
    time.sleep(0.005)
    return point["n"]


def alone(seconds: float) -> float:
    """Forward passes per second in this process, without any sweep."""
    torch.set_num_threads(1)
    context, done, start = made(), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        forward({"n": 0.5}, context, 0)
        done += 1
    return done / seconds


def made() -> dict[str, Any]:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), *layers).eval()
    return {"model": model, "x": torch.randn(8, 3, 32, 32)}


def speedup() -> list[str]:
    """Rates, and the rates of two independent processes measured just before."""
    context, points = made(), grid(n=[i / 1000 for i in range(1000)])
    lines = [
        "| points per second (forward passes of 8 images), 1 thread | 1 process | 2 processes | gain |",
        RULE,
    ]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as plain, local_workers(2, threads=1) as executor:
        list(plain.map(alone, [0.1] * 4))
        sweep(forward, points[:50], context=context, executor=executor, progress=False)
        for turn in range(1, REPEATS + 1):
            one, two = plain.submit(alone, 3.0).result(), sum(plain.map(alone, [3.0, 3.0]))
            lines.append(f"| no sweep, run {turn} | {one:.0f} | {two:.0f} | {two / one:.2f} |")
            for name, function in (("sweep", forward), ("sweep of points that sleep 5 ms", waiting)):
                one, two = (rate(function, points, context, e) for e in (None, executor))
                lines.append(f"| {name}, run {turn} | {one:.0f} | {two:.0f} | {two / one:.2f} |")
    return lines


def rate(function: Any, points: Any, context: Any, executor: Any) -> float:
    start = time.perf_counter()
    sweep(function, points, context=context, executor=executor, progress=False)
    return len(points) / (time.perf_counter() - start)


def environment() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores shared with other work (load "
        f"{os.getloadavg()[0]:.1f} at the start); Python {platform.python_version()}, torch {torch.__version__}, "
        f"SQLite {sqlite3.sqlite_version}, revision {revision}; {REPEATS} runs each, OMP_NUM_THREADS=1."
    )


PARTS = {"overhead": overhead, "memory": memory, "speedup": lambda folder: speedup()}


def main() -> None:
    torch.set_num_threads(1)
    name = "analysis/benchmarks/sweep_overhead.py"
    head = [
        "# Cost of a sweep",
        "",
        f"`python {name}` writes these files; `python {name} speedup` writes one of them.",
        "",
    ]
    for part in sys.argv[1:] or PARTS:
        about = environment()
        with tempfile.TemporaryDirectory() as folder:
            table = PARTS[part](Path(folder))
        file = Path(__file__).with_name(f"sweep_{part}.md")
        file.write_text("\n".join([*head, about, "", *table]) + "\n")


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **THREADS})
    main()
