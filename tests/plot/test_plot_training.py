import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from resnet_paths.plot import plot_training, save

ROWS = [{"epoch": epoch, "loss": 2.0 / (epoch + 1), "train_error": 0.5 / (epoch + 1)} for epoch in range(3)]


def test_errors_left_and_loss_right(tmp_path) -> None:
    ax = plot_training([{**row, "test_error": 0.6} for row in ROWS])
    errors = {str(line.get_label()): line for line in ax.get_lines()}
    assert list(errors["training error"].get_ydata()) == [row["train_error"] for row in ROWS]
    assert list(errors["test error"].get_xdata()) == [1, 2, 3]
    (beside,) = [other for other in ax.figure.axes if other is not ax]
    assert list(beside.get_lines()[0].get_ydata()) == [row["loss"] for row in ROWS]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "training error",
        "test error",
        "training loss",
    ]
    assert save(ax, tmp_path / "training.png").stat().st_size > 5000


def test_a_figure_that_some_epochs_lack_is_left_out() -> None:
    ax = plot_training([*ROWS, {**ROWS[-1], "epoch": 3, "test_error": 0.1}])
    assert [str(line.get_label()) for line in ax.get_lines()] == ["training error"]
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_training([])


@pytest.mark.parametrize("name", ["no such thing", "picture.", "picture.xyz", ".png"])
def test_a_picture_of_no_known_format_is_refused_by_its_own_name(name: str, tmp_path: Path) -> None:
    ax = Figure().subplots()
    with pytest.raises(ValueError, match=r"expected a name that ends in .*\.png.*, got .*" + re.escape(name)):
        save(ax, tmp_path / name)
    assert not list(tmp_path.iterdir())
