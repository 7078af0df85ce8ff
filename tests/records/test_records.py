"""Records: declared dimensions, files that give back the same, pictures; for every kind also in test_leaves_no_mark."""

import dataclasses
import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from record_checks import check_record, same
from resnet_paths import gradient_by_length, load_data, load_model, path_lengths, unroll
from resnet_paths.paths import LengthDistribution, block_contributions, logit_lens
from resnet_paths.plot import plot_logit_lens
from resnet_paths.records import Record, load_record
from resnet_paths.tradeoff import StatisticsGap

PACKAGES = ("callbacks", "landscape", "lesion", "paths", "tradeoff", "training")
METHODS = ("to_pandas", "to_xarray", "save", "load", "_repr_html_", "__rich__")


def public_records() -> list[type]:
    return [
        value
        for package in PACKAGES
        for value in vars(importlib.import_module(f"resnet_paths.{package}")).values()
        if inspect.isclass(value) and dataclasses.is_dataclass(value) and hasattr(value, "to_pandas")
    ]


@pytest.mark.parametrize("kind", public_records(), ids=lambda kind: kind.__name__)
def test_every_analysis_returns_a_record(kind: type) -> None:
    assert issubclass(kind, Record)
    assert all(callable(getattr(kind, name)) for name in METHODS)
    names = {field.name for field in dataclasses.fields(kind)}
    names |= {name for name, value in vars(kind).items() if isinstance(value, property)}
    assert set(kind.TABLE) <= set(kind.DIMENSIONS)
    assert {*kind.DIMENSIONS, *kind.COORDINATES.values()} <= names
    used = {dim for dims in kind.DIMENSIONS.values() for dim in dims.split()}
    assert {*kind.COORDINATES} <= used
    assert kind.DIMENSIONS or kind.to_xarray is not Record.to_xarray or kind.__name__ in RAGGED


RAGGED = {"StageDeletions", "BlockInteractions", "Trajectory"}
"""Their tables become columns along rows."""


@dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Everything(Record):
    """Every kind of value that a file must give back."""

    DIMENSIONS = {"array": "row column", "tensor": "row", "named": "row"}  # noqa: RUF012
    COORDINATES = {"row": "labels"}  # noqa: RUF012

    array: np.ndarray
    tensor: torch.Tensor
    named: dict[str, np.ndarray]
    labels: tuple[str, ...]
    by_pair: dict[tuple[int, ...], float]
    inner: Inner
    big: int
    number: float
    folder: Path
    nothing: None = None

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({"label": self.labels})


Everything.__module__ = Inner.__module__ = "resnet_paths.made_for_a_test"


@pytest.fixture
def everything(monkeypatch) -> Everything:
    module = type(importlib)("resnet_paths.made_for_a_test")
    module.Everything, module.Inner = Everything, Inner
    monkeypatch.setitem(importlib.sys.modules, module.__name__, module)
    return Everything(
        array=np.arange(6.0).reshape(2, 3)[:, ::-1],
        tensor=torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        named={"loss": np.array([1, 2]), "error": np.zeros(2, np.float32)},
        labels=("a", "b"),
        by_pair={(0, 1): 0.1, (2,): float("inf")},
        inner=Inner((0.1, 0.2)),
        big=2**200,
        number=0.1 + 0.2,
        folder=Path("runs") / "one",
    )


def test_a_file_gives_back_every_kind_of_value(everything, tmp_path) -> None:
    check_record(everything, tmp_path)
    again = Record.load(tmp_path / "record.npz")
    assert same(everything, again)
    assert again.tensor.dtype == torch.bfloat16
    assert again.big == 2**200
    assert again.by_pair == everything.by_pair


def test_dimensions_coordinates_and_facts(everything) -> None:
    found = everything.to_xarray()
    assert found["array"].dims == ("row", "column")
    assert list(found["row"].values) == ["a", "b"]
    assert list(found["column"].values) == [0, 1, 2]
    assert found["loss"].dtype == np.int64
    assert found.attrs["number"] == everything.number
    assert "nothing" not in found.attrs


def test_records_of_another_kind_and_other_files_are_refused(tmp_path) -> None:
    path = path_lengths(3).save(tmp_path / "lengths.npz")
    assert same(LengthDistribution.load(path), path_lengths(3))
    with pytest.raises(ValueError, match=r"with StatisticsGap, got .* which contains LengthDistribution"):
        StatisticsGap.load(path)
    with pytest.raises(ValueError, match=r"ends in .npz"):
        path_lengths(3).save(tmp_path / "lengths.json")
    with pytest.raises(FileNotFoundError, match=r"none.npz"):
        load_record(tmp_path / "none.npz")
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a record"):
            load_record(path)
    np.savez(path, values=np.ones(3))
    with pytest.raises(ValueError, match="expected a record written by its save method"):
        load_record(path)


@pytest.mark.parametrize(
    "named",
    ["os:system", "builtins:eval", "resnet_paths.files:write_text", "resnet_paths.records.record:Record", "nowhere:No"],
)
def test_a_file_cannot_call_arbitrary_functions(named, tmp_path) -> None:
    content = {"format": 1, "content": {"class": named, "fields": {}}}
    np.savez(tmp_path / "bad.npz", record=np.frombuffer(json.dumps(content).encode(), np.uint8))
    with pytest.raises(ValueError, match="expected a record written by its save method"):
        load_record(tmp_path / "bad.npz")


def test_what_no_file_can_hold_is_refused_and_leaves_the_old_file(tmp_path, everything) -> None:
    path = everything.save(tmp_path / "a.npz")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"expected numbers, strings and arrays in .*named.*, got a function"):
        dataclasses.replace(everything, named={"f": test_dimensions_coordinates_and_facts}).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_notebooks_show_pictures_and_leave_no_figure_open(small_checkpoint) -> None:
    from matplotlib import pyplot

    data = load_data("digits", limit=4)
    net = unroll(load_model(str(small_checkpoint)))
    for record in (path_lengths(5), gradient_by_length(net, data.x, data.labels)):
        assert '<img alt="' in record._repr_html_()
    assert not pyplot.get_fignums()


def test_an_output_of_one_number_per_example_has_no_dimension_of_classes() -> None:
    lone = torch.nn.Sequential(load_model("embedded"), torch.nn.Linear(10, 1), torch.nn.Flatten(0)).eval()
    x = load_data("digits", limit=2).x
    split = block_contributions(unroll(lone, x), x)
    assert split.output.shape == (2,)
    assert split.to_xarray()["contributions"].dims == ("source", "example")
    assert split.to_xarray()["output"].dims == ("example",)
    lens = logit_lens(unroll(lone, x), x)
    assert lens.probabilities is None
    assert set(lens.to_xarray()) == {"logits"}
    with pytest.raises(ValueError, match="read the outputs themselves in logits"):
        lens.accuracy(torch.tensor([0, 0]))
    column = logit_lens(unroll(lone[:-1].eval(), x), x)
    assert column.probabilities is None
    with pytest.raises(ValueError, match="expected scores of several classes"):
        plot_logit_lens(column)
