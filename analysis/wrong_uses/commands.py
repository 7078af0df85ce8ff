"""Wrong uses of the command line, generated from the options of every command: the message and the exit code.

    python analysis/wrong_uses/commands.py [--share 0.2] [--show traceback unclear] [--out table.md]

An answer is *one line* (exit code 2 and one line that begins with ``error:``), *accepted* (exit code 0, or still
running after some seconds: the value is none that can be refused before the work), *traceback*, or *unclear*.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from resnet_paths.cli import app

sys.path.insert(0, str(Path(__file__).parent))
from outcomes import SlowError, drawn, limited, read_options, report

SECONDS = 6
OWN = """
from resnet_paths.models import cifar_resnet
def build(): return cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0)
"""
BASE = {
    "unroll": ["--model", "own.py:build"],
    "lesion": ["--model", "own.py:build", "--limit", "6"],
    "paths": ["--model", "own.py:build", "--limit", "2", "--draws", "2"],
    "compare": ["--model", "own.py:build", "--other", "own.py:build", "--limit", "4", "--draws", "1"],
    "plan": ["--model", "own.py:build", "--limit", "6"],
    "shrink": ["--model", "own.py:build", "--limit", "6", "--no-onnx"],
    "drop": ["--model", "own.py:build", "--blocks", "1", "--limit", "6", "--no-onnx"],
    "landscape": ["--model", "own.py:build", "--limit", "4", "--points", "3"],
    "train": ["--model", "cifar-resnet8", "--widths", "2,2,2", "--epochs", "1", "--limit", "8"],
    "report": ["--model", "own.py:build", "--limit", "6"],
    "reproduce": ["veit2016", "--model", "own.py:build", "--limit", "6"],
}
"""The other options of each command, so that an accepted value causes little work."""
NUMBERS = ("", "x", "-1", "0", "1.5", "nan", "inf", "-inf", "99999999999999999999", "1e400")
TEXTS = ("", " ", "no such thing", ",", ":", "@", "\\", "a" * 300, "-1", "99999999999999999999")
PATHS = ("", "missing/deep/file", "file.txt", "file.txt/under", "folder", "/proc/none/x", "a" * 300)


@dataclass(frozen=True)
class Use:
    """One wrong use."""

    command: str
    option: str
    value: str
    answer: str = ""
    words: str = ""

    @property
    def subject(self) -> str:
        """What the table counts by."""
        return self.command


def uses() -> list[Use]:
    """All invalid uses: every option with every bad value of its kind."""
    found = []
    for name, command in sorted(get_command(app).commands.items()):  # type: ignore[attr-defined]
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for option in command.params:
            flags = [flag for flag in option.opts if flag.startswith("--")]
            if flags and option.name in hints:
                found += [Use(name, flags[0], value) for value in _values(hints[option.name])]
    return found


def _values(hint: Any) -> tuple[str, ...]:
    words = str(hint)
    if "bool" in words:
        return ()
    if "[int" in words or "[float" in words or words in ("<class 'int'>", "<class 'float'>"):
        return NUMBERS
    return PATHS if "Path" in words.partition("OptionInfo")[0] else TEXTS


def prepare(folder: Path) -> None:
    """The test environment: a user's model, a file and a folder."""
    (folder / "own.py").write_text(OWN)
    (folder / "file.txt").write_text("text")
    (folder / "folder").mkdir(exist_ok=True)


def tried(use: Use, seconds: int = SECONDS) -> Use:
    """The use with its answer, run in the prepared folder."""
    base = list(BASE[use.command])
    if use.option in base:  # the last one counts, but some take several
        place = base.index(use.option)
        del base[place : place + 2]
    if use.command == "drop" and use.option == "--plan":
        base = [word for word in base if word not in ("--blocks", "1")]
    try:
        with limited(seconds):
            result = CliRunner().invoke(app, [use.command, *base, f"{use.option}={use.value}"])
    except SlowError:
        return replace(use, answer="accepted", words="still running")
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("error:")]
    words = lines[-1] if lines else result.output.strip()[-150:]
    if "Traceback" in result.output or not (result.exception is None or isinstance(result.exception, SystemExit)):
        return replace(use, answer="traceback", words=repr(result.exception) + words)
    if result.exit_code == 0:
        return replace(use, answer="accepted", words=words)
    clear = result.exit_code == 2 and len(lines) == 1
    return replace(use, answer="one line" if clear else "unclear", words=f"{result.exit_code} {words}")


def warm_up() -> None:
    """Run the other options alone: if they failed, every use would seem to be refused.

    This also imports everything before the time limit applies.
    """
    for command, base in BASE.items():
        if command in ("report", "reproduce"):  # minutes; what they are given is what the others are given
            continue
        result = CliRunner().invoke(app, [command, *base])
        if result.exit_code:
            raise RuntimeError(f"{command} {' '.join(base)} failed: {result.stderr}")


def main() -> None:
    options = read_options(__doc__.splitlines()[0], "command")
    chosen = drawn(uses(), options, lambda use: (use.command, use.option))
    answers = []
    before = sys.stderr
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(Path(folder))
        warm_up()
        for use in chosen:
            one = tried(use)
            answers.append(one)
            sys.stderr = before
            if one.answer in options.show:
                print(f"{one.answer}: {one.command} {one.option}={one.value[:40]!r}: {one.words[:200]}", flush=True)
    report(answers, options, "command | invalid uses", ("one line", "accepted", "traceback", "unclear"))


if __name__ == "__main__":
    main()
