import pytest
import torch
from torch import fx

from helpers import randomise_norms
from resnet_paths.data import load_data
from resnet_paths.models import ZeroPadShortcut, cifar_resnet, load_model
from resnet_paths.models.load import EMBEDDED
from resnet_paths.network import NoBlocksError, unroll
from resnet_paths.training import error_rate


@pytest.mark.slow
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
    assert [block.name for block in net] == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    kinds = [block.shortcut for block in net]
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
    with pytest.raises(NoBlocksError):
        unroll(cifar_resnet(20, residual=False))


def test_preactivation_projection_leaves_after_the_first_activation() -> None:
    model = cifar_resnet(8, preactivation=True, shortcut="B", widths=(4, 8, 8), seed=0).eval()
    block = model.layer2[0]  # type: ignore[index]
    x = torch.randn(1, 4, 8, 8)
    entry = torch.relu(block.bn1(x))
    expected = block.shortcut(entry) + block.conv2(torch.relu(block.bn2(block.conv1(entry))))
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(("shortcut", "from_input"), [("A", 3), ("C", 0)])
def test_preactivation_shortcuts_that_leave_from_the_input(shortcut: str, from_input: int) -> None:
    """He et al. 2016: the first block and those that change the shape or project share the first activation."""
    model = cifar_resnet(14, preactivation=True, shortcut=shortcut, widths=(2, 4, 8))  # type: ignore[arg-type]
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]  # type: ignore[union-attr]
    assert [block.shares_preactivation for block in blocks].count(False) == from_input
    assert blocks[0].shares_preactivation
    x = torch.randn(1, 2, 6, 6)
    block = blocks[1].eval()
    entry = x if shortcut == "A" else torch.relu(block.bn1(x))
    branch = block.conv2(torch.relu(block.bn2(block.conv1(torch.relu(block.bn1(x))))))
    assert torch.equal(block(x), branch + block.shortcut(entry))


def test_twins_agree_after_manual_seed_whatever_the_shortcut_and_the_device() -> None:
    def state(**options) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        return cifar_resnet(20, widths=(4, 6, 8), **options).state_dict()

    plain = state(residual=False)
    for shortcut in ("A", "B", "C"):
        residual = state(shortcut=shortcut)
        assert all(torch.equal(value, residual[name]) for name, value in plain.items())
    torch.manual_seed(6)
    assert not torch.equal(plain["conv1.weight"], cifar_resnet(20, widths=(4, 6, 8)).conv1.weight)
    with torch.device("meta"):
        assert cifar_resnet(20, seed=0).conv1.weight.is_meta


def test_a_plain_network_is_its_layers_in_a_row() -> None:
    model = cifar_resnet(8, residual=False, widths=(2, 4, 4), shortcut="C").eval()
    x = torch.randn(2, 3, 9, 9)
    out = torch.relu(model.bn1(model.conv1(x)))
    for stage in (model.layer1, model.layer2, model.layer3):
        block = stage[0]  # type: ignore[index]
        out = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(out))))))
    torch.testing.assert_close(model(x), model.linear(out.mean((2, 3))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (8, 8), (32, 32), (33, 47)])
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_any_input_size(size: tuple[int, int], stem: str) -> None:
    model = randomise_norms(cifar_resnet(8, stem=stem, in_channels=2, num_classes=7, seed=0)).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 2, *size)
    assert model(x).shape == (2, 7)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))
    assert len(unroll(model)) == 3


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_initialised_branches_leave_the_shortcuts(preactivation: bool, block: str) -> None:
    options = {"block": block, "preactivation": preactivation, "widths": (4, 6, 8), "seed": 0}
    model = cifar_resnet(20, zero_init_residual=True, **options).eval().double()  # type: ignore[arg-type]
    usual = cifar_resnet(20, **options).eval().double()  # type: ignore[arg-type]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    nothing = torch.zeros(len(unroll(usual)), dtype=torch.float64)
    assert torch.allclose(model(x), unroll(usual)(x, nothing), rtol=0, atol=1e-12)
    assert not torch.allclose(model(x), usual(x))


def test_keys_of_the_reference_state_dicts() -> None:
    names = {name.rsplit(".", 1)[0] for name in cifar_resnet(8).state_dict()}
    blocks = {f"layer{stage}.0.{kind}{layer}" for stage in (1, 2, 3) for kind in ("conv", "bn") for layer in (1, 2)}
    assert names == {"conv1", "bn1", "linear", *blocks}


def test_option_a_pads_both_sides_with_zeros() -> None:
    out = ZeroPadShortcut(4, 8, 2)(torch.ones(1, 4, 5, 5))
    assert out.shape == (1, 8, 3, 3)
    assert out.sum(dim=(2, 3)).tolist() == [[0, 0, 9, 9, 9, 9, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, "nearest are 20 and 26"),
        ({"depth": 4}, "6 k \\+ 2"),
        ({"depth": 20, "shortcut": "E"}, "'A', 'B', 'C' or 'D'"),
        ({"depth": 20, "block": "wide"}, "'basic' or 'bottleneck'"),
        ({"depth": 20, "stem": "5x5"}, "'3x3', '7x7' or 'deep'"),
        ({"depth": 26, "block": "bottleneck"}, "9 k \\+ 2 for bottleneck blocks in 3 stages, got 26"),
        ({"depth": 20, "num_classes": 0}, "num_classes to be an integer of at least 1"),
        ({"depth": 20, "widths": ()}, "at least one stage"),
        ({"depth": 20, "widths": (4, 2, 0)}, "widths to be a tuple of integers"),
        ({"depth": 20, "widths": (8, 4, 4)}, "widths that do not decrease"),
        ({"depth": 20, "residual": False, "zero_init_residual": True}, "residual=True"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar_resnet(**arguments)


@pytest.mark.reference_data
@pytest.mark.parametrize(("depth", "blocks"), [(20, 9), (56, 27)])
def test_reference_networks_load_and_classify(reference_dir, depth: int, blocks: int) -> None:
    model = load_model(str(reference_dir / f"resnet{depth}_cifar10_option_a.safetensors"))
    data = load_data(str(reference_dir / "cifar10_sample.npz"))
    assert len(data) == 500
    assert len(unroll(model)) == blocks
    assert 0.05 <= error_rate(model, data) <= (0.08 if depth == 56 else 0.11)


def test_embedded_network_is_good() -> None:
    model = load_model("embedded")
    assert len(unroll(model)) == 27
    assert EMBEDDED.stat().st_size < 2_000_000
    assert error_rate(model, load_data("digits")) <= 0.03


@pytest.mark.slow
def test_embedded_network_survives_the_loss_of_most_single_blocks() -> None:
    net, data = unroll(load_model("embedded")), load_data("digits")
    errors = []
    for block in range(27):
        gates = torch.ones(27)
        gates[block] = 0
        with torch.inference_mode():
            errors.append(float((net(data.x, gates).argmax(1) != data.labels).float().mean()))
    assert sum(error <= 0.05 for error in errors) >= 20
    assert max(errors) > 0.05


@pytest.mark.parametrize("extra", [2, 3])
def test_zero_channels_stand_on_both_sides_the_odd_one_behind(extra: int) -> None:
    x = torch.rand(1, 4, 6, 6) + 1
    out = ZeroPadShortcut(4, 4 + extra, 2)(x)
    assert torch.equal(out[:, 1:5], x[:, :, ::2, ::2])
    assert out[:, :1].abs().sum() + out[:, 5:].abs().sum() == 0
    assert out.shape[1] - 5 == extra - 1
