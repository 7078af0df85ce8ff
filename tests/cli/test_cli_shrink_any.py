"""From a budget to the files of a smaller network and back, for data of every form: the same words as for images."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from resnet_paths import drop_blocks, unroll
from resnet_paths.choices import Runtime
from resnet_paths.cli import app
from resnet_paths.lesion import METRICS
from resnet_paths.models import load_model
from resnet_paths.tradeoff import in_runtime
from resnet_paths.tradeoff.measures import answers

pytestmark = [pytest.mark.slow, pytest.mark.integration]

CODE = """
import torch
from references.other_data import case

from resnet_paths.models import cifar_resnet

def _model(kind):
    return case(kind).model.float()

def _data(kind, split):
    data = case(kind, 40).data.to(dtype=torch.float32)
    return data.subset(slice(0, 20) if split == "train" else slice(20, 40))

def tokens(): return _model("tokens")
def tokens_data(split="test"): return _data("tokens", split)
def masks(): return _model("masks")
def masks_data(split="test"): return _data("masks", split)
def flags(): return _model("flags")
def flags_data(split="test"): return _data("flags", split)
def series(): return _model("series")
def series_data(split="test"): return _data("series", split)
def embeddings(): return _model("embeddings")
def embeddings_data(split="test"): return _data("embeddings", split)

def forecast():
    from references.other_data import Residual, conv
    from torch import nn
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 1), conv(nn.Conv1d), conv(nn.Conv1d), nn.Flatten(), nn.Linear(36, 1)).eval()

def forecast_data(split="test"):
    x = torch.randn(40, 2, 9, generator=torch.Generator().manual_seed(0))
    part = slice(0, 20) if split == "train" else slice(20, 40)
    return x[part], x[part].mean((1, 2))

def photos():
    return cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=0).eval()

def photos_data(split="test"):
    return torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(int(split == "train")))

class Nodes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from references.other_data import dense
        self.blocks, self.head = torch.nn.Sequential(dense(), dense(), dense()), torch.nn.Linear(6, 1)
    def forward(self, neighbours, features):
        return self.head(self.blocks(neighbours @ features).mean(1))

def graphs():
    torch.manual_seed(0)
    return Nodes().eval()

def graphs_data(split="test"):
    from resnet_paths.data import Examples
    generator = torch.Generator().manual_seed(int(split == "train"))
    features = torch.randn(20, 3, 6, generator=generator)
    return Examples((torch.eye(3), features), features.mean((1, 2)), kind="graph")

def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    sizes = dict(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**sizes)).eval()

def gpt2_data(split="test"):
    ids = torch.randint(0, 11, (16, 8), generator=torch.Generator().manual_seed(int(split == "train")))
    mask = (torch.arange(8) < 4 + torch.arange(16)[:, None] % 5).long()
    return [{"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask > 0, -100)}]
"""
QUICK = ("--latency-seconds", 0.001, "--latency-batch", 2, "--limit", 20)
FORMS: dict[str, tuple[Any, ...]] = {
    "tokens": ("--metric", "perplexity", "--rise", 1000),
    "gpt2": ("--metric", "perplexity", "--rise", 1000, "--max-blocks", 1),
    "forecast": ("--count", 1, "--finetune-epochs", 1),
    "masks": ("--metric", "iou_error", "--rise", 1, "--finetune-epochs", 1, "--repair", "none"),
    "photos": ("--disagreement", 0.999, "--max-blocks", 1, "--repair", "recalibrate"),
    "flags": ("--rise", 1000, "--repair", "none"),
    "series": ("--accuracy-drop", 0.9, "--max-blocks", 1),
    "graphs": ("--count", 1, "--repair", "none", "--runtime", "export"),
    "embeddings": ("--metric", "cosine_distance", "--rise", 1, "--max-blocks", 1),
}
REACHED = {
    "tokens": "perplexity", "gpt2": "perplexity", "forecast": "squared_error", "masks": "iou_error",
    "photos": "disagreement", "flags": "multilabel_error", "series": "accuracy", "graphs": "squared_error",
    "embeddings": "cosine_distance",
}  # fmt: skip

TIMED_AS_ONNX = ("tokens", "gpt2", "photos", "graphs")
"""Inputs by name, alone and several: full networks of other tensors than photos are not converted, only to be timed."""


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def without_onnx(model: nn.Module, x: Any, runtime: Runtime, *threads: int | None, batch: int) -> Any:
    """A model in a runtime; in PyTorch instead of ONNX Runtime, which is a second conversion in each test."""
    return in_runtime(model, x, "eager" if runtime == "onnx" else runtime, *threads, batch=batch)


def output_of(result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("any") / "mine.py"
    file.write_text(CODE)
    return file


def own(mine: Path, form: str) -> tuple[Any, Any]:
    """The model and the test data of a form."""
    space: dict[str, Any] = {"__name__": "mine"}
    exec(compile(mine.read_text(), str(mine), "exec"), space)
    from resnet_paths.data import as_examples

    return space[form](), as_examples(space[f"{form}_data"](split="test"), space[form](), labelled=False)


def reached(model: nn.Module, full: nn.Module, data: Any, metric: str) -> float:
    """The metric of a model on data, by the definition."""
    net = unroll(full, data.subset([0, 1]).x)
    now, before = (answers(one, data, net.followed, like=full) for one in (model, full))
    return float(now.right.mean() if metric == "accuracy" else now.values(METRICS[metric], before).mean())


def code_in(readme: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme, re.S)


@pytest.mark.filterwarnings("ignore:the model counts cached tokens")  # of GPT-2, which may lose its only attention
@pytest.mark.parametrize("form", FORMS)
def test_shrink_writes_what_it_measured_and_the_readme_runs(form: str, mine: Path, tmp_path: Path, monkeypatch) -> None:
    if form == "gpt2":
        pytest.importorskip("transformers")
    given = ("--model", f"{mine}:{form}", "--data", f"{mine}:{form}_data", *QUICK)
    if form not in TIMED_AS_ONNX:
        monkeypatch.setattr("resnet_paths.tradeoff.stopwatch.in_runtime", without_onnx)
    load, read = torch.export.load, list[Path]()
    monkeypatch.setattr(torch.export, "load", lambda file: read.append(file) or load(file))
    result = run("shrink", *given, *FORMS[form], "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert read == [tmp_path / "model.pt2"]  # for its ONNX file and for its check, once
    facts = json.loads(result.stdout, parse_constant=pytest.fail)
    full, data = own(mine, form)
    metric = REACHED[form]
    stages = {stage["name"]: stage for stage in facts["stages"]}
    last = stages.get("fine-tuned", [one for name, one in stages.items() if "not used" not in name][-1])
    assert {stage["metric"] for stage in facts["stages"]} == {metric}
    assert stages["full"]["value"] == pytest.approx(reached(full, full, data, metric), rel=1e-4, abs=1e-6)
    plain = drop_blocks(full, facts["dropped"], example_input=data.subset([0, 1]).x)
    assert stages["dropped"]["value"] == pytest.approx(reached(plain, full, data, metric), rel=1e-4)
    for stage in facts["stages"]:
        low, high = (math.inf if end is None else end for end in stage["ends"])
        assert low <= stage["value"] <= high or low == math.inf
    assert ("fine-tuned" in " ".join(stages)) <= ("--finetune-epochs" in FORMS[form])

    model = load_model(str(tmp_path))
    assert reached(model, full, data, metric) == pytest.approx(last["value"], rel=1e-3, abs=1e-6)
    assert (tmp_path / "plan.png").stat().st_size > 5000
    text = (tmp_path / "README.md").read_text()
    assert "| full | " in text
    assert metric in text
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"your_model": own(mine, form)[0]}
    blocks = code_in(text)
    for block in blocks:
        exec(block, space)
    assert any("torch.export.load" in block for block in blocks)
    with torch.no_grad():
        x = space["inputs"]
        expected = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
        again = space["model"].eval()
        read = again(**x) if isinstance(x, dict) else again(*x) if isinstance(x, tuple) else again(x)
    logits = expected if isinstance(expected, torch.Tensor) else expected.logits
    torch.testing.assert_close(read if isinstance(read, torch.Tensor) else read.logits, logits)
    assert "model.onnx" not in facts["left_out"]
    assert set(facts["files"]) >= {"onnx", "pt2", "safetensors", "plan", "readme"}
    torch.testing.assert_close(torch.as_tensor(space["outputs"][0]), logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["tokens", "graphs"])
def test_a_folder_is_reported_on_and_shrunk_again(form: str, mine: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # as of the forms above
    data = ("--data", f"{mine}:{form}_data", *QUICK, "--repair", "none", "--count", 1, "--no-onnx")
    result = run("shrink", "--model", f"{mine}:{form}", *data, "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert "plan.json, plan.png" in " ".join(result.stdout.split())
    result = run("shrink", "--model", tmp_path / "one", *data, "--out", tmp_path / "two")
    assert result.exit_code == 0, result.output
    both = unroll(load_model(str(tmp_path / "two")), own(mine, form)[1].subset([0, 1]).x)
    assert len(both) == len(unroll(own(mine, form)[0], own(mine, form)[1].subset([0, 1]).x)) - 2
    study = ("--data", f"{mine}:{form}_data", "--json", "--out", tmp_path / "lesion")
    result = run("lesion", "--model", tmp_path / "two", *study)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("form", ["tokens", "photos", "flags"])
def test_drop_makes_what_was_planned_and_catches_what_differs(form: str, mine: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("resnet_paths.plot.save", lambda axes, file: file)  # as of the forms above
    given = ("--model", f"{mine}:{form}", "--data", f"{mine}:{form}_data", *QUICK)
    result = run("plan", *given, "--count", 1, "--repair", "none", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Next: resnet-paths drop --plan" in " ".join(result.stdout.split())
    drop = ("drop", "--no-onnx", "--plan")
    result = run(*drop, tmp_path / "plan.json", "--out", tmp_path / "smaller", "--json")
    assert result.exit_code == 0, result.output
    facts, plan = json.loads(result.stdout), json.loads((tmp_path / "plan.json").read_text())
    point = plan["points"][plan["chosen"]]
    assert facts["measured"][point["metric"]] == pytest.approx(point["value"], rel=1e-3)
    assert facts["names"] == point["names"]
    point["value"] += 0.01 * max(1.0, point["value"])
    (tmp_path / "planted.json").write_text(json.dumps(plan))
    result = run(*drop, tmp_path / "planted.json", "--out", tmp_path / "other")
    assert result.exit_code == 2, result.output
    assert f"expected the written network to have the planned {point['metric']} of" in output_of(result)


def test_a_program_that_cannot_be_exported_is_left_out_in_one_line(mine: Path, tmp_path: Path) -> None:
    """A model that reads a value of its input goes where torch.export does not follow; its weights are written."""
    file = tmp_path / "own.py"
    file.write_text(
        CODE
        + """
class Careful(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = _model("flags")
    def forward(self, x):
        if not torch.jit.is_tracing() and torch.compiler.is_exporting():
            raise RuntimeError("nobody follows me")
        return self.inner(x)
def careful(): return Careful().eval()
"""
    )
    given = ("--model", f"{file}:careful", "--data", f"{file}:flags_data", *QUICK, "--count", 1, "--repair", "none")
    result = run("shrink", *given, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "Note: model.pt2 was left out: expected a model that torch.export can follow, got: RuntimeError" in words
    assert "model.onnx was left out: it is made from the exported program" in words
    text = (tmp_path / "out" / "README.md").read_text()
    assert "nobody follows me" in text
    assert "torch.export.load" not in text
    assert not (tmp_path / "out" / "model.pt2").exists()
    assert len(load_model(str(tmp_path / "out")).inner) == 4


@pytest.mark.parametrize(
    ("form", "words", "fault"),
    [
        ("flags", ("--metric", "perplexity", "--rise", 1), "expected a metric for targets"),
        ("tokens", (), "expected one of --latency, --accuracy-drop, --disagreement, --rise, --count for sequences"),
        ("tokens", ("--accuracy-drop", 0.1), "expected sequences of one class each for the goal AccuracyDrop"),
        ("photos", ("--accuracy-drop", 0.1), "expected labelled images to certify a fall in accuracy"),
        ("photos", ("--metric", "error", "--rise", 0.1), "expected"),
        ("forecast", ("--rise", 0, "--max-blocks", 1), "no blocks were dropped: for no set could it be shown"),
        ("forecast", ("--count", 9), "expected between 0 and 2 blocks to drop, got 9"),
    ],
)
def test_wrong_words_are_reported_in_one_line(
    form: str, words: tuple[Any, ...], fault: str, mine: Path, tmp_path: Path
):
    given = ("--model", f"{mine}:{form}", "--data", f"{mine}:{form}_data", *QUICK, "--no-onnx", "--repair", "none")
    result = run("shrink", *given, *words, "--out", tmp_path)
    assert result.exit_code == 2, result.output
    assert fault in output_of(result)
    assert not (tmp_path / "model.safetensors").exists()
