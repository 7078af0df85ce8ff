"""Lesion studies against literal deletions, and the statistics of their intervals."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import METRICS, evaluate_gates, interval, metric_named, random_deletions, single_deletions
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.surgery import drop_blocks
from resnet_paths.unroll import UnrollError, unroll
from resnet_paths.unroll.fingerprint import fingerprint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from naive_lesion import single_deletion_logits, without


def random_images(count: int = 30) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def tiny(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0)).eval().to(dtype)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_single_deletions_equal_the_literal_ones(fast: bool, dtype: torch.dtype, tolerance: float) -> None:
    model, data = tiny(dtype), random_images()
    net = unroll(model)
    record = single_deletions(net, data, metric="loss", fast=fast, batch_size=7)
    logits = single_deletion_logits(model, list(record.names), data.x.to(dtype))
    for row, values in enumerate(logits):
        expected = torch.nn.functional.cross_entropy(values.float(), data.labels, reduction="none").numpy()
        assert np.abs(record.per_image[row + 1] - expected).max() <= max(tolerance, 1e-5)
        dropped = drop_blocks(model, [row])
        assert torch.allclose(dropped(data.x.to(dtype)), values, rtol=tolerance, atol=tolerance)


def test_error_counts_are_the_same_on_the_embedded_network() -> None:
    model, data = load_model("embedded"), digits("test")
    net = unroll(model)
    plain, fast = (single_deletions(net, data, fast=fast, batch_size=64) for fast in (False, True))
    assert np.array_equal(plain.per_image, fast.per_image)
    logits = single_deletion_logits(model, list(plain.names), data.x)
    assert np.array_equal(plain.per_image[1:], (logits.argmax(-1) != data.labels).numpy())


def test_record_is_whole() -> None:
    net, data = unroll(tiny(torch.float32)), random_images()
    record = single_deletions(net, data)
    table = record.to_pandas()
    assert list(table["name"]) == [unit.name for unit in net]
    assert np.allclose(table["damage"], record.values - record.whole)
    assert (record.low <= record.values).all()
    assert (record.values <= record.high).all()
    assert record.least(3) == list(np.argsort(record.values, kind="stable")[:3])
    assert record.model_fingerprint == fingerprint(net.model)


def test_random_deletions() -> None:
    model, data = tiny(), random_images()
    net = unroll(model)
    record = random_deletions(net, data, [1, 4, 9], draws=3, metric="disagreement", seed=1)
    again = random_deletions(net, data, [1, 4, 9], draws=3, metric="disagreement", seed=1)
    assert np.array_equal(record.values, again.values)
    x = data.x.double()
    for count, sets, values in zip(record.counts, record.deleted, record.values, strict=True):
        for units, value in zip(sets, values, strict=True):
            assert len(set(units)) == count
            damaged = without(model, [net[int(unit)].name for unit in units])
            assert value == pytest.approx(float((damaged(x).argmax(1) != model(x).argmax(1)).double().mean()))
    assert record.whole == 0
    assert record.quantiles().shape == (3, 3)
    assert len(record.to_pandas()) == 9


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_metrics_by_their_definitions(metric: str) -> None:
    logits, labels = torch.randn(50, 10), torch.randint(0, 10, (50,))
    whole = torch.randn(50, 10)
    order = logits.argsort(1, descending=True)
    expected = {
        "error": (order[:, 0] != labels).float(),
        "loss": -logits.log_softmax(1)[torch.arange(50), labels],
        "top5_error": 1 - (order[:, :5] == labels[:, None]).float().amax(1),
        "disagreement": (order[:, 0] != whole.argmax(1)).float(),
        "soft_error": 1 - logits.double().exp()[torch.arange(50), labels] / logits.double().exp().sum(1),
        "soft_disagreement": (logits.softmax(1) - whole.softmax(1)).clamp(min=0).sum(1),
        "divergence": (whole.softmax(1) * (whole.log_softmax(1) - logits.log_softmax(1))).sum(1),
    }[metric]
    assert torch.allclose(metric_named(metric)[1](logits, labels, whole), expected.float(), atol=1e-5)


def test_own_metric() -> None:
    def margin(logits, labels, whole):
        return logits.amax(1)

    net, data = unroll(tiny(torch.float32)), random_images()
    record = single_deletions(net, data, metric=margin, fast=False)
    assert record.metric == "margin"
    assert record.whole == pytest.approx(float(net(data.x).amax(1).mean()), rel=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_intervals_of_shares_cover(share: float) -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = interval((generator.random(200) < share).astype(float))
        inside += low <= share <= high
    assert 0.93 <= inside / 2000 <= 0.975


def test_intervals_of_means_cover() -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = interval(generator.exponential(2.0, 200))
        inside += low <= 2.0 <= high
    assert 0.92 <= inside / 2000 <= 0.97


def test_the_model_is_untouched_also_after_an_exception() -> None:
    model, data = tiny(torch.float32), random_images()
    net, before = unroll(model), fingerprint(model)

    def stops(logits, labels, whole):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        single_deletions(net, data, metric=stops)
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, data: single_deletions(net, data, metric="accuracy"), "disagreement"),
        (lambda net, data: random_deletions(net, data, [10]), "from 1 to 9"),
        (lambda net, data: evaluate_gates(net, data, torch.ones(1, 9), lambda *a: a[0], batch_size=0), "at least 1"),
    ],
)
def test_wrong_use(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(unroll(tiny(torch.float32)), random_images())


def test_training_mode_is_refused() -> None:
    with pytest.raises(UnrollError, match="eval"):
        single_deletions(unroll(tiny(torch.float32).train()), random_images())
