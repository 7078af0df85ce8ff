"""Deleting only shortcuts, and by stage, against literal deletions; studies that resume."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy import stats

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import (
    random_deletions,
    reorderings,
    shortcut_deletions,
    single_deletions,
    stage_deletions,
    stages,
)
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.statistics import resamples
from resnet_paths.sweep import SweepError, SweepInterrupted

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from naive_lesion import without, without_shortcut


def images(count: int = 12) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(pixels, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def first_logit(logits, labels, whole):
    return logits[:, 0]


def tiny() -> torch.nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0)).eval().double()


@pytest.mark.parametrize("fast", [False, True])
def test_without_shortcuts(fast: bool) -> None:
    model, data = tiny(), images()
    record = shortcut_deletions(unroll(model), data, metric=first_logit, fast=fast, batch_size=5)
    assert record.deleted == "shortcut"
    for index, name in enumerate(record.names):
        with torch.no_grad():
            expected = without_shortcut(model, name)(data.x.double())[:, 0].numpy()
        assert np.abs(record.per_image[index + 1] - expected).max() < 1e-10
    assert np.abs(record.damage).min() > 1e-6


@pytest.mark.slow
def test_stages_by_shape() -> None:
    x = torch.zeros(1, 3, 32, 32)
    assert stages(unroll(torchvision.models.resnet50().eval()), x) == (
        tuple(range(3)),
        tuple(range(3, 7)),
        tuple(range(7, 13)),
        tuple(range(13, 16)),
    )
    blocks = torchvision.models.convnext_tiny().eval()
    assert [len(stage) for stage in stages(unroll(blocks), x)] == [3, 3, 9, 3]
    assert [len(stage) for stage in stages(unroll(cifar_resnet(20).eval()), x)] == [3, 3, 3]


def test_deletions_stay_in_their_stage_and_end_with_all_of_it() -> None:
    model, data = tiny(), images()
    net = unroll(model)
    record = stage_deletions(net, data, [1, 2, 7], draws=3, metric=first_logit)
    assert [result.counts.tolist() for result in record.results] == [[1, 2, 3]] * 3
    for stage, result, whole in zip(record.stages, record.results, record.full_stage, strict=True):
        assert set(np.concatenate([blocks.ravel() for blocks in result.deleted])) <= set(stage)
        damaged = without(model, [net[block].name for block in stage])
        assert whole == pytest.approx(float(damaged(data.x.double())[:, 0].detach().mean()), abs=1e-10)
    table = record.to_pandas()
    assert len(table) == 27
    assert set(table["stage"]) == {0, 1, 2}
    with pytest.raises(ValueError, match="from 1 to 3"):
        stage_deletions(net, data, [0])


def test_intervals_of_the_damage_are_paired() -> None:
    record = single_deletions(unroll(tiny()), images(), metric="loss")
    low, high = record.damage_interval()
    assert (low <= record.damage).all()
    assert (record.damage <= high).all()
    paired = np.std(record.per_image[1:] - record.per_image[0], axis=1, ddof=1) / np.sqrt(12)
    student = 2 * stats.t.ppf(0.975, 11) * paired
    assert (high - low >= student - 1e-12).all()
    assert (high - low <= 2 * student).all()
    assert {"damage_low", "damage_high"} <= set(record.to_pandas())
    assert np.isnan(single_deletions(unroll(tiny()), images(1)).to_pandas()["damage_low"]).all()


def test_intervals_of_the_median_over_draws() -> None:
    record = random_deletions(unroll(tiny()), images(), [1, 3], draws=5, metric="loss")
    low, high = record.median_interval()
    middle = np.median(record.values, axis=1)
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert record.per_image[1:].mean(1).reshape(2, 5) == pytest.approx(record.values)
    drawn = [np.repeat(np.arange(12), times) for times in resamples(12, 1000)]
    medians = [np.median(record.per_image[1:][:, images].mean(1).reshape(2, 5), axis=1) for images in drawn]
    half = stats.t.ppf(0.975, 11) * np.std(medians, axis=0, ddof=1)
    assert np.stack([low, high]) == pytest.approx(np.stack([middle - half, middle + half]))
    assert record.blocks == tuple(range(9))


@pytest.mark.parametrize("metric", ["error", "soft_error", "loss"])
def test_a_block_that_changes_no_image_is_not_certain_to_change_none(metric: str) -> None:
    """A branch that gives zeros: no image changes, of twelve; another might."""
    model = tiny()
    net = unroll(model)
    with torch.no_grad():
        for parameter in model.get_submodule(net[4].name).parameters():
            parameter.zero_()
    net = unroll(model)
    record = single_deletions(net, images(), metric=metric)
    low, high = record.damage_interval()
    assert record.damage[4] == pytest.approx(0, abs=1e-6)
    assert low[4] < -0.1 < 0.1 < high[4] if metric == "error" else low[4] < high[4]


@pytest.mark.slow
def test_a_study_resumes_from_its_journal(tmp_path) -> None:
    net, data = unroll(tiny()), images()
    file, log, stop = tmp_path / "study.journal", tmp_path / "log", tmp_path / "stop"

    def watched(logits, labels, whole):
        with log.open("a") as lines:
            lines.write(f"{len(labels)}\n")
        if stop.exists() and len(log.read_text().split()) > 10:
            raise KeyboardInterrupt
        return logits[:, 0]

    def study():
        return random_deletions(net, data, [1, 4], metric=watched, draws=3, batch_size=5, progress=False, journal=file)

    stop.touch()
    with pytest.raises(SweepInterrupted, match="1 of 3 points"):
        study()
    stop.unlink()
    log.unlink()
    found = study()
    assert log.read_text().split() == ["4"] * 14  # one batch of images was there already
    log.unlink()
    assert np.array_equal(study().per_image, found.per_image)
    assert not log.exists()
    straight = random_deletions(net, data, [1, 4], draws=3, metric=first_logit, batch_size=5)
    np.testing.assert_allclose(found.per_image, straight.per_image, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_another_study_in_the_same_journal(tmp_path) -> None:
    net, data = unroll(tiny()), images()
    arguments = {"draws": 3, "metric": "loss", "batch_size": 5}
    file = tmp_path / "studies.journal"
    random_deletions(net, data, [2], progress=False, journal=file, **arguments)
    moved = reorderings(net, data, [2], progress=False, journal=file, **arguments)
    straight = reorderings(net, data, [2], **arguments)
    np.testing.assert_allclose(moved.per_image, straight.per_image, rtol=1e-10, atol=1e-12)
    assert moved.evaluations == straight.evaluations


def test_a_study_on_an_executor_gives_the_same_numbers() -> None:
    net, data = unroll(tiny()), images()
    with ThreadPoolExecutor(1) as executor:
        found = shortcut_deletions(net, data, batch_size=4, progress=False, executor=executor)
    here = shortcut_deletions(net, data, batch_size=4)  # on another number of threads, which may round otherwise
    np.testing.assert_allclose(found.per_image, here.per_image, rtol=1e-10, atol=1e-12)


def test_a_failing_metric_is_named() -> None:
    def average(logits, labels, whole):
        return logits.mean()

    net, data = unroll(tiny()), images()
    with pytest.raises(ValueError, match="one value per example"):
        single_deletions(net, data, metric=average)
    with ThreadPoolExecutor(1) as executor, pytest.raises(SweepError, match="one value per example"):
        random_deletions(net, data, [1], draws=1, metric=average, progress=False, executor=executor)
