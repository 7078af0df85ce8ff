"""Layers that return ``(hidden, *rest)``: the rest does not keep anything alive that is not needed."""

import pytest
import torch
from torch import nn

from resnet_paths.network import unroll
from resnet_paths.surgery import drop_blocks


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = torch.softmax(self.query(x) @ x.transpose(1, 2), -1)
        return self.value(weights @ x), weights


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.mlp = Attention(), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        both = self.attention(x)
        outputs = (self.norm(x + both[0]), *both[1:]) if self.training else (self.norm(x + both[0]),) + both[1:]  # noqa: RUF005
        y = outputs[0]
        return (y + torch.tanh(self.mlp(y)),) + outputs[1:]  # noqa: RUF005


class Encoder(nn.Module):
    def __init__(self, with_weights: bool) -> None:
        super().__init__()
        self.layers, self.with_weights = nn.ModuleList(Layer() for _ in range(2)), with_weights

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        for layer in self.layers:
            outputs = layer(x)
            x = outputs[0]
        return (x, outputs[1]) if self.with_weights else x


class Opaque(Attention):
    """Cannot be traced, so that its tuple is one value of the graph."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x if float(x.sum()) < 1e9 else -x)


@pytest.mark.filterwarnings("ignore:.*could not be traced")
@pytest.mark.parametrize("closed", [False, True])
def test_weights_that_nothing_reads_keep_no_branch(closed: bool) -> None:
    torch.manual_seed(0)
    model, x = Encoder(with_weights=False).eval().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    if closed:
        for layer in model.layers:
            layer.attention = Opaque().double()
    net = unroll(model)
    assert [block.droppable for block in net] == [True] * 4
    # the layer passes on a slice of unknown length of a closed attention's tuple, so it must still compute it
    assert [block.branch_parameters for block in net] == [0 if closed else 40, 20, 0 if closed else 40, 20]
    small = drop_blocks(net, [0, 2])
    assert torch.equal(small(x), net(x, [0.0, 1.0, 0.0, 1.0]))
    gone = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())
    assert gone == net[0].branch_parameters + net[2].branch_parameters


def test_weights_that_are_returned_do() -> None:
    net = unroll(Encoder(with_weights=True).eval())
    assert [block.droppable for block in net] == [True, True, False, True]
