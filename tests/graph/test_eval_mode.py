"""Everything that needs a model in eval mode refuses others with the same message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths import landscape, lesion, paths
from resnet_paths.data import digits
from resnet_paths.graph.eval_mode import check_eval
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, UnrollError, for_inference, unroll
from resnet_paths.report import write_report
from resnet_paths.report.claims import reproduce

DATA = digits("test").subset(slice(0, 4))
NEEDS: dict[str, Callable[[UnrolledNetwork, Path], Any]] = {
    "inference": lambda net, folder: for_inference(net),
    "gradient": lambda net, folder: paths.gradient_by_length(net, DATA.x, DATA.labels),
    "logits": lambda net, folder: paths.logits_by_length(net, DATA.x),
    "conductance": lambda net, folder: paths.block_conductance(net, DATA.x, DATA.labels),
    "deletions": lambda net, folder: lesion.single_deletions(net, DATA, progress=False),
    "gates": lambda net, folder: landscape.gate_path(net, DATA, [[1.0] * 3, [0.0] * 3], progress=False),
    "curvature": lambda net, folder: landscape.curvature_operator(net, DATA),
    "report": lambda net, folder: write_report(net.model, DATA, folder / "report.html"),
    "claims": lambda net, folder: reproduce("veit2016", model=net.model, data=DATA),
}


def test_an_exported_program_has_the_mode_in_which_it_was_exported() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.dropout = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.dropout(torch.relu(self.norm(self.a(x))))

    model, x = randomise_norms(nn.Sequential(Block(), Block())).double(), torch.randn(2, 4, dtype=torch.float64)
    exported = {mode: torch.export.export(model.train(mode), (x,)).module() for mode in (False, True)}
    split = paths.gradient_by_length(unroll(exported[False]), x, torch.tensor([0, 1]))
    expected = paths.gradient_by_length(unroll(model.eval()), x, torch.tensor([0, 1]))
    torch.testing.assert_close(split.gradient, expected.gradient)
    for inside in (exported[True], nn.Sequential(exported[True])):
        with pytest.raises(UnrollError, match=r"call model\.eval\(\) before torch\.export"):
            check_eval(inside)
    with pytest.raises(UnrollError, match="got 1 module in training mode"):
        check_eval(nn.ModuleList([exported[False]]))


@pytest.mark.parametrize("name", NEEDS)
def test_a_model_partly_in_training_mode_is_refused_with_the_modules(name: str, tmp_path: Path) -> None:
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0).eval())
    net.model.layer2[0].bn1.train()
    with torch.no_grad(), pytest.raises(UnrollError, match=r"eval mode, got 1 module.*layer2\.0\.bn1.*model\.eval\(\)"):
        NEEDS[name](net, tmp_path)
