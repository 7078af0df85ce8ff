import matplotlib

from resnet_paths import unroll
from resnet_paths.data import digits
from resnet_paths.lesion import random_deletions, single_deletions
from resnet_paths.models import load_model
from resnet_paths.plot import plot_random_deletions, plot_single_deletions, save


def test_pictures_name_their_axes_and_show_the_numbers(tmp_path) -> None:
    net, data = unroll(load_model("embedded")), digits("test").subset(slice(0, 30))
    record = single_deletions(net, data)
    ax = plot_single_deletions(record, chance=0.9)
    assert ax.get_xlabel() == "deleted unit"
    assert "error" in ax.get_ylabel()
    assert [label.get_text() for label in ax.get_xticklabels()] == list(record.names)
    drawn = sorted(float(y) for line in ax.containers for y in line.lines[0].get_ydata())
    assert drawn == sorted(record.values.tolist())
    assert save(ax, tmp_path / "deep" / "a.png").stat().st_size > 5000

    many = random_deletions(net, data, [1, 3], draws=2)
    figure = matplotlib.figure.Figure()
    given = figure.subplots()
    assert plot_random_deletions(many, given) is given
    assert given.get_xlabel() == "number of deleted units"
    assert "error" in given.get_ylabel()
