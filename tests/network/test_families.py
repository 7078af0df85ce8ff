"""Every family that the docs name: the right number of blocks, and the model's own output at gates of one.

In many of them a dropped and a lesioned model also compute what the gated network computes.
"""

import pytest
import torch
from torch import nn

from damage import gated, output, size
from families import ALL, WITHOUT_BLOCKS, Family
from helpers import randomise_norms
from resnet_paths.network import NoBlocksError, UnrolledNetwork, unroll
from resnet_paths.surgery import drop_blocks, lesioned

pytestmark = [pytest.mark.slow, pytest.mark.integration]

_DROPPED = [
    "resnet18", "regnet_y_400mf", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "mnasnet1_0", "vit_b_16", "swin_t", "swin_v2_t", "resnet50", "resnetv2_50d",
    "seresnet18", "resnest14d", "res2net50_26w_4s", "skresnet18", "nf_resnet26", "convnextv2_atto",
    "deit_tiny_patch16_224", "mixer_s32_224", "poolformer_s12", "legacy_xception", "swin_tiny_patch4_window7_224",
    "ResNetForImageClassification", "ConvNextForImageClassification", "ViTForImageClassification",
]  # fmt: skip
_CASES = [pytest.param(family, id=f"{family.library}-{family.name}") for family in ALL]


@pytest.mark.filterwarnings("ignore:.*could not be traced")
@pytest.mark.parametrize("family", _CASES)
def test_network_is_the_model(family: Family) -> None:
    if family.library != "torchvision":
        pytest.importorskip({"timm": "timm", "hf": "transformers"}[family.library])
    model = randomise_norms(family.make())
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:  # layer scales begin at 1e-6, which would hide every branch
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = unroll(model, family.example(2) if family.needs_example else None)
    assert len(net) == family.blocks

    x = family.example(1)
    with torch.no_grad():
        expected = model(x)
        expected = getattr(expected, "logits", expected)
        middle = len(net) // 2
        gates = torch.ones(2, len(net))
        gates[0, middle] = 0
        deleted, whole = net(x, gates)
        assert (whole - expected).abs().max() <= 1e-12
        state = net.prefix(x, middle)
        by_hand = net.run(net.join(state, net.shortcut(state)))
        assert (deleted - by_hand.value).abs().max() <= 1e-12
        assert net.branch(state).abs().max() > 0
    if family.name in _DROPPED:
        _check_dropped(model, net, x, before)


def _check_dropped(model: nn.Module, net: UnrolledNetwork, x: torch.Tensor, before: dict[str, torch.Tensor]) -> None:
    """Dropped and lesioned models are right, and the model itself has the state of `before`."""
    dropped = sorted({0, len(net) // 2, len(net) - 1})
    smaller = drop_blocks(net, dropped)

    with torch.no_grad():
        expected = gated(net, x, dropped)
        assert (output(smaller, x) - expected).abs().max() <= 1e-12
        with lesioned(net, dropped):
            assert (output(model, x) - expected).abs().max() <= 1e-12
        assert (output(model, x) - expected).abs().max() > 1e-6

    assert type(smaller) is type(model)
    assert size(model) - size(smaller) == sum(net[index].branch_parameters for index in dropped)
    kept = smaller.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name in before.keys() - kept.keys():
        assert any(name.startswith(net[index].owner) for index in dropped)


@pytest.mark.parametrize("family", WITHOUT_BLOCKS, ids=lambda family: family.name)
def test_models_without_blocks_are_refused_with_reasons(family: Family) -> None:
    with pytest.raises(NoBlocksError, match="What to do"):
        unroll(family.make())
