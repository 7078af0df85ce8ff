"""The planner: search against all sets, the goals, and what the plan does to a model."""

import itertools

import numpy as np
import pytest
import torch

from resnet_paths import unroll
from resnet_paths.data import digits
from resnet_paths.lesion import evaluate_gates, metric_named
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.surgery import drop_blocks
from resnet_paths.tradeoff import load_plan, plan_drop, recalibrate_batchnorm
from resnet_paths.training import Recipe, train


@pytest.fixture(scope="module")
def small():
    model = cifar_resnet(14, in_channels=1, widths=(8, 8, 16), seed=0)
    train(model, digits("train"), Recipe(epochs=3, batch_size=64, shift=0, flip=False), progress=False)
    return unroll(model.eval())


def losses(net, data, size: int) -> dict[tuple[int, ...], float]:
    sets = list(itertools.combinations(range(len(net)), size))
    gates = torch.ones(len(sets), len(net))
    for row, dropped in enumerate(sets):
        gates[row, list(dropped)] = 0
    values = evaluate_gates(net, data, gates, metric_named("loss")[1]).mean(1)
    return dict(zip(sets, values, strict=True))


def test_searches_are_ordered_and_exact_is_exact(small) -> None:
    data = digits("train").subset(slice(0, 200))
    options = {"n_drop": 4, "report": digits("test"), "seconds": 0.01}
    greedy, beam, exact = (plan_drop(small, data, search=s, **options) for s in ("greedy", "beam", "exact"))
    for size in range(1, 5):
        table = losses(small, data, size)
        assert table[exact.points[size].dropped] == pytest.approx(min(table.values()))
        one, two, three = (plan.points[size].search_loss for plan in (exact, beam, greedy))
        assert one <= two + 1e-5 <= three + 2e-5
    assert set(greedy.points[1].dropped) < set(greedy.points[2].dropped)


def test_points_are_what_the_dropped_model_does(small) -> None:
    data, report = digits("train").subset(slice(0, 100)), digits("test")
    images = digits("train").subset(slice(0, 300))
    plan = plan_drop(small, data, n_drop=2, report=report, recalibrate=images, seconds=0.01)
    point = plan.point
    smaller = drop_blocks(small, list(point.dropped))
    with torch.no_grad():
        assert point.accuracy == pytest.approx(float((smaller(report.x).argmax(1) == report.labels).float().mean()))
    recalibrate_batchnorm(smaller, [x for x, _ in images.batches(100)])
    with torch.no_grad():
        right = (smaller(report.x).argmax(1) == report.labels).float().mean()
    assert point.recalibrated == pytest.approx(float(right))
    assert point.parameters == sum(parameter.numel() for parameter in smaller.parameters())
    applied = plan.apply(small, recalibrate=images)
    with torch.no_grad():
        assert torch.allclose(applied(report.x), smaller(report.x), atol=1e-6)


def test_goals(small) -> None:
    data = digits("train").subset(slice(0, 200))
    whole = plan_drop(small, data, accuracy_drop=1.0, seconds=0.01)
    assert len(whole.point.dropped) == 6
    none = plan_drop(small, data, accuracy_drop=0.02, seconds=0.01)
    floor = none.points[0].search_accuracy - 0.02
    assert none.point.search_accuracy >= floor
    assert all(point.search_accuracy < floor for point in none.points[none.chosen + 1 :])
    fast = plan_drop(small, data, latency=0.7, seconds=0.05)
    assert fast.point.latency <= 0.7 * fast.points[0].latency


def test_plans_are_saved_and_read(small, tmp_path) -> None:
    plan = plan_drop(small, digits("train").subset(slice(0, 60)), n_drop=1, seconds=0.01)
    path = plan.save(tmp_path / "deep" / "plan.json")
    again = load_plan(path)
    assert again == plan
    assert list(again.to_pandas()["count"]) == [0, 1]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a plan"):
        load_plan(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"n_drop": 1, "latency": 0.5}, "exactly one"),
        ({"n_drop": 99}, "from 0 to 27"),
        ({"n_drop": 1, "search": "random"}, "'greedy', 'beam' or 'exact'"),
        ({"n_drop": 1, "search": "exact"}, "at most 16 units"),
    ],
)
def test_wrong_use(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_drop(unroll(load_model("embedded")), digits("test"), **options)


def test_a_latency_that_cannot_be_reached(small) -> None:
    with pytest.raises(ValueError, match="the least is"):
        plan_drop(small, digits("train").subset(slice(0, 40)), latency=0.001, seconds=0.01)
    assert np.isfinite(small(digits("test").x[:2]).detach().numpy()).all()
