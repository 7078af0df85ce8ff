"""Lesion studies against literal deletions, and the statistics of their intervals."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers import randomise_norms
from resnet_paths.data import ImageData, digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.lesion import METRICS, evaluate_gates, interval, metric_named, random_deletions, single_deletions
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import NoBlocksError, UnrollError, unroll
from resnet_paths.surgery import drop_blocks

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from naive_lesion import single_deletion_logits, without


def random_images(count: int = 30) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def tiny(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0)).eval().to(dtype)


@pytest.mark.slow
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


@pytest.mark.slow
def test_error_counts_are_the_same_on_the_embedded_network() -> None:
    model, data = load_model("embedded"), digits("test").subset(slice(0, 80))
    net = unroll(model)
    plain, fast = (single_deletions(net, data, fast=fast, batch_size=32) for fast in (False, True))
    logits = single_deletion_logits(model, list(plain.names), data.x)
    first, second = logits.topk(2, -1).values.unbind(-1)
    clear = (first - second > 1e-3).numpy()  # rounding decides the other predictions
    assert clear.mean() > 0.999
    expected = (logits.argmax(-1) != data.labels).numpy()
    for record in (plain, fast):
        assert np.array_equal(record.per_image[1:][clear], expected[clear])


def test_record_is_whole() -> None:
    net, data = unroll(tiny(torch.float32)), random_images()
    record = single_deletions(net, data)
    table = record.to_pandas()
    assert list(table["name"]) == [block.name for block in net]
    assert np.allclose(table["damage"], record.values - record.full)
    assert (record.low <= record.values).all()
    assert (record.values <= record.high).all()
    assert record.least(3) == list(np.argsort(record.values, kind="stable")[:3])
    assert record.source.model == fingerprint(net.model)


@pytest.mark.slow
def test_random_deletions() -> None:
    model, data = tiny(), random_images()
    net = unroll(model)
    record = random_deletions(net, data, [1, 4, 9], draws=3, metric="disagreement", seed=1)
    again = random_deletions(net, data, [1, 4, 9], draws=3, metric="disagreement", seed=1)
    assert np.array_equal(record.values, again.values)
    x = data.x.double()
    for count, sets, values in zip(record.counts, record.deleted, record.values, strict=True):
        for blocks, value in zip(sets, values, strict=True):
            assert len(set(blocks)) == count
            damaged = without(model, [net[int(block)].name for block in blocks])
            assert value == pytest.approx(float((damaged(x).argmax(1) != model(x).argmax(1)).double().mean()))
    assert record.full == 0
    assert record.quantiles().shape == (3, 3)
    assert len(record.to_pandas()) == 9


@pytest.mark.parametrize(
    "metric", [name for name, metric in METRICS.items() if "class" in metric.fits and "numbers" not in metric.fits]
)
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
    assert record.full == pytest.approx(float(net(data.x).amax(1).mean()), rel=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_intervals_of_shares_cover(share: float) -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = interval((generator.random(200) < share).astype(float))
        inside += low <= share <= high
    assert 0.93 <= inside / 2000 <= 0.975


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


def test_a_network_that_gives_nan_is_wrong_and_labels_it_does_not_have_are_refused() -> None:
    nothing, some = torch.full((2, 3), float("nan")), torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    for name in ("error", "top5_error", "disagreement"):
        assert metric_named(name)[1](nothing, torch.tensor([0, 1]), some).tolist() == [1, 1]
    assert metric_named("disagreement")[1](some, torch.tensor([0, 1]), nothing).tolist() == [1, 1]
    for name in ("error", "top5_error", "loss", "soft_error"):
        with pytest.raises(ValueError, match="labels from 0 to 2"):
            metric_named(name)[1](some, torch.tensor([0, 3]), some)
    assert metric_named("divergence")[1](some, torch.tensor([0, 3]), some).tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["loss", "divergence"])
def test_float64_stays_float64_all_the_way_to_the_record(metric: str) -> None:
    model, data = tiny(), random_images()
    plain, fast = (single_deletions(unroll(model), data, metric=metric, fast=fast).per_image for fast in (False, True))
    assert np.abs(plain - fast).max() < 1e-10 * np.abs(plain).max()
    x, names = data.x.double(), [block.name for block in unroll(model)]
    whole, logits = model(x).log_softmax(-1).detach(), single_deletion_logits(model, names, x).log_softmax(-1)
    loss = -logits.gather(-1, data.labels.expand(9, -1)[..., None])[..., 0]
    expected = loss if metric == "loss" else (whole.exp() * (whole - logits)).sum(-1)
    assert np.abs(plain[1:] - expected.numpy()).max() < 1e-10 * float(expected.abs().max())


class Scaled(torch.nn.Module):
    """Half of what it is given: a branch without parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_branches_without_weights_are_not_blocks() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Scaled()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.first(x)

    with pytest.raises(NoBlocksError, match="no layer with weights"):
        unroll(Bare().eval())


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=30), st.floats(0.5, 0.99))
def test_the_interval_of_a_mean_by_its_formula(values: list[float], level: float) -> None:
    if set(values) <= {0.0, 1.0}:
        return
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    t = stats.t.ppf((1 + level) / 2, len(values) - 1)
    low, high = interval(np.array(values), level)
    assert low <= mean - t * error + 1e-9  # and further where the values are skewed
    assert high >= mean + t * error - 1e-9
    if len(set(values)) == 1:
        assert (low, high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([0.5], 95), ([0.5], 0)])
def test_no_interval_of_no_images_or_of_no_level(values: list[float], level: float) -> None:
    with pytest.raises(ValueError, match=r"at least one example|confidence to be a number between 0 and 1"):
        interval(np.array(values), level)


@pytest.mark.slow
def test_single_deletions_resume_from_a_journal(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    net, data = unroll(tiny()), random_images()
    plain = single_deletions(net, data, batch_size=10)
    for computed in (3, 0):
        record = single_deletions(net, data, batch_size=10, journal=tmp_path / "single.sqlite")
        assert np.array_equal(record.per_image, plain.per_image)
        assert f"; {computed} computed now" in capsys.readouterr().err


def test_a_keyword_that_no_study_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="bacth_size"):
        single_deletions(unroll(tiny()), random_images(), bacth_size=10)  # type: ignore[call-arg]


def test_the_least_damaging_blocks_are_as_many_as_asked_for_or_an_error() -> None:
    record = single_deletions(unroll(tiny()), random_images(), metric="loss")
    assert record.least(9) == np.argsort(record.values, kind="stable").tolist()
    assert record.least(0) == []
    for count in (-1, 10):
        with pytest.raises(ValueError, match="expected a count from 0 to 9"):
            record.least(count)


@pytest.mark.parametrize("count", range(1, 60))
def test_the_interval_of_a_share_holds_the_share(count: int) -> None:
    for hits in {0, count // 3, count}:
        low, high = interval(np.arange(count) < hits)
        assert 0 <= low <= hits / count <= high <= 1  # bars of negative length cannot be drawn


@pytest.mark.parametrize("metric", [lambda logits, labels: labels, torch.nn.CrossEntropyLoss(reduction="none")])
def test_metrics_of_too_few_arguments_are_reported_before_the_work(metric) -> None:
    with pytest.raises(TypeError, match=r"a metric of three arguments \(logits, labels, .*got .*; wrap it"):
        single_deletions(unroll(tiny()), random_images(), metric=metric)
