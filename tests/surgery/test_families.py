"""Transformers dropped in eval mode and in train mode; that a dropped model of any family is right: tests/network."""

from dataclasses import replace

import pytest
import torch

from families import ALL, Family
from resnet_paths.surgery import drop_blocks

pytestmark = pytest.mark.slow


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
