"""Checkpoints in the wild: any file name, any containers around the tensors, and any prefixes of their names."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from resnet_paths import drop_blocks, unroll
from resnet_paths.landscape import project_trajectory
from resnet_paths.models import (
    cifar_resnet,
    load_checkpoint,
    load_model,
    load_state,
    read_checkpoint,
    reading_of,
    save_checkpoint,
)

NAME = "cifar-resnet8"
MODEL = cifar_resnet(8, seed=3).eval()
STATE = MODEL.state_dict()
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WANT = MODEL(X).detach()


def under(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


LAYOUTS: dict[str, Any] = {
    "plain.pt": STATE,
    "old.pth": OrderedDict((k, v) for k, v in STATE.items() if "num_batches" not in k),
    "half.pt": {k: v.half() if v.is_floating_point() else v for k, v in STATE.items()},
    "parallel.th": {"state_dict": under("module."), "best_prec1": 91.7},
    "parallel.pth.tar": {"epoch": 3, "state_dict": under("module."), "optimizer": {"state": {}, "param_groups": []}},
    "net.pth": {"net": under("module."), "acc": 95.1, "epoch": 199},
    "net.t7": {"net": STATE, "acc": 95.1},
    "tutorial.pt": {"epoch": 1, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
    "timm.pth": {"arch": "x", "state_dict": under("_orig_mod."), "args": argparse.Namespace(lr=0.1)},
    "lightning.ckpt": {"state_dict": under("model."), "hyper_parameters": {"lr": 0.1}, "global_step": 5},
    "lightning_net.ckpt": {"state_dict": under("net."), "hyper_parameters": argparse.Namespace(lr=0.1)},
    "lightning_own_name.ckpt": {"state_dict": under("classifier.resnet.")},
    "fabric.ckpt": {"model": STATE},
    "numpy.pt": {"state_dict": STATE, "best": np.float64(91.7), "epoch": np.int64(3), "done": np.bool_(True)},
    "swa.pt": {"n_averaged": torch.tensor(5), **under("module.")},
    "average_alone.pth": {"epoch": 3, "ema": under("module.")},
    "nested.pth": {"model": {"state_dict": STATE, "epoch": 1}},
    "own_key.pth": {"weights_of_my_net": STATE, "epoch": 1},
    "both.pt": under("module._orig_mod."),
    "both.bin": under("_orig_mod.module."),
    "inner.bin": {k.replace("layer1.", "layer1._orig_mod."): v for k, v in STATE.items()},
    "without_ending": STATE,
    "flat.pt": {"epoch": 3, **STATE},
    "parallel.safetensors": under("module."),
    "compiled.safetensors": under("_orig_mod."),
    "prefixed.safetensors": under("backbone."),
    "average.safetensors": {"n_averaged": torch.tensor(5), **under("module.")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_in_every_way_a_model_is_named(tmp_path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".safetensors"):
        tensors = {key: value.contiguous() for key, value in LAYOUTS[name].items()}
        safetensors.torch.save_file(tensors, path, {"format": "pt", "epoch": "7", "facts": "hello"})
    else:
        torch.save(LAYOUTS[name], path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = [load_model(str(path)), load_model(f"{NAME}@{path}"), load_model(NAME, weights=path)]
        loaded.append(load_checkpoint(path, cifar_resnet(8)))
    for model in loaded:
        assert torch.allclose(model(X), WANT, atol=0.02 if "half" in name else 1e-6)
        assert not model.training


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_tensors_that_are_not_part_of_the_model_are_named(tmp_path, ending: str) -> None:
    path = tmp_path / f"net.{ending}"
    content = {**under("model."), "criterion.weight": torch.ones(10), "teacher.conv.weight": torch.ones(1)}
    content |= {"model.layer1.total_ops": torch.ones(1)}
    safetensors.torch.save_file(content, path) if ending == "safetensors" else torch.save(content, path)
    for spec in (str(path), f"{NAME}@{path}"):
        with pytest.warns(UserWarning, match=r"3 tensors that are not part of the model .*criterion\.weight") as warned:
            assert torch.allclose(load_model(spec)(X), WANT)
        assert len(warned) == 1


def test_a_part_of_the_network_is_never_left_out(tmp_path) -> None:
    """A deeper network has all names of a shallower one, with the same shapes."""
    torch.save(cifar_resnet(14).state_dict(), tmp_path / "deep.pt")
    with pytest.raises(ValueError, match=r"does not fit CifarResNet: unexpected: layer1\.1\.conv1\.weight") as error:
        load_model(f"{NAME}@{tmp_path / 'deep.pt'}")
    assert "\n" not in str(error.value)
    torch.save({k: v for k, v in STATE.items() if "layer2" not in k}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"missing: layer2\.0\.conv1\.weight, .* and \d+ more"):
        load_model(f"{NAME}@{tmp_path / 'part.pt'}")
    wide = {**STATE, "conv1.weight": torch.ones(16, 4, 3, 3)}
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"of another shape: conv1\.weight"):
        load_model(f"{NAME}@{tmp_path / 'wide.pt'}")


def test_several_networks_in_a_file(tmp_path) -> None:
    other = cifar_resnet(8, seed=4).state_dict()
    path = tmp_path / "two.pt"
    torch.save({"state_dict": STATE, "state_dict_ema": other}, path)
    with pytest.warns(UserWarning, match="read 'state_dict', not state_dict_ema; select another with key="):
        assert torch.equal(load_model(str(path))(X), WANT)
    average = load_checkpoint(path, key="state_dict_ema")
    assert torch.equal(average.conv1.weight, other["conv1.weight"])
    torch.save({**under("encoder_q."), **{f"encoder_k.{k}": v for k, v in other.items()}}, path)
    with pytest.raises(ValueError, match=r"2 that fit equally: encoder_q\., encoder_k\.; select one with key="):
        load_checkpoint(path, cifar_resnet(8))
    assert torch.equal(load_checkpoint(path, cifar_resnet(8), key="encoder_k").conv1.weight, other["conv1.weight"])


class Danger:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MODEL, r"an object of resnet_paths\.models\.cifar\.CifarResNet, which would run code"),
        ({"state_dict": STATE, "other": Danger()}, "which would run code"),
        ([torch.zeros(1)], "got list; save"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "got dict with epoch, optimizer; save"),
        ({0: torch.zeros(1)}, "got dict with 0; save"),
        ({}, "got dict with ; save"),
    ],
    ids=["model", "code", "list", "no state", "numbers", "empty"],
)
def test_anything_but_a_state_dict_is_refused_in_one_line(tmp_path, capsys, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    for spec in (str(tmp_path / "x.pt"), f"{NAME}@{tmp_path / 'x.pt'}"):
        with pytest.raises(ValueError, match=message) as error:
            load_model(spec)
        assert "\n" not in str(error.value)
        assert "weights_only=False" not in str(error.value)
        assert "\x1b" not in str(error.value)
    assert "must not run" not in capsys.readouterr().out


def test_damaged_files_and_programs(tmp_path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"state dict of tensors in x\.ckpt") as error:
        load_model(str(tmp_path / "x.ckpt"))
    assert "\n" not in str(error.value)
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got the program model\.pt2; torch\.export\.load runs it"):
        load_model(str(tmp_path / "model.pt2"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model("nowhere.ckpt")


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


def check_same(model: nn.Module) -> None:
    """The same weights, bit by bit; wrappers may move a model to a GPU, and change which kernels run."""
    for value, expected in zip(model.state_dict().values(), STATE.values(), strict=True):
        assert torch.equal(value.cpu(), expected)
    torch.testing.assert_close(model(X.to(next(model.parameters()).device)).cpu(), WANT, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_library_reads_what_it_writes_of_wrapped_models(tmp_path, kind: str) -> None:
    model = WRAPPERS[kind](cifar_resnet(8, seed=3).eval())
    path = save_checkpoint(model, tmp_path / "net.safetensors", classes=["a"])
    state, facts = read_checkpoint(path)
    assert set(state) == set(STATE)
    assert facts["architecture"]["depth"] == 8
    check_same(load_checkpoint(path))
    check_same(load_checkpoint(path, WRAPPERS[kind](cifar_resnet(8))))
    check_same(load_state(WRAPPERS[kind](cifar_resnet(8)), under("module.")).eval())


@pytest.mark.slow
def test_a_compiled_part_of_a_model_has_plain_names(tmp_path) -> None:
    model = cifar_resnet(8, seed=3).eval()
    model.layer1 = torch.compile(model.layer1, backend="eager")  # type: ignore[assignment]
    path = save_checkpoint(model, tmp_path / "net.safetensors")
    assert set(read_checkpoint(path)[0]) == set(STATE)
    check_same(load_checkpoint(path))
    other = cifar_resnet(8)
    other.layer1 = torch.compile(other.layer1, backend="eager")  # type: ignore[assignment]
    check_same(load_checkpoint(path, other))


@pytest.mark.slow
def test_a_network_without_blocks_is_read_again(tmp_path) -> None:
    whole = cifar_resnet(14, seed=3).eval()
    smaller = drop_blocks(whole, ["layer1.1", "layer3.1"])
    path = save_checkpoint(smaller, tmp_path / "net.safetensors", dropped=["layer1.1", "layer3.1"])
    want = smaller(X)
    for again in (load_model(str(path)), load_model(f"cifar-resnet14@{path}"), load_checkpoint(path, smaller)):
        assert torch.equal(again(X), want)
    assert len(unroll(load_model(str(path)))) == 4
    with pytest.raises(ValueError, match="does not fit"):
        load_model(f"cifar-resnet20@{path}")


def walk(step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=draw) if value.is_floating_point() else value
        for name, value in STATE.items()
    }


def test_trajectories_of_wrapped_models_and_folders(tmp_path) -> None:
    states = [walk(step) for step in range(4)]
    expected = project_trajectory(MODEL, states).explained
    for kind, wrap in WRAPPERS.items():
        assert project_trajectory(wrap(cifar_resnet(8)), states).explained == pytest.approx(expected), kind
    wrapped = [{f"module.{name}": value for name, value in state.items()} for state in states]
    assert project_trajectory(MODEL, wrapped).explained == pytest.approx(expected)
    for step, state in zip((1, 2, 9, 10), states, strict=True):  # in the order of the numbers, not of the letters
        torch.save({"net": state, "epoch": step}, tmp_path / f"model_{step}.t7")
    (tmp_path / "notes.txt").write_text("")
    distances = project_trajectory(MODEL, states).distances
    assert project_trajectory(MODEL, str(tmp_path)).distances == pytest.approx(distances)
    assert project_trajectory(MODEL, (state for state in states)).explained == pytest.approx(expected)
    broken = [*states[:-1], {**states[-1], "conv1.weight": states[-1]["conv1.weight"] * torch.nan}]
    with pytest.raises(ValueError, match=r"NaN or infinity in \[3\] of 4"):
        project_trajectory(MODEL, broken)
    with pytest.raises(ValueError, match="a folder of checkpoints, or several of them"):
        project_trajectory(MODEL, str(tmp_path / "model_1.t7"))
    with pytest.raises(TypeError, match="expected checkpoints"):
        project_trajectory(MODEL, [1, 2])


def test_how_a_models_images_are_read(tmp_path) -> None:
    path = save_checkpoint(MODEL, tmp_path / "net.safetensors", mean=[0.1] * 3, std=[0.2] * 3, classes=["a", "b"])
    for spec in (str(path), f"resnet18@{path}"):
        reading = reading_of(MODEL, spec)
        assert (reading.mean, reading.std, reading.classes) == ((0.1,) * 3, (0.2,) * 3, ("a", "b"))
        assert reading.source == "its checkpoint"
    assert reading_of(MODEL, f"resnet18@{path}").size == 224
    assert reading_of(MODEL, "cifar-resnet8").source == ""
    assert reading_of(nn.Identity(), "torchvision:inception_v3").size == 299
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.4, 0.4, 0.4], "size": {"height": 96, "width": 96}}'
    )
    reading = reading_of(nn.Identity(), f"hf:{tmp_path}")
    assert (reading.mean, reading.std, reading.size) == ((0.5,) * 3, (0.4,) * 3, 96)


def test_timm_models_say_how_their_images_are_read() -> None:
    pytest.importorskip("timm")
    reading = reading_of(nn.DataParallel(load_model("timm:vit_tiny_patch16_224")), "mine:build")
    assert (reading.mean, reading.std, reading.size) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert reading.source == "timm's configuration of it"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_advice_to_run_the_code_of_a_file_is_not_handed_on(tmp_path: Path) -> None:
    file = tmp_path / "pickled.pt"
    file.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(ValueError, match=r"expected a state dict of tensors in pickled\.pt") as error:
        read_checkpoint(file)
    assert "set to `False`" not in str(error.value)
    assert "Unsupported operand" in str(error.value)
