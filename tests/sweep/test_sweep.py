import itertools
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnet_paths.sweep import FingerprintError, SweepError, SweepProgress, grid, sweep


class Counted:
    """A function that counts its calls, which does not affect what it computes."""

    def __init__(self, returns: Any = None) -> None:
        self.calls: list[Any] = []
        self.returns = returns or (lambda point, context, seed: point)

    def __call__(self, point: Any, context: Any, seed: int) -> Any:
        self.calls.append(point)
        return self.returns(point, context, seed)

    def __sweep_fingerprint__(self) -> Any:
        return self.returns


def run(function: Any, points: Any, **options: Any) -> Any:
    return sweep(function, points, **{"progress": False, **options})


def test_values_errors_and_order() -> None:
    def halves(point: dict, context: int, seed: int) -> dict[str, Any]:
        return {"half": point["n"] / context, "row": np.arange(point["n"] % 2 + 2.0)}

    result = run(halves, [{"n": 3}, {"n": 1}, {"n": 2}], context=2)
    assert result.values["half"].tolist() == [1.5, 0.5, 1.0]
    assert [row.tolist() for row in result.values["row"]] == [[0, 1, 2], [0, 1, 2], [0, 1]]
    assert result.finished.all()
    assert result.points == ({"n": 3}, {"n": 1}, {"n": 2})


@pytest.mark.parametrize(
    "value", [0, 0.0, -0.0, math.nan, math.inf, -math.inf, False, "", np.zeros(2), np.full(2, math.nan)]
)
def test_no_value_is_taken_for_a_missing_one(tmp_path: Path, value: Any) -> None:
    first = Counted(lambda point, context, seed: value)
    a = run(first, range(3), journal=tmp_path / "j")
    again = Counted(first.returns)
    b = run(again, range(3), journal=tmp_path / "j")
    assert len(first.calls) == 3
    assert again.calls == []
    np.testing.assert_array_equal(a.values["value"], b.values["value"])
    assert repr(a.values["value"]) == repr(b.values["value"])
    assert b.finished.all()


def test_only_new_points_are_computed(tmp_path: Path) -> None:
    function = Counted()
    run(function, range(5), journal=tmp_path / "j")
    result = run(function, [7, 4, 2, 9], journal=tmp_path / "j")
    assert function.calls == [0, 1, 2, 3, 4, 7, 9]
    assert result.values["value"].tolist() == [7, 4, 2, 9]


def test_equal_points_are_computed_once() -> None:
    function = Counted()
    result = run(function, [1, 2, 1, 1, 2, 3])
    assert function.calls == [1, 2, 3]
    assert result.values["value"].tolist() == [1, 2, 1, 1, 2, 3]


def scale(factor: float) -> Any:
    return lambda point, context, seed: point * factor


def linear(value: float) -> nn.Module:
    model = nn.Linear(1, 1).requires_grad_(False)
    model.weight.fill_(value)
    model.bias.fill_(0)
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"function": scale(3)},
        {"function": lambda point, context, seed: point * 2.0 + 0},
        {"seed": 1},
        {"context": linear(1.0)},
        {"context": linear(2.0 + 2**-22)},
        {"context": linear(2.0).double()},
        {"context": linear(2.0).train(False)},
        {"version": "2"},
    ],
    ids=["closure", "code", "seed", "weights", "one bit of a weight", "type", "mode", "version"],
)
def test_a_changed_input_never_reuses_an_old_value(tmp_path: Path, change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"function": scale(2), "context": linear(2.0)}

    def computed(**changed: Any) -> int:
        states: list[SweepProgress] = []
        arguments = {**options, **changed}
        run(arguments.pop("function"), range(4), journal=tmp_path / "j", progress=states.append, **arguments)
        return states[-1].computed

    assert computed() == 4
    assert computed(context=linear(2.0)) == 0
    assert computed(**change) == 4
    assert computed() == 0
    assert computed(**change) == 0


def test_the_default_type_of_torch_counts(tmp_path: Path) -> None:
    function = Counted(lambda point, context, seed: torch.full((1,), 1 / 3).double())
    single = run(function, [0], journal=tmp_path / "j").values["value"]
    try:
        torch.set_default_dtype(torch.float64)
        double = run(function, [0], journal=tmp_path / "j").values["value"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(function.calls) == 2
    assert single != double


def test_failed_points_are_recorded_and_the_rest_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {2, 5}

    def inverse(point: int, context: None, seed: int) -> float:
        if point in context_broken:
            raise ZeroDivisionError(f"at {point}")
        return 1 / (1 + point)

    context_broken = frozenset(broken)
    function = Counted(inverse)
    result = sweep(function, range(7), journal=tmp_path / "j", version="1")
    said = capsys.readouterr().err
    assert "5 of 7 points finished, 2 failed" in said
    assert "ZeroDivisionError: at 2" in said
    assert "retry_failed=True" in said
    assert result.finished.tolist() == [n not in broken for n in range(7)]
    assert set(result.errors) == broken
    assert "in inverse" in result.errors[2]
    assert result.errors[2].endswith("ZeroDivisionError: at 2")
    assert np.isnan(result.values["value"][2])

    context_broken = frozenset({5})
    assert set(run(function, range(7), journal=tmp_path / "j", version="1").errors) == broken
    assert len(function.calls) == 7
    retried = run(function, range(7), journal=tmp_path / "j", version="1", retry_failed=True)
    assert function.calls[7:] == [2, 5]
    assert set(retried.errors) == {5}
    assert retried.values["value"][2] == 1 / 3


def test_a_function_that_returns_nonsense_is_a_failed_point() -> None:
    result = run(lambda point, context, seed: None, [0])
    assert "expected numbers" in result.errors[0]


def test_seeds_make_the_same_values_in_any_order_and_leave_the_callers_generators_alone() -> None:
    def draws(point: int, context: None, seed: int) -> dict[str, float]:
        own = torch.Generator().manual_seed(seed)
        return {
            "own": float(torch.rand((), generator=own)),
            "torch": float(torch.rand(())),
            "numpy": float(np.random.rand()),
            "python": random.random(),
            "dropout": float(nn.functional.dropout(torch.ones(64)).sum()),
        }

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = float(torch.rand(())), float(np.random.rand()), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    forwards = run(draws, range(8))
    assert (float(torch.rand(())), float(np.random.rand()), random.random()) == expected
    backwards = run(draws, range(7, -1, -1))
    other = run(draws, range(8), seed=1)
    for name, values in forwards.values.items():
        assert values.tolist() == backwards.values[name][::-1].tolist()
        assert len(set(values)) > 4
        assert values.tolist() != other.values[name].tolist()


def test_points_may_be_lazy_and_are_read_a_few_at_a_time() -> None:
    class Lazy(Sequence[int]):
        reads: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, index: Any) -> Any:
            self.reads.append(index)
            return index

    def stop_soon(point: int, context: None, seed: int) -> int:
        if point == 20:
            raise KeyboardInterrupt
        return point

    with pytest.raises(KeyboardInterrupt):
        run(stop_soon, Lazy(), version="1")
    assert len(Lazy.reads) <= 1000
    assert run(Counted(), (i for i in range(3))).values["value"].tolist() == [0, 1, 2]
    assert run(Counted(lambda p, c, s: p["a"] * p["b"]), grid(a=[1, 2], b=[3, 4])).values["value"].tolist() == [
        3,
        4,
        6,
        8,
    ]


def test_no_points_are_not_an_error(tmp_path: Path) -> None:
    result = run(Counted(), [], journal=tmp_path / "j")
    assert len(result) == 0
    assert result.values == {}
    assert len(result.to_pandas()) == 0
    assert result.to_xarray().sizes["point"] == 0


def test_progress_counts_what_is_written() -> None:
    states: list[SweepProgress] = []
    run(Counted(), range(30), progress=states.append)
    assert states[-1].finished == states[-1].computed == states[-1].total == 30
    assert states[-1].open == 0
    assert all(a.finished <= b.finished for a, b in itertools.pairwise(states))


def test_a_function_that_changes_its_context_is_noticed() -> None:
    def trains(point: int, model: nn.Module, seed: int) -> torch.Tensor:
        return model(torch.full((4, 1), float(point))).sum()

    with pytest.warns(UserWarning, match="running statistics"):
        run(trains, range(2), context=nn.BatchNorm1d(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(trains, range(2), context=nn.BatchNorm1d(1).eval())


def test_wrong_arguments_are_reported() -> None:
    with pytest.raises(SweepError, match="context"):
        run(Counted(), [np.zeros(3)])
    with pytest.raises(ValueError, match="seed to be an integer"):
        run(Counted(), [0], seed=1.5)
    with pytest.raises(ValueError, match="chunk to be an integer"):
        run(Counted(), [0], chunk=0)
    stream = iter_forever()
    with pytest.raises(FingerprintError, match="version="):
        run(lambda point, context, seed: next(stream), [0])


def iter_forever() -> Iterator[int]:
    while True:
        yield 1


def test_sweeps_within_sweeps(tmp_path: Path) -> None:
    def outer(point: int, context: str, seed: int) -> float:
        inner = sweep(lambda p, c, s: p * c, range(3), context=point, journal=context, progress=False)
        return float(inner.values["value"].sum())

    result = run(outer, range(3), context=str(tmp_path / "j"), journal=tmp_path / "j")
    assert result.values["value"].tolist() == [0, 3, 6]
