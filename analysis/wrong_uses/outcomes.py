"""Shared by both experiments with invalid uses: a time limit, a random sample, a table of outcomes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch


class Answered(Protocol):
    """One wrong use and its answer."""

    @property
    def subject(self) -> str: ...
    @property
    def answer(self) -> str: ...


A = TypeVar("A", bound=Answered)


class SlowError(BaseException):
    """Nobody catches it by accident."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise a SlowError inside after the given seconds of processor time, however busy the machine is.

    Also if something turned it into another error, for instance within a call of C++.
    """
    stopped = []

    def stop(*_: object) -> None:
        stopped.append(True)
        raise SlowError

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(20 * seconds)  # of what waits
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if stopped:
            raise SlowError


def table(answers: Sequence[Answered], heads: str, kinds: Sequence[str]) -> str:
    """Counts for each subject, as Markdown; `heads` names the first two columns."""
    lines = [f"| {heads} | " + " | ".join(kinds) + " |", "|---|" + "---:|" * (1 + len(kinds))]
    rows: dict[str, Counter[str]] = {}
    for one in answers:
        rows.setdefault(one.subject, Counter())[one.answer] += 1
    rows["**all**"] = Counter(one.answer for one in answers)
    for name, counts in rows.items():
        lines.append(f"| {name} | {counts.total()} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    return "\n".join(lines)


def read_options(summary: str, subject: str) -> argparse.Namespace:
    """The options of both scripts; the option for a single subject is named after it."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--share", type=float, default=1.0, help="share of the invalid uses to try, drawn with seed 0")
    parser.add_argument(f"--{subject}", dest="only", help="only this one")
    parser.add_argument("--show", nargs="*", default=(), help="print the uses with these answers")
    parser.add_argument("--out", type=Path, help="write the table here")
    return parser.parse_args()


def drawn(everything: Sequence[A], options: argparse.Namespace, order: Callable[[A], tuple[str, ...]]) -> list[A]:
    """The selected ones, or a random share of them, in order."""
    torch.set_num_threads(1)
    for slow in ("shapiq", "captum.attr", "plotly.graph_objects", "transformers", "timm", "torchvision.models"):
        with contextlib.suppress(ImportError):  # an import that the time limit cuts short stays broken
            importlib.import_module(slow)
    asked = [one for one in everything if options.only in (None, one.subject)]
    return sorted(random.Random(0).sample(asked, round(options.share * len(asked))), key=order)


def report(answers: Sequence[Answered], options: argparse.Namespace, heads: str, kinds: Sequence[str]) -> None:
    """Print the number of each answer; write the table if requested."""
    print(Counter(one.answer for one in answers))
    if options.out:
        options.out.write_text(table(answers, heads, kinds) + "\n")
