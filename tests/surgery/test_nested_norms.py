"""Statistics behind nested blocks: what goes with the block around them is not listed as left."""

import torch
from torch import nn

from resnet_paths.network import unroll
from resnet_paths.surgery import drop_blocks, norms_before


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.f, self.after = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = x + self.f(self.inner(x))
        return self.after(x + self.last(y))


def test_norms_inside_a_dropped_outer_block_are_gone() -> None:
    net = unroll(Nested().eval())
    assert len(net) == 2
    left = dict(drop_blocks(net, [1]).named_modules())
    assert norms_before(net, [1]) == ["first"]
    assert norms_before(net, [0]) == ["first"]
    assert "inner" not in left
    assert "first" in left
