"""A copy shares nothing with the model, also of models that `copy.deepcopy` refuses or copies by half."""

import threading
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from resnet_paths.graph.copying import copied
from resnet_paths.graph.errors import UnrollError
from resnet_paths.network import for_inference, unroll
from resnet_paths.surgery import drop_blocks, reorder_blocks


class Block(nn.Module):
    def __init__(self, wrap=lambda layer: layer) -> None:
        super().__init__()
        self.a, self.norm = wrap(nn.Linear(4, 4)), nn.BatchNorm1d(4)

    def forward(self, x):
        return x + torch.tanh(self.norm(self.a(x)))


class Keeps(nn.Sequential):
    def forward(self, x):
        self.features = {"last": [super().forward(x)]}
        return self.features["last"][0] * 2


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.4)
    return layer


def hooked(model: nn.Module) -> nn.Module:
    class Extractor:
        def __init__(self) -> None:
            self.kept: list = []

        def hook(self, module, args, output):
            self.kept.append(output)

    model[1].register_forward_hook(Extractor().hook)
    return model


def patched(model: nn.Module) -> nn.Module:
    for block in model:

        def forward(x, *, old=block.forward):
            return old(x) * 1.5

        block.forward = forward
    return model


def patched_by_closure(model: nn.Module) -> nn.Module:
    def around(old):
        def again(x):
            return old(x) - 1

        def forward(x):
            return again(x)

        return forward

    for block in model:
        block.forward = around(block.forward)
    return model


def patched_by_method(model: nn.Module) -> nn.Module:
    for block in model:
        block.forward = types.MethodType(lambda self, x: x + 2 * torch.tanh(self.a(x)), block)
    return model


def with_lambda(model: nn.Module) -> nn.Module:
    model[0].extra = lambda x: F.linear(x, model[0].a.weight)
    return model


KINDS = {
    "weight_norm": lambda: nn.Sequential(*(Block(nn.utils.weight_norm) for _ in range(3))),
    "spectral_norm": lambda: nn.Sequential(*(Block(nn.utils.spectral_norm) for _ in range(3))),
    "parametrized": lambda: nn.Sequential(*(Block(nn.utils.parametrizations.weight_norm) for _ in range(3))),
    "pruned": lambda: nn.Sequential(*(Block(pruned) for _ in range(3))),
    "features": lambda: Keeps(*(Block() for _ in range(3))),
    "hook": lambda: hooked(nn.Sequential(*(Block() for _ in range(3)))),
    "defaults": lambda: patched(nn.Sequential(*(Block() for _ in range(3)))),
    "closure": lambda: patched_by_closure(nn.Sequential(*(Block() for _ in range(3)))),
    "method": lambda: patched_by_method(nn.Sequential(*(Block() for _ in range(3)))),
    "lambda": lambda: with_lambda(nn.Sequential(*(Block() for _ in range(3)))),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("kind", KINDS)
def test_copies_compute_the_same_and_share_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model, x = KINDS[kind]().eval(), torch.randn(5, 4)
    expected = model(x).detach()
    net = unroll(model)
    assert len(net) == 3
    dropped = net(x, [1.0, 0.0, 1.0]).detach()
    copies = [copied(model), for_inference(net).model, drop_blocks(net, [1]), reorder_blocks(net, [0, 1, 2])]
    moved = reorder_blocks(net, swaps=[(0, 1)], example_input=x)

    with torch.no_grad():
        after = moved(x)
        for parameter in model.parameters():
            parameter.mul_(2)
    for copy, result in zip(copies, [expected, expected, dropped, expected], strict=True):
        torch.testing.assert_close(copy(x), result)
        assert not {id(m) for m in copy.modules()} & {id(m) for m in model.modules()}
    assert torch.equal(moved(x), after)


def test_a_lambda_of_the_copy_reads_the_copy() -> None:
    model = with_lambda(nn.Sequential(Block()))
    copy = copied(model)
    nn.init.zeros_(copy[0].a.weight)
    assert not copy[0].extra(torch.ones(1, 4)).any()
    assert model[0].extra(torch.ones(1, 4)).any()


def test_what_cannot_be_copied_is_reported_in_one_line() -> None:
    model = nn.Sequential(Block(), Block()).eval()
    model.lock = threading.Lock()
    with pytest.raises(UnrollError, match=r"lock.*inplace=True or lesioned") as error:
        drop_blocks(model, [0])
    assert "\n" not in str(error.value)
    assert drop_blocks(model, [0], inplace=True) is model


def test_empty_tables_are_the_copys_own_and_shared_where_the_models_are() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["a"].seen = model["b"].seen = OrderedDict()
    copy = copied(model)
    copy["a"].register_forward_hook(lambda *_: None)
    copy["a"].seen["now"] = 1
    assert not model["a"]._forward_hooks
    assert not model["a"].seen
    assert copy["b"].seen is copy["a"].seen
    assert all(type(vars(copy["a"])[name]) is type(value) for name, value in vars(model["a"]).items())
