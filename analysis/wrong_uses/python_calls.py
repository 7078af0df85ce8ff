"""Every public function, each argument in turn by each of sixteen bad values: what is said, and how.

    python analysis/wrong_uses/python_calls.py [--share 0.1] [--out table.md]

An answer is *clear* when it is one line that says what was expected (or an error of the library's own), *accepted*
when the call returned, *slow* when it went on for longer than three seconds, and *bare* otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import math
import random
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from good_arguments import common, model, record, special

PACKAGES = ("callbacks", "data", "landscape", "lesion", "models", "network", "paths", "plot", "report", "surgery",
            "sweep", "tradeoff", "training")  # fmt: skip
LEFT_OUT = {"on_each_core", "local_workers", "available_devices", "worker_device", "cifar10"}
"""Functions that start processes, or fetch from the network."""
BAD: dict[str, Any] = {
    "None": None, "True": True, "empty text": "", "text": "no such thing", "bytes": b"ab", "-1": -1, "0": 0,
    "NaN": math.nan, "infinity": math.inf, "-infinity": -math.inf, "10^20": 10**20, "complex": 1j, "empty list": [],
    "empty dict": {}, "object": object(), "empty tensor": torch.zeros(0),
}  # fmt: skip
SECONDS = 3


@dataclass(frozen=True)
class Call:
    """One wrong call."""

    function: str
    argument: str
    bad: str
    answer: str = ""
    words: str = ""


class SlowError(BaseException):
    """Nobody catches it by accident."""


def functions() -> dict[str, Any]:
    """All public functions by name."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"resnet_paths.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) and name not in LEFT_OUT:
                found[name] = value
    return found


def calls() -> list[Call]:
    """All wrong calls."""
    return [
        Call(name, argument.name, bad)
        for name, function in functions().items()
        for argument in inspect.signature(function).parameters.values()
        if argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
        for bad in BAD
    ]


def good(function: Any, name: str, folder: Path) -> dict[str, Any]:
    """Arguments with which it runs."""
    own = special(name, folder)
    for argument in inspect.signature(function).parameters.values():
        required = argument.default is argument.empty and argument.kind not in (
            argument.VAR_KEYWORD, argument.VAR_POSITIONAL,
        )  # fmt: skip
        if required and argument.name not in own:
            own[argument.name] = record(name) if argument.name == "record" else common(argument.name, folder)
    return own


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise SlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(call: Call, folder: Path) -> Call:
    """The call with its answer."""
    function = functions()[call.function]
    model().eval()  # what an earlier call may have left behind would be counted against this one
    arguments = {**good(function, call.function, folder), call.argument: BAD[call.bad]}
    try:
        with _limited(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            result = function(**arguments)
            if hasattr(result, "__enter__") and call.function == "lesioned":
                with result:
                    pass
    except SlowError:
        return Call(call.function, call.argument, call.bad, "slow")
    except Exception as error:
        answer = "clear" if is_clear(error) else "bare"
        return Call(call.function, call.argument, call.bad, answer, f"{type(error).__name__}: {error}")
    return Call(call.function, call.argument, call.bad, "accepted", type(result).__name__)


def is_clear(error: Exception) -> bool:
    """Whether it is one line that says what was expected, or an error of the library's own."""
    words = str(error)
    own = type(error).__module__.startswith("resnet_paths")  # these may go on with the reasons for each candidate
    return own or (len(words.splitlines()) == 1 and len(words) < 500 and "expected" in words)


def table(answers: list[Call]) -> str:
    """Counts for each function, as Markdown."""
    kinds = ("clear", "accepted", "bare", "slow")
    lines = ["| function | calls | " + " | ".join(kinds) + " |", "|---|" + "---:|" * (1 + len(kinds))]
    total: Counter[str] = Counter(call.answer for call in answers)
    rows: dict[str, Counter[str]] = {}
    for call in answers:
        rows.setdefault(call.function, Counter())[call.answer] += 1
    for name, counts in [*rows.items(), ("**all**", total)]:
        lines.append(f"| {name} | {counts.total()} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the calls, drawn with seed 0")
    parser.add_argument("--function", help="only this one")
    parser.add_argument("--show", nargs="*", default=(), help="print the calls with these answers")
    parser.add_argument("--out", type=Path, help="write the table here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [call for call in calls() if options.function in (None, call.function)]
    chosen = sorted(
        random.Random(0).sample(chosen, round(options.share * len(chosen))), key=lambda c: (c.function, c.argument)
    )
    answers = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for call in chosen:
            answers.append(tried(call, Path(folder)))
            if answers[-1].answer in options.show:
                words = " ".join(answers[-1].words.split())[:160]
                print(f"{answers[-1].answer}: {call.function}({call.argument}={call.bad}): {words}", flush=True)
    print(Counter(call.answer for call in answers))
    if options.out:
        options.out.write_text(table(answers) + "\n")


if __name__ == "__main__":
    main()
