"""Arguments at the boundary: what is accepted, what is refused, and with which messages."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import pytest
import torch
from torch import nn

from resnet_paths.arguments import Range, checked
from resnet_paths.arguments.hints import WrongValueError, fits
from resnet_paths.arguments.shown import shown

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "analysis" / "wrong_uses"))


class Options(TypedDict, total=False):
    draws: int


@checked(confidence=Range(0.5, 1, below=True))
def study(
    model: nn.Module | None,
    kind: Literal["a", "b"] = "a",
    *,
    seed: int = 0,
    share: float = 0.5,
    confidence: float = 0.9,
    names: Sequence[str] = (),
    shape: tuple[int, int] = (1, 1),
    x: Any = None,
    **options: Unpack[Options],
) -> str:
    """Says that it ran."""
    return "ran"


@pytest.mark.parametrize(
    "given",
    [
        {}, {"seed": np.int64(3)}, {"share": 1}, {"share": np.float32(0.5)}, {"names": ["a"]}, {"names": ("a", "b")},
        {"shape": [1, 2]}, {"x": torch.ones(1)}, {"x": {"a": [torch.ones(1)]}}, {"draws": 3}, {"confidence": 0.5},
    ],
)  # fmt: skip
def test_good_arguments_pass(given: dict[str, Any]) -> None:
    assert study(nn.ReLU(), **given) == "ran"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"seed": -1}, ValueError, r"expected seed to be an integer from 0 to 2\^63 - 1, got -1"),
        ({"seed": 10**30}, ValueError, "got a number of 31 digits"),
        ({"seed": True}, TypeError, "got True"),
        ({"seed": 0.5}, ValueError, "integer"),
        ({"share": math.nan}, ValueError, "expected share to be a number, got nan"),
        ({"share": math.inf}, ValueError, "got inf"),
        ({"share": np.float32("inf")}, ValueError, "got inf"),
        ({"share": np.float16("nan")}, ValueError, "got nan"),
        ({"share": "a"}, TypeError, "expected share to be a number, got 'a'"),
        ({"confidence": 1.0}, ValueError, "of at least 0.5 and below 1, got 1.0"),
        ({"kind": "c"}, ValueError, "expected kind to be 'a' or 'b', got 'c'"),
        ({"kind": 1}, TypeError, "got 1"),
        ({"names": "abc"}, TypeError, "expected names to be a sequence of strings, got 'abc'"),
        ({"names": [1]}, TypeError, r"got \[1\]"),
        ({"shape": (1, 2, 3)}, TypeError, "a tuple of 2"),
        ({"model": "resnet"}, TypeError, r"expected model to be a torch\.nn\.Module, got 'resnet'"),
        ({"model": nn.ReLU}, TypeError, "got the class ReLU"),
        ({"x": "a"}, TypeError, "an input that contains a tensor, of at least one example, got 'a'"),
        ({"x": torch.ones(0, 3)}, ValueError, r"got a Tensor \(float32, 0x3\)"),
        ({"draws": 0}, ValueError, "expected draws to be an integer"),
        ({"drawn": 1}, TypeError, "expected options among draws, got drawn=1"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        study(**{"model": None, **given})
    assert len(str(caught.value).splitlines()) == 1


def test_good_messages_of_python_are_kept() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        study()  # type: ignore[call-arg]
    assert study.__doc__ == "Says that it ran."


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (len, Callable[[int], int], True), (3, Callable[[int], int], False), (range(3), Iterable[int], True),
        ({"a": 1}, Mapping[str, int], True), ({1: 1}, Mapping[str, int], False), (np.ones(3), Sequence[float], True),
        (torch.ones(3), Sequence[float], True), (np.array(["a"]), Sequence[float], False), ("ab", Iterable[str], False),
        (torch.ones(1), Sequence[str], False), (Path("a"), str | Path, True), (b"a", str | Path, False),
        ([[1, 2], [3]], Sequence[Sequence[int]], True), (None, int | None, True),
        (np.array([2.0]), Sequence[int], True), (torch.tensor([True]), Sequence[int], False),
        (torch.ones(1, dtype=torch.complex64), Sequence[float], False),
    ],
)  # fmt: skip
def test_values_and_hints(value: Any, hint: Any, fit: bool) -> None:
    assert fits(value, hint) is fit


@pytest.mark.parametrize("value", [[1.5], np.array([1.5]), torch.tensor([0.5]), [math.nan], np.array([math.nan])])
def test_fractions_are_not_integers(value: Any) -> None:
    with pytest.raises(WrongValueError):
        fits(value, Sequence[int])


def test_whatever_is_shown_fills_one_line() -> None:
    for value in (torch.zeros(9, 9), "a\nb", ["a"] * 999, {1: "x" * 999}, 10**5000, nn.Linear(2, 2), b"\0" * 999):
        assert len(shown(value).splitlines()) == 1
        assert len(shown(value)) < 100


def test_an_autocast_around_the_call_is_left_out() -> None:
    @checked
    def product() -> torch.dtype:
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert product() is torch.float32
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the Hessian is smaller here")
def test_a_sample_of_wrong_calls_of_all_public_functions(tmp_path, monkeypatch) -> None:
    """The full experiment is analysis/wrong_uses/python_calls.py; here each function gets one wrong call."""
    import random

    from python_calls import calls, tried

    monkeypatch.chdir(tmp_path)
    by_function: dict[str, list[Any]] = {}
    for call in calls():
        by_function.setdefault(call.function, []).append(call)
    draw = random.Random(1)
    kinds = {"object", "text", "NaN"}
    sample = [call for some in by_function.values() for call in draw.sample([c for c in some if c.bad in kinds], 1)]
    answers = [tried(call, tmp_path) for call in sample]
    assert [answer for answer in answers if answer.answer == "bare"] == []
    assert sum(answer.answer == "clear" for answer in answers) > 0.9 * len(answers)
