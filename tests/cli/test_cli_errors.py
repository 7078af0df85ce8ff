"""Invalid uses of every command: one line that says what to do, exit code 2, no traceback; help and completion."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from resnet_paths.cli import app, main

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
WRONG = [
    (["reprot"], "No such command 'reprot'"),
    (["report", "--bugdet", "quick"], "--budget"),
    (["report", "--budget", "huge"], "'--budget': expected a duration such as 90s, 3min or 1h, got 'huge'"),
    (["report", "--skip", "lesions"], "stages among explorer, checks, blocks"),
    (["report", "--only", "lesions"], "stages among explorer, checks, blocks"),
    (["report", "--limit", "ten"], "--limit"),
    (["report", "--model", "resnet18"], "choose --data to fit --model"),
    (["report", "--batch-size", "0"], "batch-size"),
    (["report", "--limit", "4", "--out", "."], "a folder; give a name such as"),
    (["compare", "--other", "resnet19", "--limit", "4"], "similar names: resnet18"),
    (["reproduce"], "Missing argument"),
    (["reproduce", "veit2015"], "did you mean veit2016?"),
    (["reproduce", "veit2016", "--claim", "dekay"], "did you mean decay?"),
    (["reproduce", "li2018", "--data", "nowhere"], "neither a known name nor a file"),
    (["unroll", "--model", "alexnet"], "never adds two"),
    (["unroll", "--input", "3by3"], "--input as numbers"),
    (["unroll", "--input", "3x32x32"], "--input as the shape of the model's input"),
    (["unroll", "--model", " "], "a value for --model"),
    (["lesion", "--device", "meta"], "--device"),
    (["lesion", "--seed", "9" * 20], "--seed to be an integer from 0 to 2^63 - 1"),
    (["lesion", "--metric", ""], "a value for --metric"),
    (["plan", "--latency", "nan"], "--latency to be a number between 0 and 1"),
    (["plan", "--accuracy-drop", "-1"], "--accuracy-drop to be a number from 0 to 1"),
    (["landscape", "--range", "nan:1", "--limit", "4"], "LOW:HIGH"),
    (["drop", "--blocks", ",", "--limit", "4"], "--blocks as comma-separated indices or names"),
    (["train", "--widths", "99999,99999"], "at most 2,000,000,000 parameters"),
    (["lesion", "--count", "99", "--limit", "20"], "from 0 to 27"),
    (["paths", "--limit", "0"], "limit"),
    (["plan", "--count", "1", "--latency", "0.5", "--limit", "10"], "got --latency and --count"),
    (["plan", "--latency", "1"], "--latency to be a number between 0 and 1, got 1"),
    (["plan", "--rise", "-1"], "--rise to be a number of at least 0, got -1"),
    (["plan", "--metric", "perplexity", "--limit", "10"], "expected a metric for targets"),
    (["lesion", "--study", "game", "--count", "3", "--limit", "4"], "--count only for single deletions of images"),
    (["lesion", "--study", "random", "--accuracy-drop", "0", "--limit", "4"], "--accuracy-drop only for single"),
    (["unroll", "--model", "hf:"], "got ''"),
    (["lesion", "--data", "os.path:join"], "a function without arguments, or of split alone, got a"),
    (["drop", "--limit", "10"], "either --blocks or --plan, got neither"),
    (["train", "--epochs", "many"], "--epochs"),
    (["landscape", "--model", "none.safetensors"], "does not exist"),
]


def line_of(result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_invalid_use_is_one_line_that_says_what_to_do(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in line_of(CliRunner().invoke(app, arguments))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_unknown_options_in_one_line(command: str) -> None:
    line = line_of(CliRunner().invoke(app, [command, "--no-such-option"]))
    assert "--no-such-option" in line
    assert f"{command} --help" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_json(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert f"resnet-paths {command}" in text.partition("Examples")[2]
    assert "--json" in text


@pytest.mark.slow
def test_invalid_use_in_a_separate_process() -> None:
    command = [sys.executable, "-m", "resnet_paths", "report", "--budget"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_no_arguments_show_the_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "report" in result.output
    assert "reproduce" in result.output


@pytest.mark.parametrize(
    ("typed", "place", "expected"),
    [
        ("resnet-paths rep", 1, {"report", "reproduce"}),
        ("resnet-paths reproduce ", 2, {"veit2016", "li2018", "he2015", "he2016"}),
        ("resnet-paths reproduce he2015 --claim deg", 4, {"degradation"}),
        ("resnet-paths report --skip le", 3, {"lesion", "lengths"}),
        ("resnet-paths report --budget ", 3, {"quick", "full"}),
    ],
)
def test_shells_complete(typed: str, place: int, expected: set[str]) -> None:
    words = {"_RESNET_PATHS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(place)}
    result = CliRunner().invoke(app, [], env=words, prog_name="resnet-paths")
    assert set(result.stdout.split()) == expected


OWN = """
from resnet_paths.models import cifar_resnet
def three(): return cifar_resnet(8, in_channels=1, num_classes=3, widths=(4, 4, 4), seed=0)
def ten(): return cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=0)
"""


@pytest.mark.parametrize("command", ["lesion", "paths", "plan", "drop --blocks 1", "landscape", "report"])
def test_a_model_of_fewer_classes_than_the_data_is_reported(command: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_three.py").write_text(OWN)
    arguments = [*command.split(), "--model", "own_three.py:three"]
    assert "each of the 10 classes" in line_of(CliRunner().invoke(app, arguments))


def test_functions_of_the_folder_in_which_a_command_runs(tmp_path, monkeypatch, capsys) -> None:
    """As for an installed script: the folder is not on Python's module search path."""
    (tmp_path / "own_ten.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".", str(tmp_path))])
    monkeypatch.setattr(sys, "argv", ["resnet-paths", "unroll", "--model", "own_ten:ten"])
    with pytest.raises(SystemExit) as ended:
        main()
    sys.modules.pop("own_ten", None)
    assert not ended.value.code
    assert "3 residual blocks" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_reported_before_the_work(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("resnet_paths.data.load_data", None)  # not reached
    (tmp_path / "file").write_text("")
    for command in ("lesion", "plan", "paths", "landscape"):
        line = line_of(CliRunner().invoke(app, [command, "--out", str(tmp_path / "file" / "deep")]))
        assert "expected a folder to write to as --out" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.chdir(tmp_path)  # where an empty name would write
    for option in (
        ["lesion", "--out", ""],
        ["train", "--out", " "],
        ["report", "--out", ""],
        ["report", "--journal", ""],
    ):
        assert "expected a name, got ''" in line_of(CliRunner().invoke(app, option)).replace("' '", "''")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_errors_are_reported_by_origin(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_fault.py").write_text("def build():\n    return {}['gone']\n")
    theirs = CliRunner().invoke(app, ["unroll", "--model", str(tmp_path / "own_fault.py") + ":build"])
    assert theirs.exit_code == 1
    assert "own_fault.py" in theirs.stderr
    assert "cli/_errors.py" not in theirs.stderr
    assert "your code raised KeyError: 'gone'" in theirs.stderr
    monkeypatch.setenv("RESNET_PATHS_TRACEBACK", "1")
    all_of_it = CliRunner().invoke(app, ["unroll", "--model", str(tmp_path / "own_fault.py") + ":build"]).stderr
    assert (all_of_it.count("Traceback"), all_of_it.count("return {}['gone']")) == (1, 1)
    monkeypatch.delenv("RESNET_PATHS_TRACEBACK")

    monkeypatch.setattr("resnet_paths.cli.unroll.named_model", {}.__getitem__)
    ours = CliRunner().invoke(app, ["unroll"])
    assert ours.exit_code == 1
    assert "Traceback" in ours.stderr
    assert "please report it" in ours.stderr

    def full(_: str) -> None:
        raise MemoryError

    monkeypatch.setattr("resnet_paths.cli._errors._users_frames", lambda error: None)
    monkeypatch.setattr("resnet_paths.cli.unroll.named_model", full)
    assert "out of memory" in line_of(CliRunner().invoke(app, ["unroll"]))


@pytest.mark.slow
def test_nothing_to_drop_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_small.py").write_text(OWN)
    result = CliRunner().invoke(app, ["lesion", "--model", "own_small.py:ten", "--limit", "8", "--count", "0"])
    assert result.exit_code == 0, result.output
    assert "No block was dropped" in result.output
    assert "drop_blocks(model, [])" not in result.output


def test_a_tilde_that_the_shell_left_is_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "own_home.py").write_text(OWN)
    result = CliRunner().invoke(
        app, ["lesion", "--model=~/own_home.py:ten", "--limit", "4", "--count", "0", "--out=~/less"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "less" / "lesion.csv").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("option", ["--model", "--data"])
def test_a_python_file_without_a_function_says_how_to_name_one(option: str, tmp_path) -> None:
    file = tmp_path / "own_functions.py"
    file.write_text(OWN)
    told = line_of(CliRunner().invoke(app, ["lesion", option, str(file)]))
    assert f"{file}:FUNCTION" in told
