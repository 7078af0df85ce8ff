"""Every public function, with each argument in turn replaced by each of sixteen bad values: the message and its kind.

    python analysis/wrong_uses/python_calls.py [--share 0.1] [--out table.md]

An answer is *clear* when it is one line that says what was expected (or an error of the library's own), *accepted*
when the call returned, *slow* when it ran for longer than three seconds, and *bare* otherwise.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import math
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from good_arguments import common, model, record, special
from outcomes import SlowError, drawn, limited, read_options, report

PACKAGES = (
    "callbacks", "comparison", "data", "landscape", "lesion", "models", "network", "paths",
    "plot", "report", "surgery", "sweep", "tradeoff", "training",
)  # fmt: skip
LEFT_OUT = {"on_each_core", "local_workers", "available_devices", "worker_device", "cifar10"}
"""Functions that start processes or access the network."""
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

    @property
    def subject(self) -> str:
        """What the table counts by."""
        return self.function


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


def tried(call: Call, folder: Path) -> Call:
    """The call with its answer."""
    function = functions()[call.function]
    model().eval()  # what an earlier call may have left behind would be counted against this one
    arguments = {**good(function, call.function, folder), call.argument: BAD[call.bad]}
    try:
        with limited(SECONDS), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
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


def main() -> None:
    options = read_options(__doc__.splitlines()[0], "function")
    warnings.simplefilter("ignore")
    chosen = drawn(calls(), options, lambda call: (call.function, call.argument))
    answers = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for call in chosen:
            one = tried(call, Path(folder))
            answers.append(one)
            if one.answer in options.show:
                words = " ".join(one.words.split())[:160]
                print(f"{one.answer}: {call.function}({call.argument}={call.bad}): {words}", flush=True)
    report(answers, options, "function | calls", ("clear", "accepted", "bare", "slow"))


if __name__ == "__main__":
    main()
