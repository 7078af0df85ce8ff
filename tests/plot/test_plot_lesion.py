from dataclasses import replace

import matplotlib
import pytest

from resnet_paths import unroll
from resnet_paths.data import digits
from resnet_paths.lesion import random_deletions, single_deletions
from resnet_paths.models import load_model
from resnet_paths.plot import plot_plan, plot_random_deletions, plot_search, plot_single_deletions, save
from resnet_paths.tradeoff import Beam, Clock, Count, Greedy, ImageSplit, plan_drop


@pytest.mark.slow
def test_pictures_name_their_axes_and_show_the_numbers(tmp_path, small_checkpoint) -> None:
    net, data = unroll(load_model(str(small_checkpoint))), digits("test").subset(slice(0, 30))
    record = single_deletions(net, data)
    ax = plot_single_deletions(record, chance=0.9)
    assert ax.get_xlabel() == "deleted block"
    assert "error" in ax.get_ylabel()
    numbers = [label.get_text() for label in ax.get_xticklabels()]
    assert numbers == [name.partition(".")[2] for name in record.names]
    assert [label.get_text() for label in ax.get_xticklabels(minor=True)] == ["layer1", "layer2", "layer3"]
    drawn = sorted(float(y) for line in ax.containers for y in line.lines[0].get_ydata())
    assert drawn == sorted(record.values.tolist())
    assert save(ax, tmp_path / "deep" / "a.png").stat().st_size > 5000

    many = random_deletions(net, data, [1, 3], draws=2)
    figure = matplotlib.figure.Figure()
    given = figure.subplots()
    assert plot_random_deletions(many, given) is given
    assert given.get_xlabel() == "number of deleted blocks"
    assert "error" in given.get_ylabel()


@pytest.mark.slow
def test_the_frontier(small_checkpoint) -> None:
    net = unroll(load_model(str(small_checkpoint)))
    data = digits("test").subset(slice(0, 30))
    others = digits("train").subset(slice(0, 40))
    plan = plan_drop(
        net,
        others,
        goal=Count(2),
        search=Greedy(random_sets=3),
        split=ImageSplit(search=others, repair=others, certify=data),
        clock=Clock(batch=30, seconds=0.0, rounds=1),
        progress=False,
    )
    ax = plot_plan(plan)
    assert ax.get_xlabel() == "latency (ms, batch 30)"
    assert "accuracy" in ax.get_ylabel()
    assert list(ax.lines[0].get_ydata()) == [point.plain for point in plan.points]
    same = replace(plan, points=(plan.points[0],) * 9)
    assert [text.get_text() for text in plot_plan(same).texts] == ["0"]  # labels on one spot: one is drawn
    ax = plot_search(plan)
    assert list(ax.lines[1].get_ydata()) == list(plan.search_losses)
    assert ax.get_ylabel() == "1 - p(label), search images"
    wide = replace(plan, search=Beam(), greedy_losses=(0.0, 0.3, 0.4))
    assert [list(line.get_ydata()) for line in plot_search(wide).lines][1:] == [[0, 0.3, 0.4], list(plan.search_losses)]
    with pytest.raises(ValueError, match="random_sets"):
        plot_search(replace(plan, random_losses=()))
