"""From a budget to the files of a smaller network, and back."""

import importlib.util
import json
import shlex

import pytest
import torch
from typer.testing import CliRunner

from resnet_paths.cli import app
from resnet_paths.data import load_data
from resnet_paths.models import cifar_resnet, load_checkpoint, load_model, save_checkpoint

pytestmark = pytest.mark.slow

QUICK = ("--latency-seconds", "0.001", "--latency-batch", "2", "--repair", "recalibrate")

OWN = """
from resnet_paths.models import cifar_resnet, load_checkpoint
def build():
    return load_checkpoint({weights!r}, cifar_resnet(14, in_channels=1, widths=(8, 16, 16)))
"""


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def shrunk(small_checkpoint, tmp_path_factory):
    """A model of the user's own code, without two of its blocks and fine-tuned."""
    folder = tmp_path_factory.mktemp("shrunk")
    state = load_checkpoint(small_checkpoint)
    weights = save_checkpoint(state, folder / "weights.safetensors")
    (folder / "mine.py").write_text(OWN.format(weights=str(weights)))
    model = f"{folder / 'mine.py'}:build"
    result = run(
        "shrink", "--model", model, "--count", "2", "--limit", "200", "--finetune-epochs", "1", *QUICK,
        "--out", folder / "out",
    )  # fmt: skip
    return folder / "out", result


def accuracy(model, data) -> float:
    with torch.no_grad():
        return float((model(data.x).argmax(1) == data.labels).double().mean())


def test_the_table_tells_each_step_in_80_columns(shrunk) -> None:
    folder, result = shrunk
    assert result.exit_code == 0, result.output
    lines = result.stdout.partition("Written to")[0].splitlines()
    assert max(map(len, lines)) <= 80
    names = json.loads((folder / "plan.json").read_text())["points"][2]["names"]
    assert all(any(name in line for line in lines) for name in names)
    for row in ("full", "dropped", "recalibrated", "fine-tuned"):
        assert any(line.strip().startswith(row) for line in lines), row
    assert "ONNX" in result.stdout
    assert "comparing about" in result.stderr  # not a terminal: progress is printed as lines


def test_what_is_written_is_what_was_measured_and_reads_back(shrunk) -> None:
    folder, _ = shrunk
    plan = json.loads((folder / "plan.json").read_text())
    point = plan["finetuned"] if plan["keeps_finetuned"] else plan["points"][2]
    data = load_data("digits")
    model = load_model(str(folder))
    assert accuracy(model, data) == pytest.approx(point["accuracy"], abs=1e-3)
    assert sum(parameter.numel() for parameter in model.parameters()) == point["parameters"]
    assert accuracy(torch.export.load(folder / "model.pt2").module(), data) == pytest.approx(
        point["accuracy"], abs=1e-3
    )
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: data.x.numpy()})[0]
    assert (logits.argmax(1) == data.labels.numpy()).mean() == pytest.approx(point["accuracy"], abs=1e-3)
    text = (folder / "README.md").read_text()
    assert f"drop_blocks(your_model, {point['names']}, example_input=inputs)" in text
    assert f"| full | {plan['points'][0]['accuracy']:.2%} |" in text


def test_a_written_network_can_be_shrunk_again(shrunk, tmp_path) -> None:
    folder, _ = shrunk
    again = run(
        "shrink", "--model", folder, "--count", "1", "--limit", "100", "--no-onnx", "--runtime", "export", *QUICK,
        "--json", "--out", tmp_path,
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    facts = json.loads(again.stdout)
    points = json.loads((tmp_path / "plan.json").read_text())["points"]
    for stage, point in zip((facts["stages"][0], facts["stages"][-1]), points, strict=True):
        assert set(stage["milliseconds"]) == {"PyTorch", "exported"}
        assert stage["milliseconds"]["exported"] == pytest.approx(1e3 * point["latency"])  # timed once, for the plan
    assert len(facts["dropped"]) == 1
    assert accuracy(load_model(str(tmp_path)), load_data("digits")) == pytest.approx(
        facts["stages"][-1]["value"], abs=1e-3
    )


def test_what_cannot_be_reached_is_reported_in_one_line(small_checkpoint, tmp_path) -> None:
    few = run("shrink", "--model", small_checkpoint, "--accuracy-drop", "0.001", *QUICK, "--out", tmp_path)
    assert few.exit_code == 2
    assert "expected at least 2703 test images to show that accuracy falls" in " ".join(few.stderr.split())
    both = run("shrink", "--latency", "0.8", "--count", "1", "--out", tmp_path)
    assert "got --latency and --count" in both.stderr


@pytest.mark.parametrize("given", [("--finetune-limit", "30"), ("--finetune-rate", "0.1")])
@pytest.mark.parametrize("command", ["plan", "shrink"])
def test_how_to_fine_tune_is_refused_without_epochs(command, given, tmp_path) -> None:
    refused = run(command, "--count", "1", *given, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert f"expected --finetune-epochs beside {given[0]}, got none" in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()


def test_training_images_that_are_also_the_test_images_are_refused(small_checkpoint, tmp_path, monkeypatch) -> None:
    """As for a folder without train and test in it: the accuracy would be measured on the images used to choose."""
    same = load_data("digits", limit=100)
    monkeypatch.setattr("resnet_paths.data.load_examples", lambda *arguments, **options: same)
    result = run("plan", "--model", small_checkpoint, "--count", "1", *QUICK, "--out", tmp_path)
    assert result.exit_code == 2
    assert "training and test images differ" in " ".join(result.stderr.split())


def test_folders_that_hold_no_network_are_not_models(tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        load_model(str(tmp_path))
    plain = save_checkpoint(cifar_resnet(8), tmp_path / "model.safetensors")
    assert load_model(str(tmp_path)).depth == load_model(str(plain)).depth == 8


_SMALL = ("--limit", "12", "--repair", "none")


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the README's first command, which installs nothing for ONNX."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else found(name, *rest))


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize(
    ("words", "packages"),
    [
        (["shrink", *_SMALL, "--count", "1"], "onnxscript and onnxruntime"),
        (["drop", "--blocks", "1"], "onnxscript"),
        (
            ["plan", "--count", "1", "--runtime", "onnx", "--limit", "40", "--out", "plan"],
            "onnxscript and onnxruntime",
        ),
    ],
)
def test_packages_that_are_not_there_are_reported_before_the_work(
    words: list[str], packages: str, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resnet_paths.tradeoff.bench.measure_set", None)  # nothing is searched or measured
    monkeypatch.setattr("resnet_paths.tradeoff.bench.Evaluator.__call__", None)
    result = run(*words)
    assert result.exit_code == 2
    assert f"expected {packages} to be installed" in result.stderr
    assert not list(tmp_path.glob("**/*.pt2"))


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["drop"], "either --blocks or --plan, got neither"),
        (["drop", "--blocks", "99"], "got 99"),
        (["drop", "--blocks", "1", "--plan", "plan.json"], "got both"),
        (["drop", "--plan", "none.json"], "none.json"),
        (["shrink", *_SMALL, "--count", "99"], "blocks to drop, got 99"),
        (["shrink", *_SMALL, "--count", "1", "--latency", "0.8"], "got --latency and --count"),
        (["plan", *_SMALL, "--count", "1", "--runtime", "onnx", "--search", "exact"], "at most 16 blocks"),
    ],
)
def test_wrong_arguments_are_reported_before_missing_packages(
    words: list[str], fault: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    errors = " ".join(result.stderr.split())
    assert fault in errors
    assert "to be installed" not in errors


@pytest.mark.usefixtures("no_onnx")
def test_the_command_that_a_plan_prints_runs_where_onnx_is_not_installed(small_checkpoint, tmp_path) -> None:
    out = tmp_path / "plan"
    result = run("plan", "--model", small_checkpoint, "--count", "1", "--limit", "60", *QUICK, "--out", out)
    assert result.exit_code == 0, result.output
    words = shlex.split(result.stdout.partition("Next: resnet-paths ")[2].strip())
    assert "--no-onnx" in words
    written = run(*words, "--out", tmp_path / "drop")
    assert written.exit_code == 0, written.output
    assert "as planned" in written.stdout
