"""The later members of the family: ResNeXt, ResNet-D, stochastic depth, ensembles."""

import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.models import Ensemble, StochasticDepth, cifar_resnet, linear_decay, load_model
from resnet_paths.network import for_inference, unroll

GROUPED = {"depth": 20, "block": "bottleneck", "groups": 2, "group_width": 4}
MEMBERS = [
    {"shortcut": "D"},
    {"shortcut": "D", "preactivation": True},
    {"stem": "deep"},
    {"stem": "deep", "shortcut": "D", "preactivation": True},
    {"keep_last": 0.5},
    {"keep_last": 0.5, "preactivation": True, "shortcut": "B"},
    GROUPED,
    {**GROUPED, "shortcut": "B", "group_width": None},
    {**GROUPED, "shortcut": "D", "stem": "deep", "keep_last": 0.5, "preactivation": True},
]


def member(options: dict, **more) -> nn.Module:
    chosen = {"depth": 14, "widths": (4, 6, 8), "seed": 0, **options, **more}
    if chosen.get("group_width"):
        chosen["widths"] = (4, 8, 16)
    return randomise_norms(cifar_resnet(**chosen)).eval().double()


@pytest.mark.parametrize("options", MEMBERS, ids=str)
def test_members_unroll_exactly(options: dict) -> None:
    model, x = member(options), torch.randn(2, 3, 13, 17, dtype=torch.float64)
    net = unroll(model)
    assert [block.name for block in net] == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    assert torch.allclose(net(x), model(x), rtol=0, atol=1e-12)
    assert torch.allclose(for_inference(net)(x), model(x), rtol=0, atol=1e-10)
    whole = model(x)
    for block in range(len(net)):
        gates = torch.ones(len(net), dtype=torch.float64)
        gates[block] = 0
        assert not torch.allclose(net(x, gates), whole)


@pytest.mark.parametrize("options", MEMBERS, ids=str)
def test_the_plain_twin_shares_the_initial_values(options: dict) -> None:
    chosen = {"depth": 14, "widths": (4, 8, 16), **options}
    residual = cifar_resnet(**chosen, seed=3).state_dict()
    plain = cifar_resnet(**{**chosen, "keep_last": 1.0}, residual=False, seed=3).state_dict()
    assert set(plain) == {name for name in residual if ".shortcut." not in name}
    assert all(torch.equal(value, residual[name]) for name, value in plain.items())


@pytest.mark.parametrize("options", [o for o in MEMBERS if "keep_last" not in o], ids=str)
def test_the_member_is_inferred_from_its_keys(tmp_path, options: dict) -> None:
    model = member(options, num_classes=3).float()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_model(str(tmp_path / "net.pth"))(x), model(x))


@pytest.mark.parametrize(
    ("groups", "group_width", "millions"),
    [(8, 64, 34.4), (16, 64, 68.1)],
)
def test_parameters_of_resnext_29(groups: int, group_width: int, millions: float) -> None:
    """Xie et al. 2017, table 7."""
    with torch.device("meta"):
        model = cifar_resnet(
            29,
            block="bottleneck",
            widths=(64, 128, 256),
            shortcut="B",
            groups=groups,
            group_width=group_width,
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("size", [8, 9])
def test_shortcut_d_is_the_mean_of_four_pixels_then_a_projection(size: int) -> None:
    """He et al. 2019, figure 2 c; at an odd border the mean is over the pixels that are there."""
    block = member({"depth": 8, "shortcut": "D"}).layer2[0]  # type: ignore[index, union-attr]
    x = torch.randn(2, 4, size, size, dtype=torch.float64)
    places = range(0, size, 2)
    means = torch.stack(
        [torch.stack([x[:, :, r : r + 2, c : c + 2].mean((2, 3)) for c in places], 2) for r in places], 2
    )
    _, projection, norm = block.shortcut
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    projected = torch.einsum("oi,bihw->bohw", projection.weight[:, :, 0, 0], means)
    assert torch.allclose(block(x), torch.relu(branch + norm(projected)), rtol=0, atol=1e-12)


def test_the_deep_stem_is_three_convolutions() -> None:
    model = cifar_resnet(8, stem="deep", widths=(8, 8, 8))
    kinds = [type(part).__name__ for part in model.conv1]  # type: ignore[union-attr]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert model.pool(torch.relu(model.bn1(model.conv1(torch.randn(1, 3, 64, 64))))).shape == (1, 8, 16, 16)


def test_groups_see_their_own_channels_only() -> None:
    model = member(GROUPED)
    conv = model.layer1[0].conv2  # type: ignore[index, union-attr]
    assert conv.weight.shape == (8, 4, 3, 3)
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, :4] += 1
    moved = (conv(changed) - conv(x)).abs().amax((0, 2, 3))
    assert (moved[:4] > 0).all()
    assert (moved[4:] == 0).all()


# stochastic depth


def test_linear_decay() -> None:
    """Huang et al. 2016, section 3: the last survives with p_L, the input always."""
    keeps = linear_decay(54, 0.5)
    assert keeps[-1] == 0.5
    assert keeps[26] == 0.75
    assert sum(keeps) == pytest.approx(54 * 3 / 4 - 0.25, abs=1e-12)  # (3 L - 1) / 4, section 3
    assert linear_decay(3, 1.0) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("preactivation", [False, True])
def test_in_eval_mode_each_branch_counts_by_its_probability(preactivation: bool) -> None:
    """Huang et al. 2016, section 3: the network without stochastic depth, at the expected gates."""
    options = {"preactivation": preactivation}
    model, usual = member(options, keep_last=0.4), member(options)
    model.load_state_dict(usual.state_dict())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gates = torch.tensor(linear_decay(6, 0.4), dtype=torch.float64)
    assert torch.allclose(model(x), unroll(usual)(x, gates), rtol=0, atol=1e-12)
    assert torch.allclose(unroll(model)(x, 0.5 * torch.ones(6)), unroll(usual)(x, 0.5 * gates), rtol=0, atol=1e-12)


def test_in_training_each_branch_is_there_or_not() -> None:
    model, usual = member({}, keep_last=0.3), member({})
    model.load_state_dict(usual.state_dict())
    for norm in [*model.modules(), *usual.modules()]:
        norm.training = isinstance(norm, StochasticDepth)
    x, net = torch.randn(2, 3, 8, 8, dtype=torch.float64), unroll(usual)
    keeps, seen = linear_decay(6, 0.3), set()
    for seed in range(20):
        torch.manual_seed(seed)
        drawn = tuple(float(torch.rand(()) < keep) for keep in keeps)
        torch.manual_seed(seed)
        assert torch.allclose(model(x), net(x, torch.tensor(drawn, dtype=torch.float64)), rtol=0, atol=1e-12)
        seen.add(drawn)
    assert len(seen) > 10


def test_branches_survive_as_often_as_they_should() -> None:
    layer, one = StochasticDepth(0.3).train(), torch.ones(1)
    torch.manual_seed(0)
    share = float(torch.cat([layer(one) for _ in range(4000)]).mean())
    assert share == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 4000) ** 0.5)


def test_an_unrolled_network_draws_as_the_model_does() -> None:
    model, x = member({}, keep_last=0.5).train(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    net = unroll(model)
    outputs = []
    for seed in range(4):
        torch.manual_seed(seed)
        outputs.append(model(x))
        torch.manual_seed(seed)
        assert torch.equal(net(x), outputs[-1])
    assert not all(torch.equal(outputs[0], other) for other in outputs[1:])


# ensembles


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    members = [member({"depth": depth}) for depth in (8, 14, 20)]
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = sum(model(x).softmax(1) for model in members) / 3
    several = Ensemble(members)
    assert torch.allclose(several(x).exp(), expected, rtol=0, atol=1e-12)
    assert torch.allclose(Ensemble(members[:1])(x).softmax(1), members[0](x).softmax(1), rtol=0, atol=1e-12)
    assert [len(unroll(part)) for part in several.members] == [3, 6, 9]


def test_an_ensemble_survives_probabilities_of_zero() -> None:
    class Sure(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, -1e6]]).expand(len(x), 2)

    assert torch.isfinite(Ensemble([Sure(), Sure()])(torch.zeros(3, 1))).all()
    with pytest.raises(ValueError, match="at least one network"):
        Ensemble([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, "only with block='bottleneck', got groups=2"),
        ({"group_width": 4}, "only with block='bottleneck'"),
        ({"depth": 20, "block": "bottleneck", "groups": 3}, "divisible by 3 groups, got 16 in stage 1"),
        ({"depth": 20, "block": "bottleneck", "groups": 0}, "at least 1 for groups"),
        ({"keep_last": 0}, "above 0 and at most 1, got 0"),
        ({"keep_last": 1.5}, "above 0 and at most 1"),
        ({"keep_last": 0.5, "residual": False}, "nothing bypasses a branch"),
        ({"stem": "3x3x3"}, "'3x3', '7x7' or 'deep'"),
    ],
)
def test_wrong_members(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar_resnet(**{"depth": 14, **options})


def test_wrong_decays() -> None:
    with pytest.raises(ValueError, match="from 1"):
        linear_decay(0, 0.5)
