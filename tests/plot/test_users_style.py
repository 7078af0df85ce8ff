"""Plots take the sizes of text from the user's style, and draw on the user's axes."""

import re
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from resnet_paths import cifar_resnet, path_lengths, single_deletions, unroll
from resnet_paths.data import digits
from resnet_paths.plot import plot_path_lengths, plot_single_deletions


@pytest.mark.parametrize("size", [6.0, 14.0])
def test_every_text_scales_with_the_users_font_size(size: float) -> None:
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
    record = single_deletions(net, digits().subset(slice(0, 6)), progress=False)
    with matplotlib.rc_context({"font.size": size}):
        for draw in (lambda ax: plot_path_lengths(path_lengths(9), ax), lambda ax: plot_single_deletions(record, ax)):
            ax = Figure(figsize=(3.25, 2.5), layout="constrained").subplots()
            assert draw(ax) is ax
            sizes = {text.get_fontsize() for text in ax.get_figure().findobj(Text) if text.get_text()}
            assert sizes
            assert all(0.6 * size < own <= 1.2 * size for own in sizes), sizes


def test_no_plot_names_a_size_of_text_in_points() -> None:
    folder = Path(__file__).parents[2] / "src" / "resnet_paths" / "plot"
    assert [path.name for path in folder.glob("*.py") if re.search(r"(fontsize|labelsize)=\d", path.read_text())] == []
