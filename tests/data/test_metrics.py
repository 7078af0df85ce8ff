"""Metrics of tokens, pixels, numbers, flags and embeddings: definitions, intervals, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from references import literal_metrics
from resnet_paths.data import ExampleMetric, Examples, ImageData
from resnet_paths.data.fitting import check_fits, data_for, fitting, usual_metric
from resnet_paths.data.metrics import METRICS, bound_of
from resnet_paths.statistics import mean_intervals

TOKENS, VOCABULARY, CLASSES = 6, 5, 4


def drawn(name: str, seed: int, count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Outputs, targets and a mask that fit a metric; some positions do not count."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if name in ("next_token_loss", "perplexity", "next_token_error"):
        labels = torch.randint(VOCABULARY, (count, TOKENS), generator=generator)
        lengths = torch.randint(2, TOKENS + 1, (count,), generator=generator)
        mask = torch.arange(TOKENS) < lengths[:, None]
        labels[torch.rand(count, TOKENS, generator=generator) < 0.2] = -100
        labels[0, 1] = 0
        return numbers(count, TOKENS, VOCABULARY), labels, mask
    if name in ("pixel_loss", "pixel_error", "iou_error"):
        labels = torch.randint(CLASSES, (count, 3, 2), generator=generator)
        labels[torch.rand(count, 3, 2, generator=generator) < 0.2] = -100
        labels[0, 0, 0] = 0
        return numbers(count, CLASSES, 3, 2), labels, None
    if name in ("multilabel_error", "multilabel_loss"):
        flags = torch.randint(2, (count, 3), generator=generator)
        flags[1:][torch.rand(count - 1, 3, generator=generator) < 0.3] = -100
        return numbers(count, 3), flags, None
    return numbers(count, 2), numbers(count, 2), None


@pytest.mark.parametrize("name", literal_metrics.WITH_TARGETS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_the_mean_of_an_examples_values_is_the_metric_by_its_definition(name: str, seed: int) -> None:
    outputs, targets, mask = drawn(name, seed)
    values = METRICS[name](outputs, targets, outputs, mask)
    assert values.shape == (len(outputs),)
    expected = literal_metrics.WITH_TARGETS[name](outputs, targets, mask)
    assert float(values.double().mean()) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["cosine_distance", "embedding_distance"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3), (4, 2, 2, 2)])
def test_distances_to_the_full_network_by_their_definitions(name: str, shape: tuple[int, ...]) -> None:
    outputs, full = torch.randn(2, *shape, dtype=torch.float64)
    value = float(METRICS[name](outputs, None, full).mean())
    assert value == pytest.approx(getattr(literal_metrics, name)(outputs, full), rel=1e-10)
    assert METRICS[name](full, None, full).tolist() == [0] * 4
    assert METRICS[name](torch.zeros_like(full), None, torch.zeros_like(full)).tolist() == [0] * 4


def test_masked_tokens_do_not_move_an_embedding() -> None:
    full, mask = torch.randn(3, 4, 2, dtype=torch.float64), torch.tensor([[1, 1, 0, 0]] * 3).bool()
    outputs = full.clone()
    outputs[:, 2:] += torch.tensor(float("nan"))
    for name in ("cosine_distance", "embedding_distance"):
        assert METRICS[name](outputs, None, full, mask).tolist() == [0, 0, 0]
        assert METRICS[name](outputs, None, full).isnan().all()


def test_the_loss_of_one_batch_is_pytorchs() -> None:
    outputs, labels, _ = drawn("next_token_loss", 3)
    expected = F.cross_entropy(outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert float(METRICS["next_token_loss"](outputs, labels, outputs).mean()) == pytest.approx(float(expected))
    outputs, labels, _ = drawn("pixel_loss", 3)
    expected = F.cross_entropy(outputs, labels, ignore_index=-100)
    assert float(METRICS["pixel_loss"](outputs, labels, outputs).mean()) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["disagreement", "divergence", "soft_disagreement"])
def test_a_prediction_per_position_is_compared_like_one_per_example(name: str) -> None:
    one, other = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    value = METRICS[name](one, None, other, mask).mean()
    flat = METRICS[name](one[mask], None, other[mask]).double()
    assert float(value) == pytest.approx(float(flat.mean()), rel=1e-10)
    labels = torch.zeros(3, 4, dtype=torch.int64)
    same = METRICS[name](one.movedim(-1, 1), labels.masked_fill(~mask, -100), other.movedim(-1, 1))
    assert float(same.mean()) == pytest.approx(float(value), rel=1e-10)
    with pytest.raises(ValueError, match="pass targets or attention_mask, or use embedding_distance"):
        METRICS[name](one, None, other)


@pytest.mark.parametrize("name", ["perplexity", "iou_error", "next_token_error"])
def test_intervals_of_ratios_cover_as_often_as_they_say(name: str) -> None:
    """Against the metric of a large population of examples, of which samples are drawn."""
    outputs, targets, mask = drawn(name, 0, count=4000)
    metric = METRICS[name]
    parts = metric.parts(outputs, targets, outputs, mask).numpy()
    truth = metric.values(parts).mean()
    generator = np.random.default_rng(0)
    samples = np.stack([parts[generator.choice(len(parts), 60, replace=False)] for _ in range(300)])
    low, high = mean_intervals(metric.values(samples), draws=100)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.91 <= covered <= 0.995, covered
    naive = np.stack([metric.values(sample) for sample in samples[:20]]).std(1).mean() / np.sqrt(60)
    assert 0.3 < (high - low).mean() / (4 * naive) < 3


def test_values_of_equal_lengths_are_those_of_each_example() -> None:
    parts = np.array([[1.0, 4.0], [3.0, 4.0], [0.0, 4.0]])
    assert METRICS["next_token_error"].values(parts).tolist() == [0.25, 0.75, 0.0]


BOUNDED = [metric for metric in METRICS.values() if metric.bound is not None]


@pytest.mark.parametrize("metric", BOUNDED, ids=lambda metric: metric.name)
def test_bounds_hold(metric: ExampleMetric) -> None:
    outputs, targets, mask = drawn(metric.name, 1)
    if "class" in metric.fits and metric.name != "cosine_distance":
        targets = torch.zeros(5, dtype=torch.int64)
    assert 0 <= float(metric(outputs, targets, -outputs, mask).mean()) <= bound_of(metric.name)


NUMBERS = Examples(torch.zeros(4, 3), torch.randn(4), "prices")
FLAGS = Examples(torch.zeros(4, 3), torch.tensor([[0.0, 1.0]] * 4), "tags")
ONE_FLAG = Examples(torch.zeros(4, 3), torch.tensor([True, False, True, True]), "ill")
ONE_FLOAT = Examples(torch.zeros(4, 3), torch.tensor([1.0, 0.0, 1.0, 1.0]), "ill")
CLASS = Examples(torch.zeros(4, 3), torch.tensor([0, 2, 1, 0]), "kinds")
MASKS = Examples(torch.zeros(4, 3, 2, 2), torch.full((4, 2, 2), 3), "masks")
IDS = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
NONE = Examples(torch.zeros(4, 3), None, "plain")


@pytest.mark.parametrize(
    ("data", "fit"),
    [
        (NUMBERS, {"squared_error", "absolute_error"}),
        (FLAGS, {"squared_error", "absolute_error", "multilabel_error", "multilabel_loss"}),
        (ONE_FLAG, {"multilabel_error", "multilabel_loss"}),
        (ONE_FLOAT, {"squared_error", "multilabel_error", "multilabel_loss"}),
        (CLASS, {"error", "loss", "divergence", "soft_error", "squared_error"}),
        (MASKS, {"pixel_error", "iou_error", "next_token_loss", "divergence"}),
        (NONE, {"divergence", "cosine_distance", "embedding_distance"}),
    ],
    ids=["numbers", "flags", "one flag", "one float", "class", "masks", "none"],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(data: Examples, fit: set[str]) -> None:
    assert fit | {"cosine_distance", "embedding_distance"} <= set(fitting(data))
    for name in METRICS:
        if name in fitting(data):
            assert data_for(name, data, None) is data
            continue
        with pytest.raises(ValueError, match=r"^expected .*embedding_distance.*$") as refused:
            data_for(name, data, None)
        assert "\n" not in str(refused.value)
        assert repr(name) in str(refused.value)


@pytest.mark.parametrize("targets", [ONE_FLAG.targets, ONE_FLOAT.targets])
@pytest.mark.parametrize("name", ["multilabel_error", "multilabel_loss"])
def test_one_logit_and_one_flag_per_example(name: str, targets: torch.Tensor) -> None:
    """Binary classification, whether the outputs are (examples,) or (examples, 1)."""
    logits = torch.tensor([1.0, 2.0, -3.0, 0.5])
    expected = literal_metrics.WITH_TARGETS[name](logits[:, None], targets[:, None].float(), None)
    for outputs in (logits, logits[:, None]):
        assert float(METRICS[name](outputs, targets, outputs).mean()) == pytest.approx(expected, rel=1e-6)
    assert usual_metric(Examples(torch.zeros(4, 3), targets)) == "multilabel_error"
    zeros = Examples(torch.zeros(4, 3), torch.zeros(4))  # numbers that are all zero show no flag
    assert usual_metric(zeros) == "squared_error"


def test_images_refuse_what_they_have_no_targets_for() -> None:
    images = ImageData(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("a", "b"), (0.0,), (1.0,), "two")
    with pytest.raises(ValueError, match="one of error, loss"):
        data_for("perplexity", images, None)


def test_a_shift_of_labels_that_does_not_fit_is_refused() -> None:
    same, moved = Examples({"input_ids": IDS}, IDS, "texts"), Examples(IDS[:, :-1], IDS[:, 1:], "moved")
    for name in ("next_token_loss", "perplexity", "next_token_error"):
        check_fits(METRICS[name], same)
        with pytest.raises(ValueError, match="already shifted by one"):
            check_fits(METRICS[name], moved)
    check_fits(METRICS["pixel_loss"], moved)
    with pytest.raises(ValueError, match="compared with itself"):
        check_fits(METRICS["pixel_loss"], same)


def test_wrong_shapes_and_labels_are_refused_in_one_line() -> None:
    outputs = torch.zeros(2, 4, 5)
    for name, targets, expected in (
        ("next_token_loss", torch.zeros(2, 3, dtype=torch.int64), "labels of all tokens"),
        ("next_token_loss", torch.full((2, 4), 5), "labels from 0 to 4"),
        ("pixel_error", torch.zeros(2, 3, dtype=torch.int64), "targets for each position"),
        ("squared_error", torch.zeros(2, 4), "targets of the shape of the outputs"),
        ("multilabel_error", torch.full((2, 4, 5), 2), "flags of 0 and 1"),
    ):
        with pytest.raises(ValueError, match=expected):
            METRICS[name](outputs, targets, outputs)
    with pytest.raises(ValueError, match="at least one target that counts"):
        METRICS["perplexity"](outputs, torch.full((2, 4), -100), outputs)


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 2, 5], [-3, 0, 0]])
def test_whole_numbers_for_one_output_are_told_as_numbers(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"one output and integer targets .*; pass the metric") as told:
        METRICS["loss"](torch.zeros(3, 1), torch.tensor(labels), torch.zeros(3, 1))
    assert "images" not in str(told.value)


def test_masks_of_two_classes_are_classes_of_pixels_and_their_flags_are_flags() -> None:
    draw = torch.Generator().manual_seed(0)
    two = torch.randint(0, 2, (5, 4, 4), generator=draw)
    images = torch.randn(5, 3, 4, 4)
    for targets, usual in (
        (two, "pixel_loss"),
        (two[:, None], "multilabel_error"),
        (two.double(), "multilabel_error"),
        (two[:, 0], "multilabel_error"),
        (torch.stack([two] * 2, 1), "pixel_loss"),
    ):
        assert usual_metric(Examples(images, targets)) == usual


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_missing_targets_are_counted_and_refused(shape: tuple[int, ...]) -> None:
    targets = torch.zeros(shape)
    targets[2] = targets[4] = torch.nan
    data = Examples(torch.zeros(6, 4), targets)
    with pytest.raises(ValueError, match="'squared_error', got NaN in 2 of 6 examples of examples in memory; remove"):
        check_fits(METRICS["squared_error"], data)
    check_fits(METRICS["embedding_distance"], data)
