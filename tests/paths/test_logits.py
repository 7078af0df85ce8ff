"""The logits by path length and by block: sums that must close, and literal enumerations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from helpers import randomise_norms
from references.dense_logits import frozen_logits_by_length
from references.small_families import SMALL
from references.tiny import tiny_batch, tiny_network
from resnet_paths import UnrolledNetwork, for_inference, gradient_by_length, unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.paths import block_contributions, curved_operations, logit_lens, logits_by_length


def _unrolled(name: str) -> tuple[UnrolledNetwork, torch.Tensor]:
    if name.startswith("cifar"):
        net = unroll(randomise_norms(cifar_resnet(int(name.removeprefix("cifar")), seed=0)).double().eval())
        return net, torch.randn(1, 3, 16, 16, dtype=torch.float64)
    if name.startswith("timm"):
        pytest.importorskip("timm")
    family = SMALL[name]
    return unroll(randomise_norms(family.make())), family.example()


@pytest.mark.parametrize("options", [{}, {"post": False}, {"project": False}, {"smooth": True}], ids=str)
def test_equals_the_enumeration_of_frozen_paths(options: dict[str, bool]) -> None:
    net = tiny_network(5, **options)
    x, _ = tiny_batch()
    split = logits_by_length(net, x, linearise="tangent")
    for example in range(len(x)):
        expected = frozen_logits_by_length(net, x[example : example + 1])
        torch.testing.assert_close(split.logits[:, example], expected, rtol=1e-9, atol=1e-12)


PIECEWISE = ["cifar20", "torchvision-resnet18", "torchvision-resnet50", "timm-resnetv2_50"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_networks_split_without_remainder(name: str) -> None:
    net, x = _unrolled(name)
    expected = net.model(x).detach()
    by_length = logits_by_length(net, x)
    for split in (by_length, block_contributions(net, x)):
        assert split.residual < 1e-10
        assert not split.curved
        parts = split.logits if hasattr(split, "logits") else split.contributions
        gap = (parts.sum(0) - expected).abs().max() / expected.abs().max()
        assert float(gap) < 1e-10
    assert not by_length.parts["remainder"].any()


CURVED = {
    "timm-seresnet18": "layer1.0: branch",
    "torchvision-convnext_tiny": "features.1.0: branch",
    "torchvision-vit_b_16": "encoder.layers.encoder_layer_0.self_attention: branch",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVED)
def test_curved_branches_leave_a_named_remainder(name: str) -> None:
    net, x = _unrolled(name)
    expected = net.model(x).detach()
    split = logits_by_length(net, x, linearise="tangent")
    assert split.residual < 1e-10
    assert float((split.logits.sum(0) - expected).abs().max() / expected.abs().max()) < 1e-10
    assert sum(piece.endswith(": branch") for piece in split.curved) == len(net)
    assert CURVED[name] in split.curved
    assert float(split.parts["remainder"].abs().max()) > 1e-3 * float(expected.abs().max())
    frozen = logits_by_length(net, x)
    assert frozen.residual < 1e-10
    assert not frozen.curved
    assert not frozen.parts["remainder"].any()
    assert block_contributions(net, x).residual < 1e-10


def test_curved_operations_are_named() -> None:
    assert curved_operations(tiny_network(2, smooth=True)) == {
        "2: branch": ("GELU",),
        "3: branch": ("GELU",),
    }


def test_without_biases_no_path_starts_at_one() -> None:
    net = tiny_network(6)
    for module in net.model.modules():
        for name in ("bias", "running_mean"):
            value = getattr(module, name, None)
            if isinstance(value, torch.Tensor):
                value.data.zero_()
    split = logits_by_length(net, tiny_batch()[0])
    scale = float(split.output.abs().max())
    assert float(split.parts["bias"].abs().max()) < 1e-13 * scale
    torch.testing.assert_close(split.parts["stem"].sum(0), split.output, rtol=1e-10, atol=1e-13)
    contributions = block_contributions(net, tiny_batch()[0])
    assert float(contributions.contributions[1].abs().max()) < 1e-13 * scale


def test_head_bias_is_a_path_of_length_zero() -> None:
    net = tiny_network(4)
    x, _ = tiny_batch()
    before = logits_by_length(net, x)
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    net.model[-1].bias.data += shift
    after = logits_by_length(net, x)
    torch.testing.assert_close(after.logits[0] - before.logits[0], shift.expand(3, 3))
    torch.testing.assert_close(after.logits[1:], before.logits[1:])


def test_block_contribution_is_the_blocks_output_through_shortcuts() -> None:
    net = tiny_network(5, post=False, project=False)
    x, target = tiny_batch()
    found = block_contributions(net, x, target)
    head: nn.Linear = net.model[-1]
    state = net.stem(x)
    torch.testing.assert_close(found.contributions[0], state.value @ head.weight.T)
    torch.testing.assert_close(found.contributions[1], head.bias.expand(3, 3))
    for place in range(5):
        expected = net.branch(state) @ head.weight.T
        torch.testing.assert_close(found.contributions[3 + place], expected)
        state = net.step(state)
    assert found.of_target is not None
    for example, label in enumerate(target.tolist()):
        assert torch.equal(found.of_target[:, example], found.contributions[:, example, label])
    assert found.sources == ("stem", "bias", "remainder", "2", "3", "4", "5", "6")


def test_logit_lens_ends_at_the_network_and_begins_at_the_stem() -> None:
    net = tiny_network(6)
    x, _ = tiny_batch()
    lens = logit_lens(net, x)
    torch.testing.assert_close(lens.logits[-1], net(x))
    state = net.stem(x)
    for _ in range(6):
        state = net.join(state, net.shortcut(state))
    torch.testing.assert_close(lens.logits[0], state.value)
    assert float(lens.accuracy(lens.logits[-1].argmax(-1))[-1]) == 1.0
    torch.testing.assert_close(lens.probabilities.sum(-1), torch.ones(7, 3, dtype=torch.float64))
    assert len(lens.to_pandas()) == 7 * 3 * 3
    assert lens.blocks[0] == "stem"


def test_nothing_is_left_changed() -> None:
    net = tiny_network(4)
    x, _ = tiny_batch()
    before = {name: value.clone() for name, value in net.model.state_dict().items()}
    outputs = [analysis(net, x) for analysis in (logits_by_length, block_contributions, logit_lens)]
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    assert all(parameter.grad is None for parameter in net.model.parameters())
    assert not any(value.requires_grad for value in (outputs[0].logits, outputs[1].contributions))


def test_tables() -> None:
    net = tiny_network(4)
    x, target = tiny_batch()
    frame = logits_by_length(net, x).to_pandas()
    assert len(frame) == 5 * 3 * 3
    assert (frame["logits"] - frame["stem"] - frame["bias"] - frame["remainder"]).abs().max() < 1e-12
    assert len(block_contributions(net, x, target).to_pandas()) == 7 * 3 * 3


@pytest.mark.parametrize("analysis", [logits_by_length, block_contributions, logit_lens])
def test_training_mode_is_refused(analysis) -> None:
    net = tiny_network(3)
    net.model.train()
    with pytest.raises(ValueError, match="eval mode"):
        analysis(net, tiny_batch()[0])


def test_targets_out_of_range_are_refused() -> None:
    net = tiny_network(3)
    with pytest.raises(ValueError, match="targets from 0 to 2"):
        block_contributions(net, tiny_batch()[0], torch.tensor([0, 1, 7]))
    with pytest.raises(ValueError, match="targets from 0 to 2"):
        logit_lens(net, tiny_batch()[0]).accuracy(torch.tensor([0, 1, 7]))


@pytest.mark.parametrize(
    "reparametrise",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        partial(prune.l1_unstructured, name="weight", amount=0.3),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_layer_that_stores_the_weight_of_each_run_is_left_unchanged(reparametrise: Callable[..., Any]) -> None:
    """Such layers compute an attribute anew in every forward pass: not one that a transformation wrapped may stay."""
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0).double().eval()
    layer = model.layer2[0].conv1
    reparametrise(layer)
    net, x = unroll(model), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    before = layer.weight
    assert logits_by_length(net, x).residual < 1e-10
    assert block_contributions(net, x).residual < 1e-10
    assert gradient_by_length(net, x, torch.tensor([1, 2])).residual < 1e-10
    assert layer.weight is before


def test_contributions_of_a_prepared_network_loop_over_nothing() -> None:
    """Weights of one input channel keep strides for which functorch has batching rules."""
    net = for_inference(unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block_contributions(net, torch.randn(2, 1, 8, 8), [0, 1])
