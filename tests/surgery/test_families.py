"""In every family a dropped model computes what the gated network computes."""

from dataclasses import replace

import pytest
import torch

from damage import gated, output, size
from families import ALL, Family
from helpers import randomise_norms
from resnet_paths.network import unroll
from resnet_paths.surgery import drop_blocks, lesioned

pytestmark = pytest.mark.slow

_SAMPLE = [
    "resnet18", "regnet_y_400mf", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "mnasnet1_0", "vit_b_16", "swin_t", "swin_v2_t", "resnet50", "resnetv2_50d",
    "seresnet18", "resnest14d", "res2net50_26w_4s", "skresnet18", "nf_resnet26", "convnextv2_atto",
    "deit_tiny_patch16_224", "mixer_s32_224", "poolformer_s12", "legacy_xception", "swin_tiny_patch4_window7_224",
    "ResNetForImageClassification", "ConvNextForImageClassification", "ViTForImageClassification",
]  # fmt: skip


_FAMILIES = [family for family in ALL if family.name in _SAMPLE]


@pytest.mark.parametrize("family", _FAMILIES, ids=lambda family: family.name)
def test_dropped_and_lesioned_models_equal_the_gated_network(family: Family) -> None:
    if family.library != "torchvision":
        pytest.importorskip({"timm": "timm", "hf": "transformers"}[family.library])
    model = randomise_norms(family.make())
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:  # layer scales begin at 1e-6, which would hide every branch
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = unroll(model, family.example(2) if family.needs_example else None)
    dropped = sorted({0, len(net) // 2, len(net) - 1})
    smaller, x = drop_blocks(net, dropped), family.example(1)

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


def _transformers() -> list[Family]:
    options = {"vit_b_16": {"dropout": 0.2}, "deit_tiny_patch16_224": {"drop_path_rate": 0.3, "depth": 3}}
    return [
        replace(family, options=(*family.options, *options[family.name].items()))
        for family in ALL
        if family.name in options
    ]


@pytest.mark.parametrize("family", _transformers(), ids=lambda family: family.name)
def test_a_model_dropped_in_eval_mode_trains_like_one_dropped_in_train_mode(family: Family) -> None:
    if family.library == "timm":
        pytest.importorskip("timm")
    model, x = family.make(), family.example(3)
    one = drop_blocks(model, [1, 2]).train()
    other = drop_blocks(model.train(), [1, 2])

    torch.manual_seed(0)
    first = one(x)
    torch.manual_seed(0)
    assert torch.equal(first, other(x))
    assert not torch.equal(first, other(x))
