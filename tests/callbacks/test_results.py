"""Records and reports in the loggers, read back from the files that these write."""

from __future__ import annotations

import io
import json
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from resnet_paths import cifar_resnet, path_lengths, single_deletions, unroll
from resnet_paths.callbacks import log_result
from resnet_paths.data import digits
from resnet_paths.records import Shown, drawn


@pytest.fixture(scope="module")
def record():
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    return single_deletions(net, digits().subset(slice(0, 6)), progress=False)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<!doctype html><title>r</title><p>the report of <b>14</b> blocks</p>")
    return path


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def text_of(found: Any, tag: str) -> str:
    (event,) = found.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_tensorboard_has_numbers_table_figure_and_the_place_of_the_report(record, page, tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "log") as writer:
        log_result(writer, record, step=7, name="lesion")
        log_result(writer, record, step=8, name="lesion")
        log_result(writer, page, step=8)
    found = events(tmp_path / "log")
    assert [(event.step, event.value) for event in found.Scalars("lesion/full")] == [
        (7, pytest.approx(record.full)),
        (8, pytest.approx(record.full)),
    ]
    images = found.Images("lesion/figure")
    assert [image.step for image in images] == [7, 8]
    size = drawn(record).figure.bbox.size.round().astype(int).tolist()
    assert list(Image.open(io.BytesIO(images[0].encoded_image_string)).size) == size
    texts = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("lesion/table/text_summary")]
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in texts[0].split("\n")]
    assert head == list(record.to_pandas().columns)
    assert [row[head.index("name")] for row in rows] == list(record.names)
    assert str(page.resolve()) in text_of(found, "report/page")


def test_a_long_table_says_how_much_is_shown(tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "log") as writer:
        log_result(writer, path_lengths(300))
    assert text_of(events(tmp_path / "log"), "LengthDistribution/table").endswith("200 of 301 rows")


def offline(run: Any) -> list[Any]:
    """The content that an offline run has written: a log in LevelDB's format, in blocks of 32 KiB after a header of 7
    bytes.
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = Path(run.dir).parent.glob("*.wandb")
    data, place, begun, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            break  # half written
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(begun)
            found.append(record)
            begun = b""
    return found


def written(run: Any) -> list[Any]:
    """The same once the process beside this one has written its last record."""
    for _ in range(300):
        found = offline(run)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError("the run did not end")


def test_wandb_has_numbers_table_figure_and_the_report_itself(record, page, tmp_path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'resnet-paths[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="test", dir=str(tmp_path), settings=wandb.Settings(console="off", x_disable_stats=True))
    run.log({"loss": 1.0}, step=50)
    log_result(run, record, step=7, name="lesion")  # an earlier step than the run's
    log_result(run, page, step=8)
    run.finish()
    logged: dict[str, Any] = {}
    for found in written(run):
        for item in found.history.item:
            keys = list(item.nested_key) or [item.key]
            value = json.loads(item.value_json)
            if len(keys) == 1:
                logged[keys[0]] = value
            else:
                logged.setdefault(keys[0], {})[keys[1]] = value
    assert logged["lesion/full"] == pytest.approx(record.full)
    assert logged["lesion/step"] == 7
    folder = Path(run.dir)
    assert (folder / logged["report/page"]["path"]).read_text() == page.read_text()
    assert Image.open(folder / logged["lesion/figure"]["path"]).size[0] > 100
    table = json.loads((folder / logged["lesion/table"]["path"]).read_text())
    assert table["columns"] == list(record.to_pandas().columns)
    assert [row[table["columns"].index("name")] for row in table["data"]] == list(record.names)


@dataclass(frozen=True)
class Gap(Shown):
    """A record of a kind that has no figure."""

    number: float = 2.5
    text: str = "a | b"

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({"text": [self.text]})


class Numbers:
    """A Lightning logger without a place for figures."""

    experiment = None

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((metrics, step))


def test_a_logger_of_numbers_takes_the_numbers(record, page) -> None:
    logger = Numbers()
    log_result(logger, record, step=3, name="lesion")
    log_result(logger, page, step=4)
    ((numbers, step),) = logger.logged
    assert (numbers["lesion/full"], step) == (record.full, 3)
    assert all(isinstance(value, float) for value in numbers.values())


def test_what_cannot_be_logged_is_refused_in_one_line(record, page, tmp_path) -> None:
    with pytest.raises(
        TypeError, match=r"expected a SummaryWriter, a run of wandb.init or a Lightning logger, got a list"
    ):
        log_result([], record)
    with pytest.raises(FileNotFoundError, match="report"):
        log_result(Numbers(), tmp_path / "none.html")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected the .html of a report, got 'report.json'"):
        log_result(Numbers(), tmp_path / "report.json")
    with pytest.raises(TypeError, match="expected result to be"):
        log_result(Numbers(), np.ones(3))


def test_a_record_without_a_figure_has_numbers_and_table(tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    assert drawn(Gap()) is None
    with SummaryWriter(tmp_path / "log") as writer:
        log_result(writer, Gap(), name="gap")
    found = events(tmp_path / "log").Tags()
    assert found["images"] == []
    assert found["tensors"] == ["gap/table/text_summary"]
    assert found["scalars"] == ["gap/number"]
