"""The planner: search against all sets, the goals, and what the plan does to a model."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from resnet_paths import unroll
from resnet_paths.data import digits
from resnet_paths.lesion import evaluate_gates, fall_at_most, metric_named
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.surgery import batch_statistics, drop_blocks, norms_before, recalibrate_batchnorm
from resnet_paths.tradeoff import (
    Distillation,
    distil,
    load_plan,
    plan_drop,
)
from resnet_paths.tradeoff.plan import _choose, _together
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
    options = {"n_drop": 4, "metric": "loss", "report": digits("test"), "seconds": 0.01}
    greedy, beam, exact = (plan_drop(small, data, search=s, **options) for s in ("greedy", "beam", "exact"))
    for size in range(1, 5):
        table = losses(small, data, size)
        assert table[exact.points[size].dropped] == pytest.approx(min(table.values()))
        one, two, three = (plan.points[size].search_loss for plan in (exact, beam, greedy))
        assert one <= two + 1e-5 <= three + 2e-5
        assert beam.greedy_losses[size] == pytest.approx(greedy.search_losses[size])
        assert exact.greedy_losses[size] == pytest.approx(greedy.search_losses[size])
    assert set(greedy.points[1].dropped) < set(greedy.points[2].dropped)


def test_the_judge_takes_the_best_of_the_finalists_on_its_own_images(small) -> None:
    some, more = digits("train").subset(slice(0, 60)), digits("train").subset(slice(60, 460))
    options = {"n_drop": 3, "metric": "loss", "report": digits("test"), "seconds": 0.01, "search": "exact"}
    plan = plan_drop(small, some, judge=more, finalists=5, **options)
    alone = plan_drop(small, some, **options)
    assert alone.judge_losses == ()
    for size in range(1, 4):
        first, then = losses(small, some, size), losses(small, more, size)
        final = sorted(first, key=first.__getitem__)[:5]
        assert plan.points[size].dropped == min(final, key=then.__getitem__)
        assert plan.judge_losses[size] == pytest.approx(then[plan.points[size].dropped], rel=1e-5)
        assert plan.search_losses[size] == pytest.approx(first[plan.points[size].dropped], rel=1e-5)
        assert plan.judge_losses[size] <= then[alone.points[size].dropped] + 1e-6
    only = plan_drop(small, some, judge=more, finalists=1, **options)
    assert [point.dropped for point in only.points] == [point.dropped for point in alone.points]
    with pytest.raises(ValueError, match="finalists as a whole number of at least 1"):
        plan_drop(small, some, judge=more, finalists=0, **options)
    with pytest.raises(ValueError, match="got 60 of 445 in common"):
        plan_drop(small, some, judge=digits("test").subset(slice(0, 60)), **options)


def test_searching_in_another_dtype_leaves_the_model_and_its_points(small) -> None:
    data, report = digits("train").subset(slice(0, 100)), digits("test")
    options = {"n_drop": 2, "report": report, "recalibrate": data, "seconds": 0.01, "batch_size": 100}
    exact = plan_drop(small, data, search_dtype=torch.float64, **options)
    plan = plan_drop(small, data, **options)
    assert [point.dropped for point in exact.points] == [point.dropped for point in plan.points]
    assert exact.search_losses == pytest.approx(plan.search_losses, abs=1e-5)
    assert exact.search_losses != plan.search_losses
    assert [point.accuracy for point in exact.points] == [point.accuracy for point in plan.points]
    assert {parameter.dtype for parameter in small.model.parameters()} == {torch.float32}
    rough = plan_drop(small, data, search_dtype=torch.bfloat16, **options)
    assert rough.search_losses == pytest.approx(plan.search_losses, abs=0.02)


def test_points_are_what_the_dropped_model_does(small) -> None:
    data, report = digits("train").subset(slice(0, 100)), digits("test")
    images = digits("train").subset(slice(0, 300))
    plan = plan_drop(small, data, n_drop=2, report=report, recalibrate=images, seconds=0.01)
    point = plan.point
    smaller = drop_blocks(small, list(point.dropped))
    with torch.no_grad():
        assert point.accuracy == pytest.approx(float((smaller(report.x).argmax(1) == report.labels).float().mean()))
    before = norms_before(small, point.dropped)
    assert set(before) <= set(dict(smaller.named_modules()))
    recalibrate_batchnorm(smaller, images, keep=before)
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
    none = plan_drop(small, data, accuracy_drop=0.0225, seconds=0.01)
    floor = none.points[0].search_accuracy - 0.0225  # between 4 and 5 images of 200
    assert none.point.search_accuracy >= floor
    assert all(point.search_accuracy < floor for point in none.points[none.chosen + 1 :])
    fast = plan_drop(small, data, latency=0.7, seconds=0.05)
    assert fast.point.latency <= 0.7 * fast.points[0].latency


def test_a_fall_of_just_what_is_allowed_is_allowed(small) -> None:
    """Shares of 200 images, whose differences floating point rounds up or down."""
    point = plan_drop(small, digits("train").subset(slice(0, 10)), n_drop=0, seconds=0.001).points[0]
    for right in range(8, 201):
        points = [replace(point, search_accuracy=(right - fall) / 200) for fall in (0, 4, 5)]
        assert _choose(points, None, 0.02, None, False) == 1


def test_a_choice_with_confidence_stops_at_the_first_set_that_fails(small) -> None:
    data, report = digits("train").subset(slice(0, 200)), digits("test")
    for allowed in (0.0, 0.05, 0.2, 1.0):
        plan = plan_drop(small, data, accuracy_drop=allowed, confidence=0.9, report=report, seconds=0.01)
        passed = [point.fall_at_most <= allowed for point in plan.points[1:]]
        assert all(passed[: plan.chosen])
        assert plan.chosen == len(passed) or not passed[plan.chosen]
    assert plan.chosen == len(small)
    x, labels = report.x, report.labels
    with torch.no_grad():
        before, after = (
            (model(x).argmax(1) == labels).numpy()
            for model in (small.model, drop_blocks(small, plan.points[2].dropped))
        )
    assert plan.points[2].fall == pytest.approx(before.mean() - after.mean())
    assert plan.points[2].fall_at_most == pytest.approx(fall_at_most(before, after, 0.9))
    for point in plan.points:  # chosen on these images, so all intervals hold together
        count = round(point.accuracy * len(report))
        assert point.accuracy_interval == pytest.approx(_wilson(count, len(report), 0.05 / len(plan.points)))


def _wilson(count: int, n: int, error: float) -> tuple[float, float]:
    ends = binomtest(count, n).proportion_ci(1 - error, "wilson")
    return ends.low, ends.high


def test_intervals_of_the_chosen_point_hold_although_it_was_chosen(small) -> None:
    """Eight points of the same true accuracy; the best on the images is chosen."""
    point = plan_drop(small, digits("train").subset(slice(0, 10)), n_drop=0, seconds=0.001).points[0]
    seen = np.random.default_rng(0).binomial(250, 0.9, (600, 8)).max(1) / 250
    told = {
        points: np.mean([low <= 0.9 <= high for low, high in intervals])
        for points, intervals in {
            1: [_together(replace(point, accuracy=value), 250, 1).accuracy_interval for value in seen],
            8: [_together(replace(point, accuracy=value), 250, 8).accuracy_interval for value in seen],
        }.items()
    }
    assert told[1] < 0.9 < 0.95 <= told[8]


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
        ({"n_drop": 1, "confidence": 0.95}, "together with accuracy_drop"),
        ({"accuracy_drop": 0.1, "confidence": 0.3}, "between 0.5 and 1"),
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


def test_statistics_before_the_first_dropped_block_stay(small) -> None:
    first = 2
    kept = norms_before(small, [4, first])
    names = [unit.name for unit in small]
    assert {name for name in kept if not name.startswith("layer")} == {"bn1"}
    assert all(any(name.startswith(unit) for unit in names[: first + 1]) for name in kept if name != "bn1")
    assert not any(name.startswith(unit) for name in kept for unit in names[first + 1 :])
    smaller = drop_blocks(small, [first, 4])
    before = {name: value.clone() for name, value in smaller.named_buffers()}
    assert set(kept) <= set(dict(smaller.named_modules()))
    recalibrate_batchnorm(smaller, [digits("train").x[:200]], keep=kept)
    for name, value in smaller.named_buffers():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == (name.removesuffix(".running_mean") in kept), name
    with pytest.raises(ValueError, match="names of batch norms"):
        recalibrate_batchnorm(smaller, [digits("train").x[:20]], keep=["fc"])


def test_batch_statistics_are_those_of_recalibration(small) -> None:
    x = digits("train").x[:300]
    gates = torch.ones(len(small))
    gates[[1, 4]] = 0
    seen = batch_statistics(small)
    smaller = drop_blocks(small, [1, 4])
    recalibrate_batchnorm(smaller, [x])
    with torch.no_grad():
        # running variances are unbiased, a batch's own is not: one part in 300 * 16 of the smallest maps
        torch.testing.assert_close(seen(x, gates), smaller(x), rtol=2e-2, atol=2e-2)
        assert float((seen(x, gates) - small(x, gates)).abs().max()) > 0.5
    assert all(
        norm.running_mean is not None for norm in small.model.modules() if isinstance(norm, torch.nn.BatchNorm2d)
    )


def test_search_sees_recalibration_and_random_sets_are_worse(small) -> None:
    data, report = digits("train").subset(slice(0, 200)), digits("test")
    options = {"n_drop": 3, "report": report, "seconds": 0.01, "random_draws": 20, "batch_size": 200}
    plan = plan_drop(small, data, recalibrate=data, metric="divergence", **options)
    assert plan.metric == "divergence"
    assert plan.search_losses[0] == pytest.approx(0, abs=1e-6)
    seen = batch_statistics(small)
    for point, loss, drawn in zip(plan.points, plan.search_losses, plan.random_losses, strict=True):
        gates = torch.ones(1, len(small))
        gates[0, list(point.dropped)] = 0
        assert evaluate_gates(seen, data, gates, metric_named("divergence")[1], batch_size=200).mean() == pytest.approx(
            loss, abs=1e-6
        )
        assert len(drawn) == 20
        assert loss <= np.median(drawn) + 1e-6
    assert plan.search_losses[1] <= min(plan.random_losses[1]) + 1e-6


def test_finetuning_helps_the_chosen_point_and_is_what_apply_does(small, tmp_path) -> None:
    training, report = digits("train").subset(slice(0, 400)), digits("test")
    how = Distillation(epochs=2, shift=0, flip=False)
    before = [parameter.clone() for parameter in small.model.parameters()]
    plan = plan_drop(
        small, training, n_drop=4, report=report, finetune=training, distillation=how, seconds=0.01, progress=False
    )
    assert plan.point.finetuned > plan.point.accuracy + 0.1
    assert [point.finetuned for point in plan.points[:-1]] == [None] * 4
    applied = plan.apply(small, finetune=training, distillation=how)
    with torch.no_grad():
        assert plan.point.finetuned == pytest.approx(
            float((applied(report.x).argmax(1) == report.labels).float().mean())
        )
    assert all(torch.equal(a, b) for a, b in zip(before, small.model.parameters(), strict=True))
    assert load_plan(plan.save(tmp_path / "plan.json")) == plan


def test_distillation_ends_where_the_teacher_is() -> None:
    teacher = load_model("embedded")
    student = load_model("embedded")
    state = torch.get_rng_state()
    with torch.no_grad():
        student.linear.bias.add_(torch.linspace(-3, 3, 10))
    flags = [parameter.requires_grad for parameter in student.parameters()]
    losses = distil(student, teacher, digits("train").subset(slice(0, 100)), Distillation(epochs=2, weight=1.0))
    assert losses[1] < losses[0]
    assert torch.equal(state, torch.get_rng_state())
    assert [parameter.requires_grad for parameter in student.parameters()] == flags
    with pytest.raises(FloatingPointError, match="smaller lr"):
        distil(student, teacher, digits("train").subset(slice(0, 200)), Distillation(epochs=3, lr=1e30))
    with pytest.raises(ValueError, match="epochs as a whole number of at least 1"):
        Distillation(epochs=0)


def test_saved_state_loads_where_this_library_is_not(small, tmp_path) -> None:
    import subprocess
    import sys

    import torchvision

    model = torchvision.models.resnet18(num_classes=10).eval()
    smaller = drop_blocks(model, [1, 5])
    recalibrate_batchnorm(smaller, [torch.randn(8, 3, 32, 32)], keep=["bn1"])
    torch.save(smaller, tmp_path / "model.pt")
    x = torch.randn(2, 3, 32, 32)
    torch.save((x, smaller(x)), tmp_path / "pair.pt")
    code = (
        "import sys; sys.modules['resnet_paths'] = None\n"
        "import torch\n"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        f"x, y = torch.load({str(tmp_path / 'pair.pt')!r})\n"
        "torch.testing.assert_close(model(x), y)\n"
        "assert type(model).__module__.startswith('torchvision')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
