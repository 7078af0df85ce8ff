"""Tables on a terminal: no word is cut or broken, whatever the width."""

from __future__ import annotations

import ast
import io
import random
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from typer.testing import CliRunner

from resnet_paths import cifar_resnet, path_lengths, single_deletions, unroll
from resnet_paths.cli import app
from resnet_paths.text_tables import FittingTable, show, table

SOURCE = Path(__file__).resolve().parents[1] / "src" / "resnet_paths"
WIDTHS = (40, 60, 80, 100, 160)
LONG = "encoder.layers.encoder_layer_11.mlp"


def printed(shown: object, width: int) -> str:
    screen = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    screen.print(shown)
    return screen.file.getvalue()


def check_whole(shown: Table, text: str, width: int) -> None:
    """Every word of every head and cell is there as often as it should be, and no line is too long for its words."""
    words = [word for column in shown.columns for cell in column.cells for word in str(cell).split()]
    filled = [column for column in shown.columns if any(str(cell).strip() for cell in column.cells)]
    words += [word for column in filled for word in str(column.header).split()]
    there = text.split()
    for word in set(words):
        assert there.count(word) >= words.count(word) or len(word) > width - 2, f"{word} is cut at {width}:\n{text}"
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def drawn(seed: int) -> FittingTable:
    """A table of random words, with and without heads, empty cells, lines and columns that must not wrap."""
    rng = random.Random(seed)

    def words(most: int) -> str:
        return " ".join("".join(rng.choices("abcdefgh.", k=rng.randint(1, 30))) for _ in range(rng.randint(0, most)))

    made = table(words(6))
    for _ in range(rng.randint(1, 9)):
        made.add_column(words(3), justify=rng.choice(("left", "right")), no_wrap=rng.random() < 0.2)
    for _ in range(rng.randint(0, 5)):
        made.add_row(*(words(4) for _ in made.columns), style=rng.choice((None, "bold")))
    made.show_lines = rng.random() < 0.2
    return made


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_cut_at_any_width(width: int) -> None:
    for seed in range(40):
        shown = drawn(seed)
        if shown.row_count:
            check_whole(shown, printed(shown, width), width)


def test_columns_are_kept_where_they_fit_to_the_letter() -> None:
    shown = table("", ["name"], ["error"])
    shown.add_row(LONG, "0.1")
    least = next(width for width in range(20, 90) if "─" in printed(shown, width))
    assert least == 1 + len(LONG) + 2 + len("error") + 1
    check_whole(shown, printed(shown, least - 1), least - 1)


def test_a_log_has_the_whole_table_on_one_line_each() -> None:
    shown = table("", ["name"], ["error"] * 9)
    shown.add_row(LONG, *["0.1"] * 9)
    screen = Console(width=40, file=io.StringIO(), force_terminal=False)
    show(screen, shown)
    assert any(line.split() == [LONG, *["0.1"] * 9] for line in screen.file.getvalue().splitlines())


def test_every_table_of_the_library_is_such_a_table() -> None:
    """No command or record makes one of rich's own tables, which break words."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if path.name == "text_tables.py" or "rich.table" not in text:
            continue
        made = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        wrong += [f"{path.name}:{call.lineno}" for call in made if getattr(call.func, "id", "") == "Table"]
    assert not wrong


class _Named(nn.Module):
    """Two blocks with the names of torchvision's transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.Module()
        for number in (10, 11):
            layer = nn.Module()
            layer.mlp = nn.Sequential(nn.Linear(64, 64), nn.GELU())
            setattr(self.encoder.layers, f"encoder_layer_{number}", layer)
        self.head = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.flatten(1)
        x = x + self.encoder.layers.encoder_layer_10.mlp(x)
        x = x + self.encoder.layers.encoder_layer_11.mlp(x)
        return self.head(x)


@pytest.mark.parametrize("width", [60, 80])
def test_commands_print_whole_names_and_heads(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table that these commands show, and their output on a terminal of this width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resnet_paths.cli._inputs.named_model", lambda *given, **more: _Named().eval())
    monkeypatch.setattr("resnet_paths.cli.unroll.named_model", lambda *given, **more: _Named().eval())
    terminal = {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}
    for command, names, heads in [
        (["unroll", "--input", "1x8x8"], 2, ["index", "shortcut", "droppable"]),
        (["lesion", "--limit", "8", "--count", "0"], 2, ["shortcut", "interval", "damage"]),
        (["lesion", "--study", "game", "--limit", "8"], 2, ["standard", "error"]),
    ]:
        result = CliRunner().invoke(app, command, env=terminal)
        assert result.exit_code == 0, result.output
        text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)
        words = text.split()
        assert sum(word.startswith("encoder.") for word in words) == names, text
        assert {LONG, LONG.replace("11", "10"), *heads} <= set(words), text
        assert max(len(line.rstrip()) for line in text.splitlines() if "Written" not in line) <= width, text


def test_records_and_networks_are_whole_too() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=0).eval()
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    records = [unroll(model, x), single_deletions(unroll(model), (x, labels), progress=False), path_lengths(40)]
    for record in records:
        shown = record.__rich__()
        for width in WIDTHS:
            check_whole(shown, printed(record, width), width)
