"""Libraries that are imported in the middle of a function leave the process unchanged."""

import ast
import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import resnet_paths
from resnet_paths import data
from resnet_paths.imports import first_import

MARKS = """
import os, sys, warnings
os.environ["ADDED"] = "1"
os.environ["CHANGED"] = "new"
os.environ.pop("REMOVED")
warnings.simplefilter("ignore")
sys.path.append("/of/its/own")
value = 3
"""


def test_a_first_import_restores_environment_and_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "marking.py").write_text(MARKS)
    (tmp_path / "failing.py").write_text(MARKS + "raise ImportError('half way')")
    for name, value in {"CHANGED": "old", "REMOVED": "old"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ), list(warnings.filters)

    with pytest.raises(ImportError, match="half way"), first_import("failing"):
        import failing  # type: ignore[import-not-found]  # noqa: F401
    assert (dict(os.environ), list(warnings.filters)) == before

    with first_import("marking"):
        import marking  # type: ignore[import-not-found]
    assert (dict(os.environ), list(warnings.filters)) == before
    assert marking.value == 3
    assert "/of/its/own" in sys.path  # later imports of that library are found there
    sys.modules.pop("marking")


def test_settings_that_a_caller_makes_after_the_first_import_stay() -> None:
    with first_import("json"), warnings.catch_warnings():
        os.environ["SET_WITHIN"] = "1"
    assert os.environ.pop("SET_WITHIN") == "1"


LATE = """
import sys, threading
import resnet_paths
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert set(resnet_paths.__all__) <= set(dir(resnet_paths))

from typer.testing import CliRunner
from resnet_paths.cli import app
def answer(*words, **env):
    return CliRunner().invoke(app, words, env=env, prog_name="resnet-paths").stdout
overview = answer("--help")
for command in (
    "unroll", "lesion", "paths", "compare", "plan", "drop", "shrink", "landscape", "train", "report", "reproduce"
):
    assert command in overview
    assert f"resnet-paths {command}" in answer(command, "--help").partition("Examples")[2]
for typed, place, expected in (
    ("rep", 1, "reproduce"), ("report --skip le", 3, "lengths"), ("reproduce he2015 --claim deg", 4, "degradation"),
    ("train --schedule c", 3, "cosine"), ("plan --accuracy", 2, "--accuracy-drop"),
):
    words = {"COMP_WORDS": f"resnet-paths {typed}", "COMP_CWORD": str(place)}
    assert expected in answer(_RESNET_PATHS_COMPLETE="complete_bash", **words).split(), typed
assert not {"torch", "numpy", "pandas", "matplotlib", "scipy"} & set(sys.modules)

import torch
class Asks(torch.nn.Module):  # the first use of names, by the thread that follows a model and by one beside it
    def __init__(self, *names):
        super().__init__()
        self.layer, self.names = torch.nn.Linear(2, 2), names
    def forward(self, x):
        beside = threading.Thread(target=lambda: resnet_paths.callbacks.PathRecorder)
        beside.start()
        for name in self.names:
            getattr(resnet_paths, name)
        beside.join()
        return x + self.layer(x)

call, x = torch.nn.Module.__call__, torch.ones(1, 2)
for model, example in ((Asks("drop_blocks", "training"), None), (Asks("landscape", "plan_drop"), x)):  # both front ends
    assert [block.name for block in resnet_paths.unroll(model, example)] == ["layer"]
assert torch.nn.Module.__call__ is call
resnet_paths.single_deletions, resnet_paths.gradient_by_length, resnet_paths.landscape.loss_surface, resnet_paths.sweep
assert resnet_paths.tradeoff.count_flops(torch.nn.Linear(4, 8), torch.randn(2, 4)) == 128  # nor for the compiler
heavy = {
    "pandas", "xarray", "scipy", "captum", "torchvision", "matplotlib", "sklearn", "curvlinops", "PIL", "torch._dynamo",
}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

resnet_paths.path_lengths(3).to_pandas()
assert "pandas" in sys.modules
"""

COLD = """
import os, sys, warnings
state = lambda: (dict(os.environ), list(warnings.filters), list(sys.path))
before = state()
images = resnet_paths.data.digits("test").x[:2]
net = resnet_paths.unroll(resnet_paths.cifar_resnet(8, in_channels=1, widths=(2, 2, 2)).eval())
resnet_paths.paths.logits_by_length(net, images)
resnet_paths.tradeoff.measure_latency(net.model, images, seconds=0.0)
resnet_paths.tradeoff.in_runtime(net.model, images, "export")
resnet_paths.lesion.order_distance([1, 0, 2])
assert state() == before, [set(map(str, a)) ^ set(map(str, b)) for a, b in zip(before, state())]
assert "curvlinops" not in sys.modules and "sklearn" not in sys.modules and "setuptools" not in sys.modules
assert "torch._dynamo" in sys.modules  # of which the marks are
"""


@pytest.mark.slow
def test_a_new_process_imports_late_and_leaves_no_mark() -> None:
    """In a separate process, where the import really is the first."""
    ended = subprocess.run([sys.executable, "-c", LATE + COLD], capture_output=True, text=True, check=False)
    assert not ended.returncode, ended.stderr
    assert not ended.stderr  # nor a word


def test_the_public_names_are_those_that_type_checkers_read() -> None:
    """The list at run time is that of the imports for type checkers, and every package is in both."""
    source = Path(resnet_paths.__file__)
    branch = next(node for node in ast.parse(source.read_text()).body if isinstance(node, ast.If))
    read = {name.name: node.module for node in branch.body for name in node.names}  # type: ignore[attr-defined]
    packages = {path.parent.name for path in source.parent.glob("*/__init__.py")}
    assert {name for name, module in read.items() if module is None} == packages
    assert {name for name, module in read.items() if module} == set(resnet_paths.__all__)
    for name, module in read.items():
        held = getattr(resnet_paths, name)
        assert held is (
            import_module(f"resnet_paths.{name}") if module is None else getattr(getattr(resnet_paths, module), name)
        )
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        resnet_paths.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    rows = [[*map(int, image), int(label)] for image, label in zip(theirs.data, theirs.target, strict=True)]
    parts = [data.digits(split) for split in ("train", "test")]
    ours = [
        [*(image.flatten() * 16).int().tolist(), int(label)]
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(ours) == sorted(rows)
    for part, fourth in zip(parts, (False, True), strict=True):
        of_three = [row for row in rows if row[-1] == 3]
        kept = [row for index, row in enumerate(of_three) if (index % 4 == 3) == fourth]
        assert [[*(image.flatten() * 16).int().tolist(), 3] for image in part.images[part.labels == 3]] == kept
