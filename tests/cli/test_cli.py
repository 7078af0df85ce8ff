"""The commands as a user types them."""

import importlib
import json
import runpy
import shlex
import sys

import pytest
from typer.testing import CliRunner

from resnet_paths.cli import app
from resnet_paths.data import load_data
from resnet_paths.models import load_model, read_checkpoint

pytestmark = pytest.mark.slow


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_main_job(tmp_path, monkeypatch, capsys) -> None:
    """As ``python -m resnet_paths`` runs it; separate processes are in test_cli_errors.py."""
    monkeypatch.setattr(sys, "argv", ["resnet_paths", "lesion", "--limit", "20", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("resnet_paths", run_name="__main__")
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "27 residual blocks" in printed
    assert "layer3.8" in printed
    assert "latency" in printed
    assert "drop_blocks(model, [" in printed
    assert (tmp_path / "lesion.png").stat().st_size > 5000
    assert len((tmp_path / "lesion.csv").read_text().splitlines()) == 28


def test_json_has_the_numbers(tmp_path, small_checkpoint, monkeypatch) -> None:
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # test_the_main_job looks at the picture
    model = ["--model", str(small_checkpoint)]
    result = run("lesion", *model, "--limit", "40", "--count", "3", "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["blocks"]) == 6
    assert len(report["drop"]["dropped"]) == 3
    for size in ("parameters", "macs"):
        assert report["drop"]["after"][size] < report["drop"]["before"][size]


def test_unroll() -> None:
    result = run("unroll", "--model", "resnet18", "--input", "3x32x32")
    assert "layer4.1" in result.stdout
    assert "64x8x8" in result.stdout
    blocks = json.loads(run("unroll", "--json").stdout)
    assert [block["index"] for block in blocks] == list(range(27))


def test_help_teaches() -> None:
    assert "lesion" in run("--help").stdout
    text = " ".join(run("lesion", "--help").stdout.split())
    assert "Delete each block in turn" in text
    assert "resnet-paths lesion --model cifar-resnet56@weights.safetensors" in text
    assert run("--version").stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lesion", "--model", "resnet19"], "similar names: resnet18"),
        (["lesion", "--model", "none.safetensors"], "does not exist"),
        (["lesion", "--model", "resnet18"], "choose --data to fit --model"),
        (["lesion", "--data", "nowhere"], "neither a known name nor a file"),
        (["lesion", "--device", "cuda:99"], "--device to be an available device"),
        (["lesion", "--limit", "0"], "at least 1"),
        (["unroll", "--model", "os:getcwd"], "to return a torch.nn.Module"),
    ],
)
def test_invalid_use_gives_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stderr.startswith("error: expected")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


FAST = ("--latency-seconds", "0.001", "--latency-batch", "2")


@pytest.mark.parametrize("more", [(), ("--finetune-epochs", "1", "--finetune-limit", "200")], ids=["", "finetuned"])
def test_plan_then_drop_makes_what_the_plan_measured(tmp_path, small_checkpoint, more, monkeypatch) -> None:
    import torch

    model = ("--model", str(small_checkpoint))
    how = ("--repair", "recalibrate") if more else ()
    plan = run("plan", *model, "--limit", "60", "--count", "2", *how, *FAST, *more, "--out", str(tmp_path))
    assert plan.exit_code == 0, plan.output
    done = f"Searched and {'recalibrated' if more else 'refitted'} on digits (train), shifted by up to 1 pixels"
    assert done in " ".join(plan.stdout.split())
    assert max(map(len, plan.stdout.partition("Written")[0].splitlines())) <= 80
    written = json.loads((tmp_path / "plan.json").read_text())
    point = written["finetuned"] if written["keeps_finetuned"] else written["points"][2]
    assert all(name in plan.stdout for name in point["names"])
    printed = " ".join(plan.stdout.partition("Next: ")[2].split())
    assert printed == f"resnet-paths drop --plan {tmp_path / 'plan.json'}"
    dropped = run(*shlex.split(printed)[1:], "--no-onnx", "--out", str(tmp_path / "small"), "--json")
    assert dropped.exit_code == 0, dropped.output
    facts = json.loads(dropped.stdout)
    assert facts["measured"]["accuracy"] == pytest.approx(point["accuracy"], abs=0.001)
    assert facts["dropped"] == point["dropped"]
    assert facts["parameters_after"] == point["parameters"]
    smaller, data = load_model(str(tmp_path / "small")), load_data("digits")
    with torch.no_grad():
        right = (smaller(data.x).argmax(1) == data.labels).double().mean()
    assert float(right) == pytest.approx(point["accuracy"], abs=0.001)
    if more:
        return
    assert (tmp_path / "plan.png").stat().st_size > 5000
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # test_the_main_job looks at the picture
    again = run("lesion", "--model", str(tmp_path / "small"), "--limit", "10", "--out", str(tmp_path), "--json")
    assert len(json.loads(again.stdout)["blocks"]) == 4
    other = run("drop", "--plan", str(tmp_path / "plan.json"), "--limit", "50", "--out", str(tmp_path / "other"))
    assert other.exit_code == 2
    assert "expected --limit as in the plan" in other.stderr
    written["points"][2]["accuracy"] -= 0.01
    (tmp_path / "wrong.json").write_text(json.dumps(written))
    wrong = run("drop", "--plan", str(tmp_path / "wrong.json"), "--no-onnx", "--out", str(tmp_path / "wrong"))
    assert wrong.exit_code == 2
    assert "expected the written network to have the planned accuracy" in " ".join(wrong.stderr.split())


def test_a_written_folder_loads_without_the_library_and_says_how(tmp_path, small_checkpoint, monkeypatch) -> None:
    """As without the library: none of its modules can be imported, and torch knows none of its classes."""
    import torch
    from torch.utils import _pytree

    model = ("--model", str(small_checkpoint))
    assert run("drop", *model, "--blocks", "3,-1", "--no-onnx", "--out", str(tmp_path / "small")).exit_code == 0
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "resnet_paths"]:
            patch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError):
            importlib.import_module("resnet_paths.models")
        program = torch.export.load(tmp_path / "small" / "model.pt2").module()
        assert program(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    assert not [kind for kind in _pytree.SUPPORTED_NODES if kind.__module__.startswith("resnet_paths")]
    assert not [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("resnet_paths")]
    text = (tmp_path / "small" / "README.md").read_text()
    assert "['layer2.1', 'layer3.1']" in text


def test_a_dropped_model_that_is_dropped_again_reads_back(tmp_path, small_checkpoint) -> None:
    first = run("drop", "--model", str(small_checkpoint), "--blocks", "3", "--no-onnx", "--out", str(tmp_path / "one"))
    assert first.exit_code == 0, first.output
    file = str(tmp_path / "one" / "model.safetensors")
    second = run("drop", "--model", file, "--blocks", "layer3.1", "--no-onnx", "--out", str(tmp_path / "two"), "--json")
    assert second.exit_code == 0, second.output
    again = str(tmp_path / "two" / "model.safetensors")
    assert read_checkpoint(again)[1]["dropped"] == ["layer2.1", "layer3.1"]
    size = sum(parameter.numel() for parameter in load_model(again).parameters())
    assert size == json.loads(second.stdout)["parameters_after"]


WITHOUT_NORMS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + torch.relu(self.conv(x))


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), Block(), Block(), nn.Flatten(), nn.Linear(144, 10)).eval()
"""


def test_for_a_model_without_norms_a_message_says_that_nothing_was_recalibrated(tmp_path) -> None:
    (tmp_path / "plain.py").write_text(WITHOUT_NORMS)
    model = ("--model", f"{tmp_path / 'plain.py'}:make", "--limit", "40", "--out", str(tmp_path))
    for command in (
        ("plan", "--count", "1", "--repair", "recalibrate", *FAST),
        ("drop", "--blocks", "1", "--repair", "recalibrate", "--no-onnx"),
    ):
        result = run(*command, *model)
        assert result.exit_code == 0, result.output
        assert "no batch norms that keep statistics: nothing was recalibrated" in " ".join(result.stdout.split())
        assert "Searched and recalibrated" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drop", "--blocks", "99", "--limit", "10"], "a block index from -27 to 26"),
        (["drop", "--blocks", "layer9.0", "--limit", "10"], "choose one of"),
        (["plan", "--search", "random", "--limit", "10"], "'random' is not one of 'greedy', 'beam', 'exact'"),
    ],
)
def test_invalid_use_of_plan_and_drop(arguments: list[str], message: str, tmp_path) -> None:
    result = run(*arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.strip().splitlines()) == 1
