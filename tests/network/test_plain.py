"""Plain networks with layers deleted, against literal copies with the layer replaced."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.lesion import block_values, random_deletions, single_deletions
from resnet_paths.models import cifar_resnet
from resnet_paths.network import Evaluations, NoBlocksError, PlainNetwork, plain_layers


def vgg() -> nn.Module:
    torch.manual_seed(0)
    narrow = [8, "M", 16, "M", 24, 24, "M", 32, 32, "M", 32, 32, "M"]  # vgg11 with fewer channels
    layers = torchvision.models.vgg.make_layers(narrow, batch_norm=True)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 20), nn.ReLU(True), nn.Linear(20, 20))
    model = nn.Sequential(OrderedDict(features=layers, classifier=classifier))
    return randomise_norms(model).eval().double()


def x(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def replaced(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy with these modules replaced by the identity."""
    damaged = copy.deepcopy(model)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(damaged.get_submodule(parent), child, nn.Identity())
    return damaged


def test_vgg_layer_by_layer() -> None:
    model = vgg()
    before = fingerprint(model)
    net = plain_layers(model, x(1))
    names = [block.name for block in net]
    assert names == ["features.11", "features.18", "features.22", "features.25", "classifier.3"]
    assert torch.equal(net(x()), model(x()))
    alone = net(x(), 1 - torch.eye(5))
    for index, name in enumerate(names):
        stage, _, place = name.partition(".")
        norm = [f"{stage}.{int(place) + 1}"] if stage == "features" else []
        assert torch.allclose(alone[index], replaced(model, [name, *norm])(x()), atol=1e-12)
    assert fingerprint(model) == before
    assert "features.0" in {refusal.where for refusal in net.refusals}
    assert "(3, 32, 32) to (8, 32, 32)" in str(net.refusals[0])


def test_whole_blocks_and_several_at_once() -> None:
    model = randomise_norms(cifar_resnet(20, residual=False, widths=(4, 6, 8), seed=0)).eval().double()
    blocks = ["layer1.0", "layer1.2", "layer2.1", "layer3.2"]
    net = plain_layers(model, x(1, 8), blocks)
    gates = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    for row, output in zip(gates, net(x(3, 8), gates), strict=True):
        deleted = [name for name, gate in zip(blocks, row, strict=True) if gate == 0]
        assert torch.allclose(output, replaced(model, deleted)(x(3, 8)), atol=1e-12)


def test_gates_between_zero_and_one_interpolate() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)).double()
    net = plain_layers(model, torch.randn(1, 3, dtype=torch.float64))
    value = torch.randn(4, 3, dtype=torch.float64)
    first = (0.75 * value + 0.25 * model[0](value)).relu()
    expected = 0.5 * first + 0.5 * model[2](first)
    assert torch.allclose(net(value, [0.25, 0.5]), expected)


def test_in_place_activations_do_not_write_over_shared_values() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3), nn.ReLU(inplace=True)).double()
    value = torch.randn(4, 3, dtype=torch.float64)
    before = value.clone()
    with torch.no_grad():
        outputs = plain_layers(model, value)(value, torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
        first, relu = model[0](before).relu(), before.relu()
        expected = [model[2](relu).relu(), first, relu, model[2](first).relu()]
    assert torch.equal(value, before)
    assert torch.allclose(outputs, torch.stack(expected))


def test_rows_share_their_prefixes() -> None:
    net, count = plain_layers(vgg(), x(1)), Evaluations()
    gates = ((torch.arange(32)[:, None] >> torch.arange(5)) & 1).double()
    dict(net.iterate(x(), gates, count=count))
    assert count.joins == sum(2 ** (depth + 1) for depth in range(5))
    assert count.branches == sum(2**depth for depth in range(5))


def test_lesion_studies_take_it() -> None:
    model = randomise_norms(cifar_resnet(14, residual=False, widths=(4, 6, 8), seed=0)).eval().double()
    data = ImageData(torch.rand(10, 3, 8, 8), torch.arange(10), tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")
    net = plain_layers(model, data.x[:1].double())

    def first(logits, labels, whole):
        return logits[:, 0]

    record = single_deletions(net, data, metric=first, batch_size=4)
    for index, block in enumerate(net):
        owner, _, convolution = block.name.rpartition(".")
        norm = f"{owner}.{convolution.replace('conv', 'bn')}"
        with torch.no_grad():
            expected = replaced(model, [block.name, norm])(data.x.double())[:, 0].numpy()
        assert abs(record.per_image[index + 1] - expected).max() < 1e-10
    assert random_deletions(net, data, [2], draws=3).values.shape == (1, 3)
    game = block_values(net, data, blocks=[0, 1, 2])
    assert game.values.sum() == pytest.approx(game.empty - game.full, abs=1e-9)


def test_travels_to_another_process() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    net = pickle.loads(pickle.dumps(plain_layers(model, torch.zeros(1, 3), ["1"])))
    assert isinstance(net, PlainNetwork)
    assert [block.name for block in net] == ["1"]


def test_wrong_use() -> None:
    with pytest.raises(NoBlocksError, match=r"changes the shape from \(3,\) to \(4,\)"):
        plain_layers(nn.Sequential(nn.Linear(3, 4)), torch.zeros(1, 3))
    with pytest.raises(NoBlocksError, match="no convolution or linear layer"):
        plain_layers(nn.Sequential(nn.ReLU()), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"'classifier\.9'"):
        plain_layers(vgg(), x(1), ["classifier.9"])
    model = cifar_resnet(8, residual=False, widths=(4, 4, 4), seed=0)
    with pytest.raises(ValueError, match="do not overlap"):
        plain_layers(model, x(1, 8).float(), ["layer1", "layer1.0"])
    net = plain_layers(nn.Sequential(nn.Linear(3, 3)).eval(), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"\(m, 1\)"):
        net(torch.zeros(1, 3), [1.0, 1.0])


def test_inputs_as_for_any_network() -> None:
    class Two(nn.Module):
        """Two inputs, of which one is used; and a value that is not."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, ignored: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            ignored.sum()
            return self.second(torch.relu(self.first(x)))

    model, x = Two().eval(), torch.randn(3, 4)
    net = plain_layers(model, {"x": x})
    assert torch.equal(net({"x": x}), model(x, x))
    with pytest.raises(ValueError, match="expected the inputs \\['x'\\]"):
        net({"y": x})
