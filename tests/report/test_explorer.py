"""What the explorer is given: every number of it against the network."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import explore
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.paths import path_lengths
from resnet_paths.report import explore_widget, explorer_data
from resnet_paths.report.explorer import enclosing
from resnet_paths.report.stages.explorer import STAGE, affordable
from resnet_paths.report.widget import measured
from resnet_paths.surgery import drop_blocks
from resnet_paths.tradeoff import count_macs, count_parameters

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from graphs import Nested


def numbers(text: str, kind: Any) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    model = randomise_norms(cifar_resnet(14, in_channels=1, widths=(4, 4, 8), seed=0)).eval()
    net, data = unroll(model), digits("test").subset(slice(0, 21))
    record = explore(net, data, progress=False)
    content = json.loads(explorer_data(net, data, record, seconds=1e-4, batch=2, model_code='load_model("<x>")'))
    return {"model": model, "net": net, "data": data, "record": record, "content": content}


def test_every_set_is_in_it_bit_by_bit(small: dict[str, Any]) -> None:
    content, record = small["content"], small["record"]
    assert content["kept"] is None
    bits = numbers(content["wrong"], np.uint8).reshape(64, 3)
    wrong = np.unpackbits(bits, axis=1, bitorder="little")[:, :21].astype(bool)
    np.testing.assert_array_equal(wrong, record.wrong)
    np.testing.assert_array_equal(numbers(content["losses"], "<f4"), record.losses.mean(1, dtype=float).astype("f4"))
    assert content["labels"] == small["data"].labels.tolist()


@pytest.mark.parametrize("dropped", [[0], [1, 2], [5], [0, 3, 4]])
def test_what_blocks_cost_is_what_dropping_them_saves(small: dict[str, Any], dropped: list[int]) -> None:
    content, x = small["content"], small["data"].x[:2]
    smaller = drop_blocks(small["model"], dropped)
    left = {
        name: content["total"][name] - sum(content["blocks"][i][name] for i in dropped)
        for name in ("parameters", "macs")
    }
    assert left == {"parameters": count_parameters(smaller), "macs": count_macs(smaller, x) // 2}
    assert content["total"]["seconds"] > sum(block["seconds"] for block in content["blocks"]) > 0


def test_pictures_are_those_of_images_that_turn_wrong_most_often(small: dict[str, Any]) -> None:
    pictures, record = small["content"]["pictures"], small["record"]
    often = record.wrong.mean(0) - record.wrong[-1]
    first = next(int(image) for image, place in pictures["places"].items() if place == 0)
    assert often[first] == often.max()
    assert pictures["uri"].startswith("data:image/png;base64,")
    assert (pictures["width"], pictures["height"]) == (8, 8)


def test_pixels_are_those_of_the_image(small: dict[str, Any]) -> None:
    import io

    from PIL import Image

    pictures, data = small["content"]["pictures"], small["data"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures["uri"].partition(",")[2]))))
    for image, place in list(pictures["places"].items())[:14]:
        y, x = 8 * (place // pictures["columns"]), 8 * (place % pictures["columns"])
        shown = sheet[y : y + 8, x : x + 8, 0].astype(float)
        real = data.images[int(image), 0].double().numpy()
        assert np.corrcoef(shown.ravel(), real.ravel())[0, 1] > 0.999


def test_blocks_inside_others_go_with_them() -> None:
    model = Nested().eval()
    x = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    net = unroll(model, x)
    assert enclosing(net) == [2, 2, -1]
    data = ImageData(x, torch.arange(8) % 3, ("a", "b", "c"), (0.0, 0.0), (1.0, 1.0), "noise")
    content = json.loads(explorer_data(net, data, explore(net, data, progress=False), seconds=1e-4))
    left = content["total"]["parameters"] - sum(block["parameters"] for block in content["blocks"])
    assert left == count_parameters(drop_blocks(net, [2]))
    one = content["total"]["parameters"] - content["blocks"][0]["parameters"]
    assert one == count_parameters(drop_blocks(net, [0]))
    counts = [[block, terms] for block, terms in content["graph"]]
    assert len(counts) == 2 + 3  # start, sums, output
    assert path_lengths(net).paths == 5


@pytest.mark.slow
def test_the_estimate_is_stored_as_it_was_checked() -> None:
    net = unroll(randomise_norms(cifar_resnet(38, in_channels=1, widths=(2, 2, 2), seed=0)).eval())
    data = digits("test").subset(slice(0, 10))
    record = explore(net, data, draws=20, held_out=5, max_searched=30, progress=False)
    content = json.loads(explorer_data(net, data, record, seconds=1e-4, in_page=False))
    estimate = content["estimate"]
    kept = np.unpackbits(numbers(content["kept"], np.uint8).reshape(-1, 3), axis=1, bitorder="little")[:, :18]
    coefficients = numbers(estimate["coefficients"], "<f2").reshape(len(kept), 11).astype(float)
    for asked in record.estimate.held_out:  # type: ignore[union-attr]
        alike = np.exp(-((kept != asked) @ np.array(estimate["rates"])))
        margins = alike @ coefficients + np.array(estimate["centre"])
        answer = record.answer(np.flatnonzero(~asked).tolist())
        np.testing.assert_array_equal(margins[:-1] < 0, answer.wrong)
        assert np.exp(margins[-1]) == pytest.approx(answer.loss)
    off = np.abs(record.estimate.estimated - record.estimate.measured)  # type: ignore[union-attr]
    assert estimate["errors"] == off.tolist()
    assert estimate["deleted"] == (~record.estimate.held_out).sum(1).tolist()  # type: ignore[union-attr]


def test_other_images_than_those_explored_are_refused(small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected the 21 images of the exploration, got digits"):
        explorer_data(small["net"], digits("test").subset(slice(0, 20)), small["record"])


@pytest.mark.parametrize("n", [1, 2, 8, 12, 16, 17, 54])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 2.0])
def test_the_work_stays_within_what_is_allowed_or_is_the_least(n: int, level: float) -> None:
    options = STAGE.options(level)
    plan = affordable(n, 300, options)
    if not plan["exhaustive"]:
        assert n > 6
        assert plan == {"exhaustive": False, "images": 300} | {
            name: options[name] for name in ("draws", "held_out", "max_searched")
        }
        return
    assert n <= 16
    least = plan["images"] == 50 and n <= 6
    assert 2 ** (n + 1) / n * plan["images"] <= options["passes"] or least
    assert 50 <= plan["images"] <= 300
    assert 2**n * plan["images"] <= 2**22


def test_a_set_that_the_notebook_asks_for_is_measured(small: dict[str, Any]) -> None:
    net, data, record = small["net"], small["data"], small["record"]
    kept = [True, False, True, True, False, True]
    found = measured(net, data, record, {"id": 7, "kept": kept})
    expected = record.answer([1, 4])
    assert found["id"] == 7
    assert found["wrong"] == expected.wrong.tolist()
    assert found["loss"] == pytest.approx(expected.loss)
    json.dumps(found)  # as it travels
    assert measured(net, data, record, {"id": 8, "kept": [True]}) == {"id": 8, "error": "expected 6 switches, got (1,)"}


def test_the_widget_needs_anywidget_and_says_so(small: dict[str, Any], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(
        ImportError, match=r"expected anywidget to be installed; run: pip install 'resnet-paths\[notebook"
    ):
        explore_widget(small["net"], small["data"], small["record"])


def test_the_widget_holds_the_explorer_and_answers(small: dict[str, Any]) -> None:
    pytest.importorskip("anywidget", reason="the extra notebook is not installed")
    widget = explore_widget(small["net"], small["data"], small["record"])
    assert json.loads(widget.data)["switches"] == list(range(6))
    assert "export default" in widget._esm
    assert not widget.live  # all sets were measured
    sent: list[dict[str, Any]] = []
    widget.send = sent.append
    widget._handle_custom_msg({"id": 1, "kept": [True] * 6}, [])
    assert sent == [measured(small["net"], small["data"], small["record"], {"id": 1, "kept": [True] * 6})]
