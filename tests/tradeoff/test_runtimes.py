"""A model in each runtime gives its own outputs; what is missing is said in one line."""

import importlib.util
import shutil

import pytest
import torch
from torch import nn

from resnet_paths.tradeoff import Clock, in_runtime
from resnet_paths.tradeoff.runtimes import check_runtime

NEEDS = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}


@pytest.fixture(scope="module")
def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


def skip_where_absent(runtime: str) -> None:
    absent = [name for name in NEEDS.get(runtime, ()) if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed")
    if runtime == "compile" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")


def output(made: object) -> torch.Tensor:
    return torch.as_tensor(made if isinstance(made, torch.Tensor) else made[0])


@pytest.mark.integration
@pytest.mark.slow
def test_a_compiled_model_gives_its_outputs() -> None:
    skip_where_absent("compile")
    layer, x = nn.Linear(2, 3), torch.randn(3, 2)
    compiled = in_runtime(layer, x, "compile")
    assert compiled is not layer
    with torch.inference_mode():
        torch.testing.assert_close(output(compiled(x)), layer(x))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "export", "onnx", "openvino"])
def test_a_runtime_gives_the_models_outputs_for_any_batch(runtime, layers) -> None:
    skip_where_absent(runtime)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    for made_for in (1, 3) if runtime == "export" else (3,):
        call = in_runtime(layers, torch.randn(made_for, 2, 4, 4), runtime, threads=1)
        with torch.inference_mode():
            for count in (3, 2):
                x = torch.randn(count, 2, 4, 4)
                torch.testing.assert_close(output(call(x)), layers(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_what_the_compiler_says_comes_in_one_line(layers, monkeypatch) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1\n")

    monkeypatch.setattr(torch, "compile", lambda model: fails)
    with pytest.raises(ValueError, match=r"^expected a model .* No working C\+\+ compiler found; install .* runtime$"):
        in_runtime(layers, torch.randn(1, 2, 4, 4), "compile")


@pytest.mark.parametrize(("runtime", "extra"), [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_the_extra_that_brings_it(runtime, extra, layers, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(
        ValueError, match=rf"onnxscript and \w+ to be installed; run: pip install 'resnet-paths\[{extra}\]'"
    ):
        in_runtime(layers, torch.randn(1, 2, 4, 4), runtime)
    check_runtime(Clock().runtime)
