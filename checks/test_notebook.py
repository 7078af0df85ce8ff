"""The notebook of the documentation in a real kernel: explorer, comparison, and figures as wide as a column."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
INSIDE = """
import json
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

def cut(figure):
    "Whether ink touches the edge of the picture, as it does where something is cut."
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((edge < 250).any())
"""
FIGURES = (
    INSIDE
    + """
columns = [plot_path_lengths(path_lengths(net), ax=plt.figure().subplots()).figure,
           plot_single_deletions(single_deletions(net, data, progress=False), ax=plt.figure().subplots()).figure]
print(json.dumps({"cut": [cut(figure) for figure in columns + [plot_comparison(comparison)[0].figure]],
                  "sizes": [list(figure.get_size_inches()) for figure in columns],
                  "points": max(text.get_fontsize() for figure in columns for text in figure.findobj(Text))}))
plt.close("all")
"""
)
ASKED = """
import json

import numpy as np
from resnet_paths.lesion import measure_sets

sent = []
widget.send = sent.append  # what goes to the browser
kept = [index not in (0, 5, 11, 20) for index in range(len(net))]
widget._handle_custom_msg({"id": 1, "kept": kept}, [])
losses, wrong = measure_sets(net, data, np.array([kept]), progress=False)
print(json.dumps({"sent": sent, "wrong": wrong[0].tolist(), "loss": float(losses.mean()), "live": widget.live,
                  "switches": json.loads(widget.data)["switches"],
                  "measured": exploration.answer([0, 5, 11, 20]).measured, "module": "export default" in widget._esm}))
"""


@pytest.fixture(scope="module")
def notebook() -> Any:
    """The notebook after it ran, with two cells of this test behind it."""
    for name in ("nbclient", "ipykernel", "anywidget"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'resnet-paths[dev]'")
    import nbformat
    from nbclient import NotebookClient

    read = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(read)
    assert all(not cell.get("outputs") for cell in read.cells), "the notebook is kept without its outputs"
    read.cells += [nbformat.v4.new_code_cell(FIGURES), nbformat.v4.new_code_cell(ASKED)]
    return NotebookClient(read, timeout=300, kernel_name="python3").execute()


def outputs(notebook: Any, code: str) -> dict[str, Any]:
    """What the cell that contains some code gave, by kind."""
    (cell,) = [cell for cell in notebook.cells if code in cell.source and cell.cell_type == "code"]
    found: dict[str, Any] = {}
    for output in cell.outputs:
        assert output.output_type != "stream" or output.name != "stderr", output.text
        found |= output.get("data", {}) or {"text": output.get("text", "")}
    return found


def test_the_explorer_is_shown_and_measures_what_it_is_asked(notebook: Any) -> None:
    assert WIDGET in outputs(notebook, "explore_widget(net, data, exploration)")
    printed = json.loads(outputs(notebook, "_handle_custom_msg")["text"])
    assert printed["switches"] == list(range(27))
    assert printed["live"]
    assert printed["module"]
    assert not printed["measured"]
    (answer,) = printed["sent"]
    assert answer["wrong"] == printed["wrong"]
    assert answer["loss"] == pytest.approx(printed["loss"], rel=1e-6)


def picture(output: dict[str, Any]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(output["image/png"]))).convert("L"))


def test_a_comparison_shows_its_figure(notebook: Any) -> None:
    shown = outputs(notebook, "comparison = compare(")
    assert picture(shown).std() > 5


def test_figures_fit_a_column_and_no_text_leaves_them(notebook: Any) -> None:
    printed = json.loads(outputs(notebook, "def cut")["text"])
    assert not any(printed["cut"]), printed["cut"]
    assert printed["sizes"] == [[3.25, 2.4]] * 2
    assert printed["points"] <= 1.2 * 7
    for code in (
        "plot_path_lengths(path_lengths(net), ax=axes, title=None)",
        "plot_single_deletions(single, ax=axes",
    ):
        assert picture(outputs(notebook, code)).std() > 5
