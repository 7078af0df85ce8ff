"""Captum on gates: it must agree with the network's own lesions and with exact sums."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torchvision
from torch import nn

from helpers import randomise_norms
from references.tiny import tiny_batch, tiny_network
from resnet_paths import UnrolledNetwork, unroll
from resnet_paths.paths import GateForward, attribute_blocks, block_conductance


def _resnet() -> tuple[UnrolledNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = randomise_norms(torchvision.models.resnet18(num_classes=4)).double().eval()
    return unroll(model), torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 3])


@pytest.mark.slow
def test_ablation_is_exactly_the_lesion() -> None:
    for net, x, target in ((tiny_network(5), *tiny_batch()), _resnet()):
        found = attribute_blocks(net, x, target, method="ablation")
        lesions = net(x, 1 - torch.eye(len(net)))
        expected = (net(x) - lesions).detach()[:, torch.arange(len(x)), target]
        torch.testing.assert_close(found.values, expected, rtol=1e-12, atol=1e-12)
        assert found.residual is None


def test_gate_forward_takes_gates_of_each_example() -> None:
    net, x, _ = _resnet()
    gates = torch.rand(2, 8, dtype=torch.float64)
    rows = torch.cat([net(x[i : i + 1], gates[i]) for i in range(2)])
    torch.testing.assert_close(GateForward(net)(gates, x), rows, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="one row per example"):
        GateForward(net)(gates[:1], x)


def test_integrated_gradients_are_complete() -> None:
    net = tiny_network(5, smooth=True, post=False)
    x, target = tiny_batch()
    found = attribute_blocks(net, x, target, steps=60)
    assert found.residual is not None
    assert found.residual < 1e-8
    rough = attribute_blocks(net, x, target, steps=2)
    assert rough.residual is not None
    assert rough.residual > found.residual


@pytest.mark.slow
def test_shapley_sampling_converges_to_the_shapley_value() -> None:
    net = tiny_network(3)
    x, target = tiny_batch()
    gains = torch.zeros(3, len(x), dtype=torch.float64)
    pick = torch.arange(len(x)), target
    for order in permutations(range(3)):
        gates = torch.zeros(3)
        before = net(x, gates).detach()[pick]
        for block in order:
            gates[block] = 1
            after = net(x, gates).detach()[pick]
            gains[block] += (after - before) / 6
            before = after
    found = attribute_blocks(net, x, target, method="shapley", draws=400)
    assert found.residual is not None
    assert found.residual < 1e-5  # captum adds up in single precision
    assert float((found.values - gains).abs().max()) < 0.1 * float(gains.abs().max())


def test_shapley_does_not_change_the_random_state() -> None:
    net = tiny_network(3)
    before = torch.get_rng_state()
    one, again = (attribute_blocks(net, *tiny_batch(), method="shapley", draws=3, seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.values, again.values)


@pytest.mark.slow
def test_conductance_of_each_block_is_the_whole_change() -> None:
    net = tiny_network(4, smooth=True, post=False)
    x, target = tiny_batch()
    found = block_conductance(net, x, target, steps=80)
    change = (net(x) - net(torch.zeros_like(x))).detach()[torch.arange(len(x)), target]
    torch.testing.assert_close(found.values, change.expand(4, -1), rtol=0.05, atol=1e-3)
    assert len(found.to_pandas()) == 4 * len(x)


class InDict(nn.Module):
    """Returns the logits of another model under a name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.model(x)}


def test_conductance_of_a_model_that_returns_a_dict() -> None:
    net = tiny_network(2)
    x, target = tiny_batch()
    named = block_conductance(unroll(InDict(net.model).eval(), x), x, target, steps=3)
    assert torch.equal(named.values, block_conductance(net, x, target, steps=3).values)


@pytest.mark.slow
def test_conductance_needs_blocks_that_are_modules() -> None:
    net = unroll(torchvision.models.vit_b_16(image_size=32, num_classes=3).eval())
    with pytest.raises(ValueError, match="part of one"):
        block_conductance(net, torch.randn(1, 3, 32, 32), [0])


def test_wrong_input_is_refused() -> None:
    net, (x, target) = tiny_network(3), tiny_batch()
    with pytest.raises(ValueError, match="expected method to be"):
        attribute_blocks(net, x, target, method="magic")
    with pytest.raises(TypeError, match="expected x to be a Tensor of at least one example, got a dict"):
        attribute_blocks(net, {"x": x}, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets from 0 to 2"):
        attribute_blocks(net, x, target + 1)
    net.model.train()
    with pytest.raises(ValueError, match="eval mode"):
        attribute_blocks(net, x, target)
