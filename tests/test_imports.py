"""Libraries that are imported in the middle of a function leave the process as it was."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

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


def test_what_a_caller_sets_after_the_first_import_stays() -> None:
    with first_import("json"), warnings.catch_warnings():
        os.environ["SET_WITHIN"] = "1"
    assert os.environ.pop("SET_WITHIN") == "1"


COLD = """
import os, sys, warnings
import torch
import resnet_paths.landscape, resnet_paths.lesion, resnet_paths.paths, resnet_paths.tradeoff
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


def test_first_calls_in_a_new_process_leave_no_mark() -> None:
    """In a process of its own: only there is an import the first."""
    ended = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, check=False)
    assert not ended.returncode, ended.stderr
    assert not ended.stderr  # nor a word


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
