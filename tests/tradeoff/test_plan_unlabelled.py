"""A plan from images without labels: the same as from labelled ones by the same metric, and no accuracy."""

import math
from dataclasses import replace

import pytest
import torch

from resnet_paths import unroll
from resnet_paths.data import as_data, digits
from resnet_paths.models import cifar_resnet
from resnet_paths.plot import plot_plan
from resnet_paths.tradeoff import (
    AccuracyDrop,
    Clock,
    Count,
    Disagreement,
    Distil,
    Distillation,
    Greedy,
    ImageSplit,
    NoRepair,
    Recalibrate,
    Refit,
    load_plan,
    plan_drop,
)

QUICK = Clock(batch=2, seconds=0.0, rounds=1)
TRAIN = digits("train").subset(slice(0, 80))
PIXELS = as_data(TRAIN.x, labelled=False)


@pytest.fixture(scope="module")
def net():
    return unroll(cifar_resnet(14, in_channels=1, widths=(4, 4, 8), seed=0).eval())


def planned(net, images, goal, **options):
    return plan_drop(net, images, goal=goal, clock=QUICK, progress=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("repair", [NoRepair(), Recalibrate(), Refit()], ids=lambda one: type(one).__name__)
def test_a_bound_of_disagreement_needs_no_labels(repair, net, tmp_path) -> None:
    goal = Disagreement(0.6, 0.9)
    plan, same = (planned(net, images, goal, search=Greedy(max_blocks=3), repair=repair) for images in (TRAIN.x, TRAIN))
    assert [point.dropped for point in plan.points] == [point.dropped for point in same.points]
    assert [point.disagreement for point in plan.points] == [point.disagreement for point in same.points]
    assert plan.chosen == same.chosen
    assert all(math.isnan(point.accuracy) for point in plan.points)
    assert all(math.isnan(point.fall) and math.isnan(point.fall_at_most) for point in plan.points[1:])
    again = load_plan(plan.save(tmp_path / "plan.json"))
    assert again.points[1].disagreement_at_most == plan.points[1].disagreement_at_most
    assert math.isnan(again.points[1].accuracy)
    smaller = plan.apply(net, TRAIN.x)
    assert sum(p.numel() for p in smaller.parameters()) == plan.point.parameters
    picture = plot_plan(plan)
    assert picture.get_ylabel().startswith("disagreement with the full network")
    assert all(torch.tensor(line.get_ydata()).isfinite().all() for line in picture.lines)


@pytest.mark.slow
def test_other_goals_search_by_disagreement_where_there_are_no_labels(net) -> None:
    settings = Distillation(epochs=1, weight=1.0, shift=0, flip=False)
    plan = planned(net, PIXELS, Count(2), repair=Distil(settings, NoRepair()))
    assert plan.metric == "soft_disagreement"
    assert len(plan.point.dropped) == 2
    assert plan.finetuned is not None
    assert math.isnan(plan.finetuned.accuracy)
    labelled = planned(net, PIXELS, Count(1), repair=NoRepair(), split=ImageSplit(certify=digits("test")))
    assert (labelled.metric, math.isnan(labelled.point.accuracy)) == ("soft_disagreement", False)


def test_what_needs_labels_is_refused_in_one_line(net) -> None:
    with pytest.raises(ValueError, match=r"expected labelled images to certify a fall in accuracy.*Disagreement"):
        planned(net, PIXELS, AccuracyDrop(0.5))
    with pytest.raises(ValueError, match="expected labelled images to search by error"):
        planned(net, PIXELS, Count(1), search=Greedy(metric="error"))
    with pytest.raises(ValueError, match="10% of the loss"):
        planned(net, PIXELS, Count(1), repair=Distil(replace(Distillation(), epochs=1), NoRepair()))
