"""What the page computes is what PyTorch computes: the export, and the evaluator under Node where there is one."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_paths.report.in_page as in_page
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import Exploration, explore, measure_sets
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.network.half_precision import half_precision_copy
from resnet_paths.report import explorer_data
from resnet_paths.report.in_page import NotInPageError, half_precision_images, network_in_page
from resnet_paths.report.page import explorer_module

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from plain_networks import network

QUIET: dict[str, Any] = {"progress": False}


def noise(x: torch.Tensor) -> ImageData:
    """Images as bytes, in as many channels as x has."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, *x.shape[1:]), generator=generator, dtype=torch.uint8)
    channels = x.shape[1]
    labels = torch.randint(0, 3, (5,), generator=generator)
    return ImageData(pixels, labels, ("a", "b", "c"), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels], "noise")


def explored(name: str) -> tuple[UnrolledNetwork, ImageData, Exploration]:
    net, x = network(name)
    data = noise(x)
    if net(x).shape[1] > 3:
        data = replace(data, classes=tuple("abcdefghij"))
    return net, data, explore(net, data, **QUIET)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """Eighteen blocks, so that not every set is measured."""
    net = unroll(cifar_resnet(38, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    data = digits("test").subset(slice(0, 12))
    record = explore(net, data, draws=20, held_out=5, max_searched=30, **QUIET)
    content = json.loads(explorer_data(net, data, record, seconds=1e-4))
    return {"net": net, "data": data, "record": record, "content": content}


def test_the_page_says_how_many_answers_the_rounded_network_shares(small: dict[str, Any]) -> None:
    net, data, record = small["net"], small["data"], small["record"]
    agreement = small["content"]["network"]["agreement"]
    rows = np.unique(np.linspace(0, len(record.kept) - 1, agreement["sets"], dtype=int))
    assert len(rows) == agreement["sets"] == 20
    _, wrong = measure_sets(half_precision_copy(net), half_precision_images(data), record.kept[rows], **QUIET)
    assert agreement["alike"] == (wrong == record.wrong[rows]).sum() <= agreement["answers"] == 20 * 12


def test_the_checks_are_measured_by_pytorch_on_the_rounded_network(small: dict[str, Any]) -> None:
    net, data = small["net"], small["data"]
    half, images = half_precision_copy(net), half_precision_images(data)
    checks = small["content"]["network"]["checks"]
    assert checks[0]["kept"] == [True] * 18
    assert len({tuple(check["kept"]) for check in checks}) == 3
    for check in checks:
        logits = half(images.x, torch.tensor(check["kept"]).double())
        assert check["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.labels)), rel=1e-12)
        assert check["errors"] == int((logits.argmax(1) != data.labels).sum())


def test_weights_and_images_travel_bit_by_bit(small: dict[str, Any]) -> None:
    page = small["content"]["network"]
    weights = np.frombuffer(zlib.decompress(base64.b64decode(page["weights"])), "<f2")
    counts = [np.prod(shape) for step in page["operations"] for shape in step["tensors"].values()]
    assert len(weights) == sum(counts)
    first = half_precision_copy(small["net"]).model.conv1.weight.detach().numpy()
    np.testing.assert_array_equal(weights[: first.size].astype(float), first.ravel())
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(page["images"])), "<f2").reshape(12, 1, 8, 8)
    np.testing.assert_array_equal(pixels.astype("f4"), small["data"].images.numpy())


def test_where_every_set_is_measured_the_page_holds_no_network(small: dict[str, Any]) -> None:
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    content = json.loads(explorer_data(net, small["data"], explore(net, small["data"], **QUIET), seconds=1e-4))
    assert content["network"] is None
    assert content["not_computed"] is None


def reason(small: dict[str, Any], **other: Any) -> str:
    with pytest.raises(NotInPageError) as refused:
        network_in_page(
            **{"net": small["net"], "data": small["data"], "exploration": small["record"], "macs": 1000} | other
        )
    return str(refused.value)


def test_what_does_not_fit_a_page_is_not_in_it_and_the_page_says_why(small: dict[str, Any], monkeypatch) -> None:
    assert reason(small, macs=10**9) == "one answer takes 12 billion multiply-adds, and the page allows 4"
    large = torch.full((12, 1, 8, 8), 1e6)
    assert reason(small, data=replace(small["data"], images=large)) == "its images have values that float16 cannot hold"
    monkeypatch.setattr(in_page, "MOST_TEXT", 2_000)
    assert reason(small).startswith("its weights and images take 0.0 MB, and the page allows 0")
    content = json.loads(explorer_data(small["net"], small["data"], small["record"], seconds=1e-4))
    assert content["network"] is None
    assert "its weights and images take" in content["not_computed"]


def test_a_network_with_other_operations_is_not_in_the_page_and_the_page_says_why(small: dict[str, Any]) -> None:
    model = cifar_resnet(38, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    model.layer2[1].bn2 = torch.nn.GroupNorm(1, 2)
    assert reason(small, net=unroll(model.eval())) == "GroupNorm in layer2.1.bn2"


def test_only_finite_losses_are_compared_since_json_has_no_others(small: dict[str, Any], monkeypatch) -> None:
    measure, broken = in_page.measure_sets, 1

    def overflowing(*args: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        losses, wrong = measure(*args, **options)
        losses[:broken, 0] = np.inf
        return losses, wrong

    monkeypatch.setattr(in_page, "measure_sets", overflowing)
    page = network_in_page(small["net"], small["data"], small["record"], 1000)
    json.dumps(page, allow_nan=False)
    assert page["checks"][:2] == small["content"]["network"]["checks"][1:]
    broken = 20
    assert reason(small) == "with weights rounded to float16, its loss is not finite"


def test_an_infinite_bound_is_not_written_down(small: dict[str, Any]) -> None:
    model = cifar_resnet(38, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    model.layer2[1].bn2 = torch.nn.Hardtanh(-1.0, float("inf"))
    assert reason(small, net=unroll(model.eval())) == "its clip has an infinite bound"


NODE = """
const cases = JSON.parse(await new Response(process.stdin).text());
const answers = [];
for (const { data, sets } of cases) {
  const evaluator = await Evaluator.from(data);
  const each = [];
  for (const kept of sets) each.push(await evaluator.ask(kept, { remember: each.length % 2 === 0 }));
  answers.push(each);
}
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node on this machine: the evaluator is tried in a browser only (checks/test_explorer.py)")
    return found


def ask(node: str, cases: list[dict[str, Any]], tmp_path: Path, script: str = NODE) -> Any:
    module = tmp_path / "evaluator.mjs"
    module.write_text(explorer_module() + script, encoding="utf-8")
    done = subprocess.run([node, str(module)], input=json.dumps(cases), capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_evaluator_has_the_numbers_of_pytorch(node: str, tmp_path: Path) -> None:
    """Twelve sets of each network, in an order in which what it keeps from set to set would be wrong if it could be."""
    cases, expected, generator = [], [], np.random.default_rng(0)
    for name in ("everything", "nested", "basic, zero padding"):
        net, data, record = explored(name)
        page = network_in_page(net, data, record, 1000)
        sets = generator.integers(0, 2, (12, len(record.blocks))).astype(bool)
        half, images = half_precision_copy(net), half_precision_images(data)
        expected.append(measure_sets(half, images, sets, record.blocks, fast=False, **QUIET))
        content = {"network": page, "switches": record.blocks, "labels": record.labels.tolist()}
        cases.append({"data": content, "sets": sets.tolist()})
    for (losses, wrong), answers in zip(expected, ask(node, cases, tmp_path), strict=True):
        np.testing.assert_array_equal([answer["wrong"] for answer in answers], wrong)
        np.testing.assert_allclose([answer["loss"] for answer in answers], losses.mean(1), rtol=1e-9)


COUNTED = """
const [{ data, sets }] = JSON.parse(await new Response(process.stdin).text());
const evaluator = await Evaluator.from(data);
const counts = [];
const compute = evaluator.compute;
evaluator.compute = function (...given) { counts[counts.length - 1] += 1; return compute.apply(this, given); };
for (const kept of sets) { counts.push(0); await evaluator.ask(kept); }
const stop = new AbortController();
stop.abort();
evaluator.compute = function (...given) {
  for (const end = performance.now() + 2; performance.now() < end; );
  return compute.apply(this, given);
};
const stopped = await evaluator.ask(sets[1], { signal: stop.signal });
console.log(JSON.stringify({ counts, stopped }));
"""


def test_what_lies_before_the_first_change_is_not_computed_again_and_a_stopped_question_has_no_answer(
    node: str, small: dict[str, Any], tmp_path: Path
) -> None:
    every, last, first = np.ones(18, bool), np.ones(18, bool), np.ones(18, bool)
    last[17], first[0] = False, False
    sets = [kept.tolist() for kept in (every, every, last, every, first)]
    content = {name: small["content"][name] for name in ("network", "switches", "labels")}
    told = ask(node, [{"data": content, "sets": sets}], tmp_path, COUNTED)
    _, same, shorter, longer, rest = (count / 12 for count in told["counts"])  # of each image
    steps = len(content["network"]["operations"])
    assert same < shorter < longer < 0.25 * steps
    assert rest > 0.8 * steps
    assert told["stopped"] is None


def test_an_evaluator_that_disagrees_with_pytorch_does_not_start(node: str, tmp_path: Path) -> None:
    net, data, record = explored("groups")
    page = network_in_page(net, data, record, 1000)
    page["checks"][1]["loss"] *= 1 + 1e-5
    case = {"data": {"network": page, "switches": record.blocks, "labels": record.labels.tolist()}, "sets": []}
    with pytest.raises(AssertionError, match="its arithmetic is not PyTorch"):
        ask(node, [case], tmp_path)
