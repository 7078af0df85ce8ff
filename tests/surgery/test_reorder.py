"""A reordered model runs the same blocks in another order: compared with running them one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from damage import size, tiny
from resnet_paths.network import NotDroppableError, unroll
from resnet_paths.surgery import reorder_blocks


def images(side: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64)


def replay(model: nn.Module, x: torch.Tensor, order: list[int], gates: torch.Tensor) -> torch.Tensor:
    """The literal forward of a CIFAR ResNet with its blocks in another order, at gates by position."""
    blocks = [*model.layer1, *model.layer2, *model.layer3]
    y = F.relu(model.bn1(model.conv1(x)))
    for gate, source in zip(gates, order, strict=True):
        block = blocks[source]
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y)))))
        y = F.relu(block.shortcut(y) + gate * branch)
    return model.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))


def test_runs_its_blocks_in_the_new_order_also_at_gates() -> None:
    model, x = tiny(), images()
    order = [2, 0, 1, 3, 5, 4, 6, 7, 8]
    moved = reorder_blocks(model, order, example_input=x)
    gates = torch.rand(9, dtype=torch.float64)
    assert torch.allclose(moved(x), replay(model, x, order, torch.ones(9)), atol=1e-12)
    assert torch.allclose(unroll(moved)(x, gates), replay(model, x, order, gates), atol=1e-12)
    assert (moved(x) - model(x)).abs().max() > 1e-6
    assert size(moved) == size(model)
    assert type(moved) is type(model)
    assert moved.state_dict().keys() == model.state_dict().keys()


def test_swaps_are_made_one_after_the_other() -> None:
    model, x = tiny(), images()
    moved = reorder_blocks(model, swaps=[("layer1.0", 1), (1, 2), (-1, -2)], example_input=x)
    order = [1, 2, 0, 3, 4, 5, 6, 8, 7]
    assert torch.equal(moved(x), reorder_blocks(model, order, example_input=x)(x))


def test_the_inverse_order_gives_the_model_back() -> None:
    model, x = tiny(), images()
    there = reorder_blocks(model, [1, 2, 0, *range(3, 9)], example_input=x)
    back = reorder_blocks(there, [2, 0, 1, *range(3, 9)], example_input=x)
    assert torch.equal(back(x), model(x))
    assert torch.equal(reorder_blocks(model, range(9))(x), model(x))


def transformer() -> nn.Module:
    model = VisionTransformer(32, 16, 3, 2, 16, 32)
    nn.init.normal_(model.heads.head.weight)
    return model.eval().double()


def test_layers_of_a_transformer_move_as_a_whole() -> None:
    model, x = transformer(), images(32)
    net = unroll(model, x)
    moved = reorder_blocks(net, [4, 5, 2, 3, 0, 1])
    layers = model.encoder.layers
    y = model._process_input(x)
    y = torch.cat([model.class_token.expand(2, -1, -1), y], 1) + model.encoder.pos_embedding
    for place in (2, 1, 0):
        y = layers[place](y)
    assert torch.equal(moved(x), model.heads(model.encoder.ln(y)[:, 0]))
    with pytest.raises(NotDroppableError, match="together"):
        reorder_blocks(net, [1, 0, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 0, 2], "each of the 9 blocks once"),
        ([3, 1, 2, 0, 4, 5, 6, 7, 8], r"\(4, 8, 8\) to \(6, 4, 4\), in place of block 0"),
        ([0, 5, 2, 3, 4, 1, 6, 7, 8], r"block 5 \(layer2.2\)"),
    ],
)
def test_wrong_orders(order: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reorder_blocks(tiny(), order, example_input=images())


def test_needs_shapes() -> None:
    with pytest.raises(ValueError, match="example_input"):
        reorder_blocks(tiny(), [1, 0, *range(2, 9)])


def test_blocks_of_one_forward_cannot_move() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.a(x)
            return x + self.b(x)

    with pytest.raises(NotDroppableError, match="Written"):
        reorder_blocks(Written(), [1, 0], example_input=torch.randn(2, 3))
