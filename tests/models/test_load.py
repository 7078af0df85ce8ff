import json
import sys

import cloudpickle
import pytest
import torch

from resnet_paths.models import cifar_resnet, load_model, save_checkpoint
from resnet_paths.network import unroll


@pytest.mark.slow
def test_models_by_name(tmp_path) -> None:
    assert len(unroll(load_model("resnet18"))) == 8
    assert len(unroll(load_model("torchvision:resnet18", num_classes=3))) == 8
    (tmp_path / "mine.py").write_text(
        "from torchvision.models import resnet18\ndef build():\n    return resnet18(num_classes=2)\n"
    )
    assert load_model(f"{tmp_path / 'mine.py'}:build").fc.out_features == 2  # type: ignore[union-attr]
    assert load_model("torchvision.models:resnet18").fc.out_features == 1000  # type: ignore[union-attr]


@pytest.mark.slow
def test_models_of_timm_and_hugging_face(tmp_path) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    assert not load_model("timm:resnet26d").training
    assert load_model("timm:resnet18.a1_in1k", num_classes=4).num_classes == 4
    model = load_model("hf:ResNetForImageClassification", num_classes=3, depths=[1, 1, 1, 1], hidden_sizes=[8] * 4)
    assert type(model).__name__ == "ResNetForImageClassification"
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 3)
    model.save_pretrained(tmp_path / "saved")
    again = load_model(f"hf:{tmp_path / 'saved'}")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="hf:FOLDER"):
        load_model("hf:ResNetForImageClassification", pretrained=True)
    code_of_a_folder_is_never_run(tmp_path)


def code_of_a_folder_is_never_run(tmp_path) -> None:
    """Where transformers has the class it is taken; where it has not the model is refused; nobody is asked."""
    folder, executed = tmp_path / "saved", tmp_path / "executed"
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(executed)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    for kind, options in (("resnet", {}), ("resnet", {"trust_remote_code": True}), ("own", {})):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        if kind == "resnet" and not options:
            assert load_model(f"hf:{folder}").__class__.__module__.startswith("transformers.")
            continue
        with pytest.raises(ValueError, match="expected a folder whose code need not be run, got") as caught:
            load_model(f"hf:{folder}", **options)
        assert len(str(caught.value).splitlines()) == 1
    assert not executed.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet19", "similar names: .*resnet18"),
        ("cifar-resnetX", "cifar-resnet56"),
        ("nowhere.safetensors", "does not exist"),
        ("timm:resnet5o", "similar names"),
        ("hf:ResNetForImageClasification", "similar names: ResNetForImageClassification"),
        ("no_such_module:f", "cannot be imported"),
        ("torchvision.models:resnet_18", "resnet18"),
        ("embeded", "similar names: embedded"),
        ("cifar_resnet56", "similar names: .*cifar-resnet56"),
        ("cifar-resnet21", "nearest are 20 and 26"),
        (":f", "cannot be imported"),
        ("missing.py:f", "does not exist"),
        ("math:pi", r"return a torch\.nn\.Module, got float"),
        ("os:getcwd", r"to return a torch\.nn\.Module, got str"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("embedded", {"num_classes": 5}, "no num_classes with 'embedded'"),
        ("embedded", {"bogus": 1}, "no bogus"),
        ("embedded", {"pretrained": True}, "no pretrained"),
        ("net.pt", {"num_classes": 5}, "its checkpoint decides"),
        ("cifar-resnet20", {"pretrained": True}, "NAME@FILE"),
        ("math:pi", {"pretrained": True}, "your function decides"),
        ("resnet18@a.pt", {"weights": "b.pt"}, "got both"),
        ("resnet18@a.pt", {"pretrained": True}, "got both"),
    ],
)
def test_nothing_that_was_asked_for_is_ignored(spec: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(spec, **options)


def test_a_module_is_not_a_name() -> None:
    with pytest.raises(TypeError, match="need not be loaded"):
        load_model(cifar_resnet(8))  # type: ignore[arg-type]


def test_weights_of_a_file_in_a_named_model(tmp_path) -> None:
    model, x = cifar_resnet(8, num_classes=3, seed=1).eval(), torch.randn(1, 3, 8, 8)
    (tmp_path / "a@b").mkdir()
    path = save_checkpoint(model, tmp_path / "a@b" / "net.safetensors")
    for again in (
        load_model(str(path)),
        load_model(f"cifar-resnet8@{path}", num_classes=3),
        load_model("cifar-resnet8", num_classes=3, weights=path),
        load_model("cifar-resnet8", weights=path),
    ):
        assert torch.equal(again(x), model(x))
        assert not again.training
    with pytest.raises(ValueError, match="does not fit CifarResNet"):
        load_model("cifar-resnet14", weights=path)


OWN = """
import torch

class Mine(torch.nn.Linear):
    pass

def build(size=2):
    return Mine(size, size)
"""


def test_a_file_hides_no_module_and_its_models_travel(tmp_path) -> None:
    before = sys.modules["random"]
    (tmp_path / "random.py").write_text(OWN)
    spec = f"{tmp_path / 'random.py'}:build"
    model = load_model(spec, size=3)
    assert sys.modules["random"] is before
    assert model.in_features == 3
    assert type(load_model(spec)) is type(model)
    name = type(model).__module__
    content = cloudpickle.dumps(model)
    del sys.modules[name]  # as in a process that never saw the file
    assert torch.equal(cloudpickle.loads(content).weight, model.weight)  # type: ignore[arg-type]


def test_a_file_that_fails_leaves_nothing(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('mine')")
    before = set(sys.modules)
    with pytest.raises(RuntimeError, match="mine"):
        load_model(f"{tmp_path / 'bad.py'}:build")
    assert not [name for name in set(sys.modules) - before if name.startswith("_resnet_paths_bad")]


@pytest.mark.slow
def test_weights_of_a_head_that_was_trained_anew_decide_the_number_of_classes(tmp_path) -> None:
    model = load_model("resnet18", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "head.pt")
    again = load_model(f"resnet18@{tmp_path / 'head.pt'}")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="does not fit"):
        load_model("resnet18", weights=tmp_path / "head.pt", num_classes=4)
    with pytest.raises(ValueError, match="does not fit"):
        load_model("resnet34", weights=tmp_path / "head.pt")
