import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.data import load_data
from resnet_paths.models import ZeroPadShortcut, cifar_resnet, load_checkpoint, load_model, save_checkpoint
from resnet_paths.training import error_rate
from resnet_paths.unroll import NoUnitsError, unroll


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_parameters_are_those_of_the_paper(depth: int, millions: float) -> None:
    """He et al. 2015, table 6."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in cifar_resnet(depth).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize(("block", "depth"), [("basic", 14), ("bottleneck", 20)])
def test_every_member_of_the_family_unrolls(preactivation: bool, shortcut: str, block: str, depth: int) -> None:
    model = cifar_resnet(
        depth,
        preactivation=preactivation,
        shortcut=shortcut,
        block=block,
        widths=(4, 6, 8),
        seed=0,  # type: ignore[arg-type]
    )
    randomise_norms(model).eval().double()
    x = torch.randn(2, 3, 13, 13, dtype=torch.float64)
    net = unroll(model)
    assert torch.allclose(net(x), model(x), rtol=0, atol=1e-12)
    assert [unit.name for unit in net] == [f"layer{stage}.{unit}" for stage in (1, 2, 3) for unit in (0, 1)]
    kinds = [unit.shortcut for unit in net]
    down = {"A": "parameter-free"}.get(shortcut, "projection")
    first = down if block == "bottleneck" else ("projection" if shortcut == "C" else "identity")
    same = "projection" if shortcut == "C" else "identity"
    assert kinds == [first, same, down, same, down, same]


def test_plain_twin_has_the_same_names_and_initial_values() -> None:
    for shortcut in ("A", "B"):
        residual = cifar_resnet(20, seed=3, shortcut=shortcut).state_dict()  # type: ignore[arg-type]
        plain = cifar_resnet(20, seed=3, residual=False).state_dict()
        assert set(plain) == {name for name in residual if ".shortcut." not in name}
        assert all(torch.equal(value, residual[name]) for name, value in plain.items())
    with pytest.raises(NoUnitsError):
        unroll(cifar_resnet(20, residual=False))


def test_preactivation_projection_leaves_after_the_first_activation() -> None:
    model = cifar_resnet(8, preactivation=True, shortcut="B", widths=(4, 8, 8), seed=0).eval()
    unit = model.layer2[0]  # type: ignore[index]
    x = torch.randn(1, 4, 8, 8)
    entry = torch.relu(unit.bn1(x))
    expected = unit.shortcut(entry) + unit.conv2(torch.relu(unit.bn2(unit.conv1(entry))))
    assert torch.equal(unit(x), expected)


def test_option_a_pads_both_sides_with_zeros() -> None:
    out = ZeroPadShortcut(4, 8, 2)(torch.ones(1, 4, 5, 5))
    assert out.shape == (1, 8, 3, 3)
    assert out.sum(dim=(2, 3)).tolist() == [[0, 0, 9, 9, 9, 9, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, "nearest are 20 and 26"),
        ({"depth": 4}, "6 k \\+ 2"),
        ({"depth": 20, "shortcut": "D"}, "'A', 'B' or 'C'"),
        ({"depth": 20, "block": "wide"}, "'basic' or 'bottleneck'"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar_resnet(**arguments)


@pytest.mark.reference_data
@pytest.mark.parametrize(("depth", "units"), [(20, 9), (56, 27)])
def test_reference_networks_load_and_classify(reference_dir, depth: int, units: int) -> None:
    model = load_model(str(reference_dir / f"resnet{depth}_cifar10_option_a.safetensors"))
    data = load_data(str(reference_dir / "cifar10_sample.npz"))
    assert len(data) == 500
    assert len(unroll(model)) == units
    assert 0.05 <= error_rate(model, data) <= (0.08 if depth == 56 else 0.11)


def test_embedded_network_is_good() -> None:
    model = load_model("embedded")
    assert len(unroll(model)) == 27
    assert error_rate(model, load_data("digits")) <= 0.03


@pytest.mark.parametrize("options", [{}, {"shortcut": "B", "preactivation": True}, {"block": "bottleneck"}])
def test_checkpoints_round_trip(tmp_path, options: dict) -> None:
    model = cifar_resnet(20, widths=(4, 6, 8), **options).eval()
    path = save_checkpoint(model, tmp_path / "deep" / "net.safetensors", note="x")
    again = load_checkpoint(path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), model(x))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["net.safetensors"]


def test_state_dicts_of_torch(tmp_path) -> None:
    model = cifar_resnet(20, widths=(4, 6, 8), shortcut="B").eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "net.pt")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_model(str(tmp_path / "net.pt"))(x), model(x))
    torch.save(cifar_resnet(20, seed=1).state_dict(), tmp_path / "plain.pth")
    named, x = load_model(f"cifar-resnet20@{tmp_path / 'plain.pth'}"), torch.randn(1, 3, 8, 8)
    assert torch.equal(named(x), cifar_resnet(20, seed=1).eval()(x))


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="weights_only=True"):
        load_model(str(tmp_path / "whole.pt"))


def test_models_by_name(tmp_path, monkeypatch) -> None:
    assert len(unroll(load_model("resnet18"))) == 8
    assert len(unroll(load_model("torchvision:resnet18", num_classes=3))) == 8
    (tmp_path / "mine.py").write_text(
        "from torchvision.models import resnet18\ndef build():\n    return resnet18(num_classes=2)\n"
    )
    assert load_model(f"{tmp_path / 'mine.py'}:build").fc.out_features == 2  # type: ignore[union-attr]
    assert load_model("torchvision.models:resnet18").fc.out_features == 1000  # type: ignore[union-attr]


def test_models_of_timm_and_hugging_face() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    assert not load_model("timm:resnet26d").training
    assert type(load_model("hf:ResNetForImageClassification", depths=[1, 1, 1, 1])).__name__.startswith("ResNet")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet19", "near names: .*resnet18"),
        ("cifar-resnetX", "cifar-resnet56"),
        ("nowhere.safetensors", "does not exist"),
        ("timm:resnet5o", "near names"),
        ("hf:ResNetForImageClasification", "near names: ResNetForImageClassification"),
        ("no_such_module:f", "cannot be imported"),
        ("torchvision.models:resnet_18", "resnet18"),
        ("os:getcwd", r"to return a torch\.nn\.Module, got str"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(spec)


def test_a_damaged_checkpoint(tmp_path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(str(tmp_path / "bad.safetensors"))
