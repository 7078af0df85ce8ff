"""Plans for data other than images: a rise of any metric is certified, and what does not fit is refused in one line."""

import math

import numpy as np
import pytest
import torch

from references.other_data import KINDS, Case, case
from resnet_paths import drop_blocks, unroll
from resnet_paths.data import Examples
from resnet_paths.lesion import METRICS, evaluate_gates
from resnet_paths.lesion.evaluate import deletion_gates
from resnet_paths.network import UnrolledNetwork
from resnet_paths.statistics import rise_at_most
from resnet_paths.surgery import refit_blocks
from resnet_paths.tradeoff import (
    AccuracyDrop,
    Clock,
    Count,
    Disagreement,
    Distil,
    Greedy,
    ImageSplit,
    NoRepair,
    Recalibrate,
    Refit,
    Rise,
    load_plan,
    plan_drop,
)

QUICK = {"clock": Clock(batch=2, seconds=0.0, rounds=1), "progress": False}


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[Case, UnrolledNetwork]]:
    made = {kind: case(kind, 40) for kind in KINDS}
    return {kind: (one, unroll(one.model, one.data.subset([0, 1]).x)) for kind, one in made.items()}


def test_inputs_and_targets_of_one_shape_are_divided_together(cases: dict) -> None:
    one, net = cases["tokens"]
    ids = one.data.x["input_ids"]
    source = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = plan_drop(net, Examples(source, ids), goal=Rise("perplexity", 1e9), repair=NoRepair(), **QUICK)

    class Ids(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = one.model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(ids, torch.ones_like(ids))

    paired = plan_drop(
        unroll(Ids().eval(), ids[:2]), (ids, ids), goal=Rise("perplexity", 1e9), repair=NoRepair(), **QUICK
    )
    assert paired.images["certify"].count == plain.images["certify"].count
    assert [point.value for point in paired.points] == pytest.approx([point.value for point in plain.points])


def metric_of(one: Case, net: UnrolledNetwork, dropped: tuple[int, ...], data: Examples) -> np.ndarray:
    gates = deletion_gates([(), dropped], len(net))
    return evaluate_gates(net, data, gates, METRICS[one.metric], progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rise_is_measured_and_certified_on_examples_that_decide_nothing_else(kind: str, cases: dict) -> None:
    one, net = cases[kind]
    goal = Rise(one.metric, 1e9)
    plan = plan_drop(net, one.data, goal=goal, repair=NoRepair(), **QUICK)
    assert len(plan.point.dropped) == len(net), "any rise is allowed"
    certify = ImageSplit().roles(one.data, repairs=False)["certify"]
    for point in plan.points[1:]:
        before, after = metric_of(one, net, point.dropped, certify)
        assert point.value == pytest.approx(after.mean(), rel=1e-9)
        assert point.rise == pytest.approx(after.mean() - before.mean(), rel=1e-9, abs=1e-12)
        assert point.rise_at_most == pytest.approx(rise_at_most(before, after), rel=1e-6)
        assert point.rise <= point.rise_at_most
    allowed = min(point.rise_at_most for point in plan.points[1:]) - 1e-6
    none = plan_drop(net, one.data, goal=Rise(one.metric, max(allowed, 0.0)), repair=NoRepair(), **QUICK)
    shown = [point.rise_at_most <= max(allowed, 0.0) for point in none.points[1:]]
    assert none.chosen == [*shown, False].index(False)
    assert one.metric in none.summary


def test_repairs_and_files_of_such_a_plan(cases: dict, tmp_path) -> None:
    one, net = cases["tokens"]
    plan = plan_drop(net, one.data, goal=Rise("perplexity", 1e9), repair=Refit(), search=Greedy(max_blocks=1), **QUICK)
    assert plan.metric == "next_token_loss"
    assert plan.point.repair in ("none", "refitted", "plain")
    again = load_plan(plan.save(tmp_path / "plan.json"))
    assert again.goal == plan.goal
    smaller = again.apply(one.model, one.data)
    rebuilt = metric_of(one, unroll(smaller, one.data.subset([0, 1]).x), (), ImageSplit().roles(one.data)["certify"])
    assert rebuilt[0].mean() == pytest.approx(plan.point.value, rel=1e-9)
    for repair in (Recalibrate(), NoRepair()):
        assert len(plan_drop(net, one.data, goal=Count(1), repair=repair, **QUICK).point.dropped) == 1


def test_a_refit_of_a_language_model_never_rises_on_its_held_out_sequences(cases: dict) -> None:
    one, net = cases["tokens"]
    result = refit_blocks(net, [1], one.data)
    assert result.divergences[result.repair] <= result.divergences["plain"]
    assert drop_blocks(net, [1], refit=one.data) is not None


def test_goals_of_classes_are_refused_for_other_targets(cases: dict) -> None:
    one, net = cases["numbers"]
    for goal in (AccuracyDrop(0.1), Disagreement(0.1)):
        with pytest.raises(ValueError, match=r"one class each .* use Rise\('squared_error', by=\.\.\.\)"):
            plan_drop(net, one.data, goal=goal, **QUICK)
    with pytest.raises(ValueError, match="one of squared_error"):
        plan_drop(net, one.data, goal=Rise("perplexity", 1.0), **QUICK)
    for goal in (Rise("squared_error", 1.0), Count(1)):
        with pytest.raises(ValueError, match=r"since labels make up 10% of the loss, got .*; pass Dist.*weight=1"):
            plan_drop(net, one.data, goal=goal, repair=Distil(), **QUICK)


def test_a_class_per_series_is_planned_like_images(cases: dict) -> None:
    one, net = cases["series"]
    plan = plan_drop(net, one.data, goal=AccuracyDrop(1.0), repair=NoRepair(), **QUICK)
    certify = ImageSplit().roles(one.data, repairs=False)["certify"]
    with torch.no_grad():
        right = one.model(certify.x).argmax(1) == certify.targets
    assert plan.points[0].accuracy == pytest.approx(float(right.double().mean()))


def test_the_distribution_free_bound_is_the_formula_and_holds() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.uniform(size=(2, 500))
    log, d = math.log(40), after - before
    formula = d.mean() + d.std(ddof=1) * math.sqrt(2 * log / 500) + 14 * log / (3 * 499)
    assert rise_at_most(before, after, bound=1.0, distribution_free=True) == pytest.approx(formula)
    skewed = (generator.uniform(size=(400, 300)) < 0.01).astype(float) * 0.5  # rarely large: 0.005 on average
    bounds = [rise_at_most(np.zeros(300), row, bound=1.0, distribution_free=True) for row in skewed]
    assert np.mean(np.array(bounds) >= 0.005) >= 0.95
    with pytest.raises(ValueError, match="a metric with a maximum"):
        rise_at_most(before, after, distribution_free=True)
    with pytest.raises(ValueError, match="weighs long examples more"):
        rise_at_most(before, after + 3, bound=1.0, distribution_free=True)
    assert rise_at_most(before, np.full(500, np.nan)) == math.inf
    assert Rise("error", 0.02, distribution_free=True).least_images > 500
