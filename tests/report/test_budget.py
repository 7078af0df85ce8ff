"""The budget of a report: kept whatever the stages cost, divided fairly, and explained on the page."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.paths import gradient_by_length
from resnet_paths.report import STAGES, NotApplicableError, Part, Section, Stage, Subject, write_report
from resnet_paths.report.budget import LeftOutError, Spent, TimePlan, budget_seconds, divided, most_level
from resnet_paths.report.effort import Effort, Footprint, Prices, measured_prices, passes
from resnet_paths.report.joining import joined
from resnet_paths.report.progress import StageProgress


class FakeClock:
    """A clock that only stages advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).eval()
    return Subject(model, digits("test").subset(slice(0, 30)))


QUICK_DRAWS = 100


def timed(name: str, clock: FakeClock, cost: float, said: float | None = None, fixed: float = 0.0, weight: float = 1.0):
    """A stage whose draws cost some seconds each, and whose estimate of this is right or wrong."""

    def run(subject: Subject, options) -> Section:
        clock.now += fixed + cost * options["draws"]
        return Section((Part(name, (f"{options['draws']} draws",)),))

    return Stage(
        name, name.title(), "?", run, {"draws": QUICK_DRAWS}, {"draws": 1000}, weight, {"draws": 4},
        lambda subject, options: Effort(seconds=(cost if said is None else said) * options["draws"]),
    )  # fmt: skip


def made(plan: TimePlan) -> dict[str, Spent | str]:
    results: dict[str, Spent | str] = {}
    for stage in plan.stages:
        try:
            results[stage.name] = plan.run(stage)[1]
        except LeftOutError as reason:
            results[stage.name] = str(reason)
    return results


def test_a_report_that_fits_has_the_usual_sizes_and_ends_early(subject) -> None:
    clock = FakeClock()
    stages = [timed(name, clock, 0.1) for name in "abc"]
    results = made(TimePlan(subject, stages, 180, clock=clock))
    assert [spent.options for spent in results.values()] == [{"draws": QUICK_DRAWS}] * 3
    assert clock.now == pytest.approx(30)
    assert not any(spent.shrunk or spent.warning for spent in results.values())


@pytest.mark.parametrize("seconds", [60.0, 180.0, 600.0])
@pytest.mark.parametrize("wrong", [0.3, 1.0, 3.0])
def test_the_budget_is_kept_though_estimates_are_wrong(subject, seconds: float, wrong: float) -> None:
    """Costs that are three times the estimate, or a third of it, in all stages but one."""
    clock = FakeClock()
    costs = (9.0, 30.0, 4.0, 20.0, 11.0, 15.0)
    scale = seconds / 1500
    stages = [
        timed(f"s{k}", clock, scale * cost, scale * cost / (wrong if k else 1), 0.2) for k, cost in enumerate(costs)
    ]
    results = made(TimePlan(subject, stages, seconds, clock=clock))
    assert all(isinstance(spent, Spent) for spent in results.values())
    assert 0.6 * seconds < clock.now < 1.2 * seconds


def test_a_stage_that_no_share_allows_is_left_out_and_says_why(subject) -> None:
    clock = FakeClock()
    stages = [timed("a", clock, 0.1), timed("huge", clock, 100.0), timed("z", clock, 0.1)]
    results = made(TimePlan(subject, stages, 180, clock=clock))
    assert re.search(
        r"least sizes \(draws 4\) would take about \d+ min .* of the budget of 3 min were left", results["huge"]
    )
    assert results["a"].options == results["z"].options == {"draws": QUICK_DRAWS}
    assert clock.now < 30


def test_time_that_others_leave_goes_to_those_left_out(tmp_path, subject) -> None:
    """Both say that they take the whole budget; the first is left out, and the second takes no time at all."""
    (tmp_path / "a").write_text("35")
    (tmp_path / "b").write_text("40")
    stages = [counting(name, tmp_path) for name in "ab"]
    stages[1] = replace(stages[1], weight=2.0)
    report = write_report(subject.model, subject.data, tmp_path / "r.html", stages=stages, progress=False)
    assert [line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()] == ["b", "a"]
    assert report.left_out == []
    assert report.to_pandas()["status"].tolist() == ["done", "done"]


def test_the_stages_before_do_not_starve_those_after(subject) -> None:
    """The first says that it takes a fifth of what it does; each later one still gets its least sizes."""
    clock = FakeClock()
    stages = [timed("liar", clock, 3.0, said=0.2), *(timed(f"s{k}", clock, 2.0) for k in range(4))]
    results = made(TimePlan(subject, stages, 180, clock=clock))
    assert all(isinstance(spent, Spent) and spent.options["draws"] >= 4 for spent in results.values())
    assert clock.now < 1.2 * 180


def test_only_strongly_reduced_sizes_cause_a_warning(subject) -> None:
    clock = FakeClock()
    plan = TimePlan(subject, [timed("a", clock, 20.0)], 180, clock=clock)
    section, spent = plan.run(plan.stages[0])
    assert 4 <= spent.options["draws"] <= 9
    assert spent.shrunk == (("draws", spent.options["draws"], QUICK_DRAWS),)
    assert section.warnings == (spent.warning,)
    assert f"{spent.options['draws']} draws instead of 100" in spent.warning
    assert not Spent(shrunk=(("draws", 60, 100),)).warning


@pytest.mark.parametrize("busy", [0, 1, 2])
def test_no_stage_shrinks_because_one_of_its_prices_was_measured_on_a_busy_machine(subject, monkeypatch, busy) -> None:
    """A hundred passes of a hundredth of a second fit; at the price of a busy moment they would not."""
    clock, measured = FakeClock(), []

    def prices(self: Subject, longest: float) -> Prices:
        measured.append(1.0 if len(measured) == busy else 0.01)
        return Prices(image=measured[-1], batch=0.0, gradient=3.0)

    def run(subject: Subject, options) -> Section:
        clock.now += 0.01 * options["draws"]
        return Section((Part("a", (f"{options['draws']} draws",)),))

    monkeypatch.setattr(Subject, "prices", prices)
    effort = lambda subject, options: Effort(images=options["draws"])  # noqa: E731
    stages = [replace(timed(name, clock, 0.01), run=run, effort=effort) for name in "abc"]
    results = made(TimePlan(subject, stages, 20, clock=clock))
    assert [spent.options["draws"] for spent in results.values()] == [QUICK_DRAWS] * 3
    assert len(measured) == (3 if busy == 0 else 1)  # nothing is measured again where there is time for all


def test_prices_that_take_long_to_measure_are_measured_once(subject, monkeypatch) -> None:
    """A stage that is too large for the budget, of a network whose price alone takes a twentieth of it."""
    clock, longest = FakeClock(), []

    def prices(self: Subject, most: float) -> Prices:
        longest.append(most)
        clock.now += 3
        return Prices(image=1.0, batch=0.0, gradient=3.0)

    monkeypatch.setattr(Subject, "prices", prices)
    effort = lambda subject, options: Effort(images=options["draws"])  # noqa: E731
    made(TimePlan(subject, [replace(timed(name, clock, 1.0), effort=effort) for name in "abc"], 60, clock=clock))
    assert longest == [0.15]


def test_a_stage_after_a_busy_time_has_the_prices_of_now(subject, monkeypatch) -> None:
    clock = FakeClock()

    def prices(self: Subject, longest: float) -> Prices:
        return Prices(image=1.0 if clock.now < 30 else 0.01, batch=0.0, gradient=3.0)

    monkeypatch.setattr(Subject, "prices", prices)
    effort = lambda subject, options: Effort(images=options["draws"])  # noqa: E731
    stages = [replace(timed(name, clock, 0.3 if name == "a" else 0.01), effort=effort) for name in "abc"]
    results = made(TimePlan(subject, stages, 60, clock=clock))
    assert results["a"].options["draws"] < QUICK_DRAWS
    assert results["c"].options["draws"] == QUICK_DRAWS


def test_reduced_sizes_are_compared_with_the_available_images(subject) -> None:
    clock = FakeClock()
    with_training = Subject(subject.model, subject.data, digits("train").subset(slice(0, 200)))

    def run(subject: Subject, options) -> Section:
        clock.now += options["images"]
        return Section((Part("a", ("text",)),))

    sizes = {"images": 1000, "search_images": 1000}
    stage = Stage(
        "a", "A", "?", run, sizes, sizes, least={"images": 5, "search_images": 5},
        effort=lambda subject, options: Effort(seconds=options["images"]),
    )  # fmt: skip
    spent = made(TimePlan(with_training, [stage], 10, clock=clock))["a"]
    assert [(name, wanted) for name, _, wanted in spent.shrunk] == [("images", 30), ("search_images", 200)]


def test_a_single_reduced_item_is_in_the_singular() -> None:
    spent = Spent(shrunk=(("batch", 1, 32), ("draws", 1, 16), ("passes", 1, 9), ("max_blocks", 1, 16)))
    assert spent.precision == (
        "1 image per timed batch instead of 32, 1 draw instead of 16, 1 pass of a single image instead of 9 and 1 "
        "dropped block at most instead of 16"
    )
    assert (
        Spent(shrunk=(("search_images", 15, 200),), noun="series").precision == "15 series to search on instead of 200"
    )


def test_options_that_are_given_do_not_follow_the_budget(subject) -> None:
    clock = FakeClock()
    stages = [timed("a", clock, 5.0)]
    results = made(TimePlan(subject, stages, 180, {"a": {"draws": 30}}, clock=clock))
    assert results["a"].options == {"draws": 30}
    assert clock.now == 150


def test_memory_bounds_sizes_and_leaves_out(subject) -> None:
    def stage(name: str, bytes_of_a_draw: float) -> Stage:
        return Stage(
            name, name, "?", lambda subject, options: Section(()), {"draws": 100}, {}, 1.0, {"draws": 4},
            lambda subject, options: Effort(seconds=1e-3, bytes=bytes_of_a_draw * options["draws"]),
        )  # fmt: skip

    bound = subject.memory
    results = made(TimePlan(subject, [stage("some", bound / 50), stage("none", bound)], 180, clock=FakeClock()))
    assert 40 <= results["some"].options["draws"] <= 50
    assert results["none"].endswith("need about 8.0 GB beside the model, above the bound of 2.0 GB")


def test_the_time_to_go_is_honest_from_the_second_stage_on(subject) -> None:
    clock = FakeClock()
    costs = (0.2, 1.1, 0.4, 2.0, 0.6, 0.9)
    stages = [timed(f"s{k}", clock, cost, said=cost / 2.5, fixed=0.3) for k, cost in enumerate(costs)]
    plan = TimePlan(subject, stages, 180, clock=clock)
    times = []
    for stage in stages:
        times.append((clock.now, plan.to_go(stage)))
        plan.run(stage)
    for now, to_go in times[1:]:
        assert to_go == pytest.approx(clock.now - now, rel=0.35)


def test_progress_tells_the_plan(subject, capsys) -> None:
    clock = FakeClock()
    stages = [timed("a", clock, 0.1), timed("b", clock, 0.2)]
    plan = TimePlan(subject, stages, 180, clock=clock)
    shown = StageProgress(stages, plan)
    for stage in stages:
        shown(stage)
        plan.run(stage)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["stage 1 of 2: A", "stage 2 of 2: B (10.0 s so far, about 20.0 s to go)"]


def test_times_are_divided_without_loss() -> None:
    weights, least, most = (
        {"a": 1.0, "b": 2.0, "c": 3.0},
        {"a": 5.0, "b": 1.0, "c": 0.0},
        {"a": 9.0, "b": 4.0, "c": 90.0},
    )
    for total in (6.0, 10.0, 50.0, 103.0, 200.0):
        shares = divided(total, weights, least, most)
        assert sum(shares.values()) == pytest.approx(total)
        assert all(shares[name] >= least[name] - 1e-6 for name in weights)
        assert total > 103 or all(shares[name] <= most[name] + 1e-6 for name in weights)


def test_budgets_in_words_seconds_and_timedeltas() -> None:
    given = ["quick", "3min", "180s", 180, 180.0, timedelta(minutes=3), "0h 3 minutes", "2min60s", "3 MIN"]
    assert {budget_seconds(budget) for budget in given} == {180.0}
    assert budget_seconds("full") == budget_seconds("0.5h") == 1800.0
    for wrong in ("huge", "3", "-3min", "3 min of work", "", "nan", 0, -1.0, float("inf"), timedelta(0), "3minh"):
        with pytest.raises(ValueError, match="expected a budget 'quick', 'full' or a duration"):
            budget_seconds(wrong)
    levels = [most_level(seconds) for seconds in (10, 180, 300, 900, 1800, 9000)]
    assert levels == sorted(levels)
    assert levels[0] == 1
    assert levels[-1] == 2


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_larger_sizes_never_cost_less(stage: Stage, subject) -> None:
    """The plan looks for the largest sizes that fit: that is only right if costs grow with them."""
    prices = Prices(image=0.1, batch=0.01, gradient=3.0)
    of_all = replace(subject, data=digits("test"))
    costs = [prices.seconds(stage.effort(of_all, stage.options(step / 12))) for step in range(25)]
    assert all(later >= 0.999 * earlier for earlier, later in itertools.pairwise(costs))
    assert costs[0] > 0
    if stage.least and stage.name not in ("explorer", "values"):  # of three blocks, these measure all sets
        assert costs[12] > 1.5 * costs[0]
    assert set(stage.least) <= set(stage.quick)
    assert set(stage.full) <= set(stage.quick)


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_sizes_at_the_named_levels_are_those_declared(stage: Stage) -> None:
    assert stage.options(0) == {**stage.quick, **stage.least}
    assert stage.options(1) == stage.quick
    assert stage.options(2) == {**stage.quick, **stage.full}


def test_prices_and_footprints_are_of_the_model(subject) -> None:
    x, _ = subject.batch(8)
    prices = measured_prices(subject.net, subject.fast, x)
    assert prices.image > 0
    assert prices.batch >= 0
    assert prices.gradient > 0  # on a busy machine it may be anything
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    print_of = Footprint.of(subject.net, x)
    convolutions = 4 * (4 * 64 * 5 + 8 * 16 * 2)  # bytes of the values of all convolutions: stem, and two per block
    assert 2 * convolutions < print_of.total < 8 * convolutions
    assert print_of.entries == 4 * (4 * 64 + 4 * 64 + 4 * 16)
    assert Footprint.of(subject.net, torch.cat([x, x])) == print_of
    assert passes(2, 10, 4) + Effort(seconds=1) == Effort(images=20, batches=6, seconds=1)


def test_batches_stay_below_the_memory(subject) -> None:
    small = Subject(subject.model, subject.data, memory=5 * subject.footprint.forward)
    assert small.at_once == 5
    assert subject.at_once == 500
    assert Subject(subject.model, subject.data, batch_size=9999).at_once == 2e6 // subject.footprint.largest
    images = digits("test").subset(slice(0, 3))
    large = Subject(subject.model, replace(images, images=images.images.repeat(1, 1, 8, 8)))
    assert large.at_once == 100
    assert Subject(subject.model, subject.data, batch_size=7).at_once == 7


def test_a_gradient_in_parts_is_that_of_the_whole() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).double().eval()
    data = digits("test").subset(slice(0, 5))
    x = data.x.double()
    net = unroll(model, x[:2])
    whole = gradient_by_length(net, x, data.labels)
    parts = [gradient_by_length(net, x[part], data.labels[part]) for part in (slice(0, 2), slice(2, 5))]
    both = joined(parts, ("norms", "share", "total_norm"), worst=("residual",))
    for name in ("norms", "share", "total_norm"):
        torch.testing.assert_close(getattr(both, name), getattr(whole, name), rtol=1e-9, atol=0)
    assert both.residual == max(part.residual for part in parts)


# in a whole report


def counting(name: str, folder: Path) -> Stage:
    """A stage that notes its draws in a file, and reads there what one costs: code and closure stay as they are."""

    def run(subject: Subject, options) -> Section:
        with (folder / "ran").open("a") as file:
            file.write(f"{name} {options['draws']}\n")
        return Section((Part(name, (f"{options['draws']} draws",)),))

    def effort(subject: Subject, options) -> Effort:
        return Effort(seconds=float((folder / name).read_text()) * options["draws"])

    return Stage(name, name.title(), "?", run, {"draws": 100}, {"draws": 400}, 1.0, {"draws": 4}, effort)


def test_a_resumed_report_keeps_sizes_and_adds_what_was_left_out(tmp_path, subject) -> None:
    """The machine is slow at first, and quick later: finished stages stay as they are, the others get the time."""

    def report(a: float, b: float, **options):
        (tmp_path / "a").write_text(str(a))
        (tmp_path / "b").write_text(str(b))
        stages = [counting(name, tmp_path) for name in "ab"]
        return write_report(subject.model, subject.data, tmp_path / "r.html", stages=stages, progress=False, **options)

    def ran() -> list[str]:
        return (tmp_path / "ran").read_text().splitlines()

    first = report(10.0, 1000.0)
    ((_, draws),) = (line.split() for line in ran())
    assert 4 < int(draws) < 20
    assert first.left_out == ["b"]
    assert first.options == {"a": {"draws": int(draws)}}
    page = first.path.read_text()
    assert "Left out: even its least sizes (draws 4)" in page
    assert f"{draws} draws instead of 100" in page

    again = report(0.1, 0.1)
    assert ran() == [f"a {draws}", "b 100"]
    assert again.left_out == []
    assert again.options == {"a": {"draws": int(draws)}, "b": {"draws": 100}}
    frame = again.to_pandas().set_index("stage")
    assert frame.loc["a", "sizes"] == f"draws={draws}"
    assert frame.loc["b", "given"] > 100
    same = report(50.0, 50.0, options=again.options)
    assert ran()[2:] == [f"a {draws}", "b 100"]
    assert same.options == again.options


def test_stages_that_do_not_apply_leave_their_time_to_others(tmp_path, subject) -> None:
    def refusing(subject: Subject, options) -> Section:
        raise NotApplicableError("nothing to see")

    for name, cost in (("none", "1.0"), ("a", "1.5")):
        (tmp_path / name).write_text(cost)
    stages = [replace(counting("none", tmp_path), run=refusing), counting("a", tmp_path)]
    report = write_report(subject.model, subject.data, tmp_path / "r.html", stages=stages, progress=False)
    assert report.to_pandas()["status"].tolist() == ["not applicable", "done"]
    assert (tmp_path / "ran").read_text().splitlines()[-1] == "a 100"
