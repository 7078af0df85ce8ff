"""Records show themselves in one line and, in a notebook, as a table."""

import dataclasses
import importlib
import inspect
import io
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from resnet_paths import gradient_by_length, load_data, load_model, path_lengths, single_deletions, unroll
from resnet_paths.records import Shown

PACKAGES = [path.parent.name for path in (Path(__file__).parents[1] / "src" / "resnet_paths").glob("*/__init__.py")]


class Balanced(HTMLParser):
    """Refuses tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)
        if tag not in ("br", "img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(html: str) -> list[str]:
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    return parser.seen


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_record_is_shown(package: str) -> None:
    module = importlib.import_module(f"resnet_paths.{package}")
    for name in getattr(module, "__all__", ()):
        if name.startswith("Lightning"):  # a callback, no record; to read it would import Lightning
            continue
        value = getattr(module, name)
        if inspect.isclass(value) and dataclasses.is_dataclass(value) and hasattr(value, "to_pandas"):
            assert issubclass(value, Shown), f"{name} of {package} shows no table in a notebook: derive it from Record"


@pytest.mark.slow
def test_real_records_are_short_in_a_line_and_whole_in_a_table(small_checkpoint) -> None:
    data = load_data("digits", limit=8)
    net = unroll(load_model(str(small_checkpoint)))
    records = [
        single_deletions(net, data, progress=False),
        gradient_by_length(net, data.x, data.labels),
        path_lengths(27),
    ]
    for record in records:
        line = repr(record)
        assert "\n" not in line
        assert len(line) < 1000, line
        assert "table" in tags(record._repr_html_())
    assert "layer3.1" in records[0]._repr_html_()


@dataclass(frozen=True)
class Sample(Shown):
    text: str
    number: float
    tensor: torch.Tensor
    names: tuple[str, ...]
    facts: dict[str, int]
    nothing: None = None
    hidden: str = dataclasses.field(default="hidden", repr=False)

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({"name": self.names, "value": np.arange(len(self.names))})


def sample(count: int) -> Sample:
    names = tuple(f"<b>{index}" for index in range(count))
    return Sample("x" * 100, 1 / 3, torch.zeros(2, 3), names, {"a": 1})


def test_each_kind_of_field() -> None:
    assert repr(sample(5)) == (
        "Sample(text='xxxxxxxxxxxx...', number=0.3333, tensor=float32 (2, 3), names=<5 values>, facts=<1 entries>, "
        "nothing=None)"
    )


def test_a_repr_of_the_class_itself_stays() -> None:
    @dataclass(frozen=True)
    class Own(Shown):
        value: int

        def __repr__(self) -> str:
            return "<mine>"

        def to_pandas(self) -> pd.DataFrame:
            return pd.DataFrame({"value": [self.value]})

    assert repr(Own(1)) == "<mine>"
    assert "&lt;mine&gt;" in Own(1)._repr_html_()


def test_long_tables_are_cut_and_say_so() -> None:
    html = sample(100)._repr_html_()
    assert "30 of 100 rows" in html
    assert tags(html).count("tr") == 31
    assert "rows" not in sample(30)._repr_html_()


def test_text_is_escaped() -> None:
    assert "b" not in tags(sample(3)._repr_html_())


def test_terminals_draw_a_table() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(sample(100))
    text = console.export_text()
    assert "<b>29" in text
    assert "<b>30" not in text
    assert "30 of 100 rows" in text


@pytest.mark.slow
def test_records_of_different_packages_identify_a_model_the_same_way(small_checkpoint) -> None:
    data = load_data("digits", limit=4)
    net = unroll(load_model(str(small_checkpoint)))
    deleted, split = single_deletions(net, data, progress=False), gradient_by_length(net, data.x, data.labels)
    assert deleted.source.model == split.source.model
