"""Pictures of studies show the numbers of their records."""

import numpy as np
import pytest

from resnet_paths import unroll
from resnet_paths.data import digits
from resnet_paths.lesion import (
    block_values,
    damage_predictors,
    higher_interactions,
    random_deletions,
    rank_predictors,
    reorderings,
    shortcut_deletions,
    single_deletions,
    stage_deletions,
)
from resnet_paths.models import load_model
from resnet_paths.plot import (
    plot_interactions,
    plot_predictor,
    plot_predictor_ranking,
    plot_random_deletions,
    plot_reorderings,
    plot_single_deletions,
    plot_stage_deletions,
)


@pytest.fixture(scope="module")
def setting(small_checkpoint):
    return unroll(load_model(str(small_checkpoint))), digits("test").subset(slice(0, 20))


def test_error_against_tau(setting) -> None:
    record = reorderings(*setting, [1, 4], draws=3)
    ax = plot_reorderings(record, chance=0.9)
    assert ax.get_xlabel() == "Kendall's tau with the original order (falls to the right)"
    assert ax.xaxis_inverted()
    points = next(line for line in ax.lines if line.get_label() == "one order")
    assert np.array_equal(points.get_xdata(), record.tau)
    assert np.array_equal(points.get_ydata(), record.values)
    assert ax.containers[0].lines[0].get_ydata().tolist() == record.by_swaps()["median"].tolist()


def test_error_against_count_with_its_interval(setting) -> None:
    record = random_deletions(*setting, [1, 5], draws=4)
    ax = plot_random_deletions(record, chance=0.9)
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([record.full, *np.median(record.values, axis=1)])
    low, high = record.median_interval()
    segments = ax.containers[0].lines[2][0].get_segments()
    assert np.array([segment[:, 1] for segment in segments]) == pytest.approx(np.stack([low, high], 1))


@pytest.mark.slow
def test_stages(setting) -> None:
    record = stage_deletions(*setting, [1], draws=2)
    ax = plot_stage_deletions(record)
    assert [line.get_ydata()[-1] for line in ax.lines] == record.full_stage.tolist()
    assert "blocks 2 to 3" in ax.lines[1].get_label()


def test_what_is_deleted_is_named(setting) -> None:
    assert plot_single_deletions(shortcut_deletions(*setting)).get_xlabel() == "block without its shortcut"


@pytest.mark.slow
def test_predictors(setting) -> None:
    predictors, damage = damage_predictors(*setting, cka_images=0), single_deletions(*setting, metric="loss")
    ranking = rank_predictors(predictors, damage)
    ax = plot_predictor_ranking(ranking)
    assert tuple(label.get_text() for label in ax.get_yticklabels()) == ranking.predictors
    assert ax.containers[0].lines[0].get_xdata().tolist() == ranking.spearman.tolist()
    scatter = plot_predictor(predictors, "taylor", damage)
    drawn = sorted(y for line in scatter.lines[:2] for y in line.get_ydata())
    assert drawn == sorted(damage.damage.tolist())
    with pytest.raises(ValueError, match="branch_ratio"):
        plot_predictor(predictors, "cka", damage)


@pytest.mark.slow
def test_interactions_of_both_kinds(setting) -> None:
    pytest.importorskip("shapiq")
    ours = plot_interactions(block_values(*setting, blocks=[0, 2, 5], interactions=True))
    theirs = plot_interactions(higher_interactions(*setting, blocks=[0, 2, 5], order=2, index="SII"))
    one, other = (ax.collections[0].get_array().filled(0) for ax in (ours, theirs))
    assert one == pytest.approx(other)
    assert {text.get_text().lstrip("+-.0") for text in ours.texts} <= {
        f"{abs(value):.2g}".lstrip("0.") for value in one.ravel()
    }
    assert theirs.get_title() == "SII interactions"
