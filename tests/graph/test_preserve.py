"""A user's model is left unchanged: the traps of in-place layers, hooks, checkpointing, exceptions."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

from resnet_paths.graph.model_fingerprint import fingerprint as model_fingerprint
from resnet_paths.graph.preserve import preserved
from resnet_paths.network import UnrollError, unroll


def fingerprint(model: nn.Module) -> list[object]:
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [dict(module._forward_hooks) for module in model.modules()],
        [sorted(map(str, module.__dict__)) for module in model.modules()],
        [parameter.grad for parameter in model.parameters()],
        torch.get_rng_state(),
    ]


def same(one: list[object], other: list[object]) -> bool:
    tensors = all(torch.equal(one[0][name], other[0][name]) for name in one[0])  # type: ignore[index]
    return tensors and one[1:5] == other[1:5] and torch.equal(one[5], other[5])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_discovery_leaves_no_mark(training: bool) -> None:
    model = resnet18().train(training)
    model.layer2.eval()
    model.layer3[0].register_forward_hook(lambda module, args, output: None)
    before = fingerprint(model)
    unroll(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert same(before, fingerprint(model))


def test_an_exception_in_the_middle_leaves_no_mark() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(3)
            self.seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.bn(x)
            torch.rand(1)
            raise RuntimeError("boom")

    model = Breaks()
    before = fingerprint(model)
    with pytest.raises(Exception, match="boom"):
        unroll(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert same(before, fingerprint(model))
    assert model.seen == 0


def test_hooks_that_change_values_are_part_of_the_network() -> None:
    model = resnet18().eval().double()
    model.layer1[1].register_forward_hook(lambda module, args, output: output * 0.5 + args[0])
    model.layer2.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.layer3[0].conv1.register_forward_hook(lambda module, args, output: output + 0.1)
    model.register_forward_hook(lambda module, args, output: output * 3)
    net, x = unroll(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert len(net) == 8
    assert torch.equal(net(x), model(x))
    assert torch.allclose(net(x, torch.ones(2, 8))[1], model(x), rtol=0, atol=1e-12)


def test_a_hook_that_collects_sees_tensors_only() -> None:
    model, seen = resnet18().eval(), []
    model.layer2.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net = unroll(model)
    assert seen == []
    net(torch.randn(1, 3, 32, 32))
    assert len(seen) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = resnet18()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.inner
            x = inner.maxpool(inner.relu(inner.bn1(inner.conv1(x))))
            for layer in (inner.layer1, inner.layer2, inner.layer3, inner.layer4):
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return inner.fc(inner.avgpool(x).flatten(1))

    model, x = Checkpointed().eval(), torch.randn(2, 3, 32, 32)
    net = unroll(model)
    assert len(net) == 8
    assert torch.equal(net(x), model(x))
    assert checkpoint is torch.utils.checkpoint.checkpoint


@pytest.mark.slow
def test_parameters_are_read_when_the_network_runs() -> None:
    model, x = resnet18().eval(), torch.randn(1, 3, 32, 32)
    net = unroll(model)
    other = copy.deepcopy(resnet18().state_dict())
    model.load_state_dict(other)
    assert torch.equal(net(x), model(x))
    model.double()
    assert torch.equal(net(x.double()), model(x.double()))


class Remembers(nn.Module):
    """Attention biases kept in plain containers from one call to the next, as LeViT and EfficientFormer do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.biases = nn.Linear(4, 4), nn.Parameter(torch.randn(3, 4))
        self.cache: dict[str, torch.Tensor] = {}
        self.log: dict[str, list[object]] = {"calls": []}

    def bias(self) -> torch.Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.biases[[0, 1]].sum(0)
        self.log["calls"].append(self.cache["bias"])
        return self.cache["bias"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a(x + self.bias())


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_what_a_model_keeps_in_plain_containers_is_put_back(example: torch.Tensor | None) -> None:
    model = Remembers()
    net = unroll(model, example)
    assert (model.cache, model.log) == ({}, {"calls": []})
    assert torch.equal(unroll(model, example)(torch.ones(3, 4)), net(torch.ones(3, 4)))
    assert torch.equal(model(torch.ones(3, 4)), net(torch.ones(3, 4)))
    kept = dict(model.cache)
    with torch.no_grad():
        unroll(model, example)
    assert model.cache == kept


def test_a_hook_registered_later_keeps_the_output_of_the_layer() -> None:
    """In-place sums and activations must not write over a value that a hook registered after unrolling keeps."""
    model = resnet18().eval()
    net, seen = unroll(model), {}
    for name in ("bn1", "bn2"):
        layer = model.layer1[0].get_submodule(name)
        layer.register_forward_hook(lambda module, args, output, name=name: seen.setdefault(name, []).append(output))
    model.layer1[0].relu.register_forward_pre_hook(lambda module, args: seen.setdefault("relu", []).append(args[0]))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        state = net.stem(x)
        net.step(state)
        expected = model.layer1[0].conv1(state.value)
        expected = model.layer1[0].bn1(expected)
    kept, plain = seen["bn1"]
    assert torch.equal(kept, plain)
    assert (seen["bn2"][0] < 0).any()
    with torch.no_grad():
        hidden = torch.relu(plain)
        assert torch.equal(seen["bn2"][0], model.layer1[0].bn2(model.layer1[0].conv2(hidden)))


@pytest.mark.slow
def test_generators_of_numpy_and_python_go_on_as_before() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = resnet18()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * (1 + 0 * random.random() + 0 * np.random.rand())

    before = random.getstate(), np.random.get_state()[1].tolist()
    unroll(Draws().eval(), torch.randn(2, 3, 32, 32))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_check_on_the_example_is_relative_and_takes_infinite_and_undefined_outputs(scale: float) -> None:
    class Masked(nn.Module):
        """Logits of which some are masked; off by `error` when it runs as a whole."""

        def __init__(self, error: float) -> None:
            super().__init__()
            self.first, self.second, self.error = nn.Linear(4, 4), nn.Linear(4, 4), error
            self.register_buffer("mask", torch.tensor([0.0, 0.0, float("-inf"), float("nan")]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.first(x)
            return self.second(x) * scale + self.mask

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x) + self.error * scale

    x = torch.randn(3, 4)
    assert len(unroll(Masked(0.0).eval(), x)) == 1
    with pytest.raises(UnrollError, match="relative difference"):
        unroll(Masked(0.1).eval(), x)


def test_the_fingerprint_follows_buffers_that_are_not_saved_and_every_bit() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(3, dtype=torch.bfloat16), persistent=False)
    model.register_buffer("none", torch.empty(0, 2))
    seen = [model_fingerprint(model)]
    model.mask[1] = 1
    seen.append(model_fingerprint(model))
    with torch.no_grad():
        model.bias[0] = torch.nextafter(model.bias[0], torch.tensor(9.0))
    seen.append(model_fingerprint(model))
    assert len(set(seen)) == 3
    assert model_fingerprint(copy.deepcopy(model)) == seen[-1]


def test_parameters_that_were_exchanged_for_others_are_put_back_themselves() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = [model[0].weight, model[1].running_mean, model[0]]
    with preserved(model):
        model[0].weight = nn.Parameter(torch.zeros(3, 3))
        model[1].running_mean = torch.ones(3)
        model[0], model[1] = model[1], model[0]
    after = [model[0].weight, model[1].running_mean, model[0]]
    assert all(one is other for one, other in zip(before, after, strict=True))
