"""A lesion is in the model itself, and leaves no trace in it."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18

from damage import gated, tiny
from resnet_paths.network import NotDroppableError, unroll
from resnet_paths.surgery import drop_blocks, lesioned


class Written(nn.Module):
    """Everything in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.a(x)
        return self.c(torch.relu(x + self.b(x)))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def test_restores_exactly_also_after_an_exception_and_nested() -> None:
    model = resnet18().train()
    model.layer1.eval()
    modules, flags = dict(model.named_modules()), [module.training for module in model.modules()]
    attributes = {name: dict(module.__dict__) for name, module in modules.items()}
    classes = {name: type(module) for name, module in modules.items()}

    def damage() -> None:
        with lesioned(model, [0, 5]), lesioned(model, [1]):
            model.eval()
            assert isinstance(model, ResNet)
            assert len(unroll(model)) == 5
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        damage()
    assert list(dict(model.named_modules())) == list(modules)
    for name, module in model.named_modules():
        assert module is modules[name]
        assert type(module) is classes[name]
        assert module.__dict__.keys() == attributes[name].keys()
        assert all(module.__dict__[key] is value for key, value in attributes[name].items())
    assert [module.training for module in model.modules()] == flags


@pytest.mark.parametrize("by", ["model", "net"])
@pytest.mark.parametrize("make", [lambda: Written().eval(), lambda: nn.Sequential(Written(), nn.Linear(2, 2)).eval()])
def test_nested_lesions_add_up_in_one_module(make, by: str) -> None:
    model, x = make(), torch.randn(4, 3)
    net, whole = unroll(model), model(x)
    subject = model if by == "model" else net
    with lesioned(subject, [0]):
        with lesioned(subject, [0 if by == "model" else 1]):
            assert torch.allclose(model(x), gated(net, x, [0, 1]))
        assert torch.allclose(model(x), gated(net, x, [0]))
    assert torch.equal(model(x), whole)


def test_another_network_of_a_lesioned_model_is_refused() -> None:
    model = tiny()
    one, other = unroll(model), unroll(model)
    with lesioned(one, [0]):
        with pytest.raises(NotDroppableError, match="pass the model"):
            with lesioned(other, [1]):
                pass


def test_follows_the_mode_and_its_hooks_can_be_removed() -> None:
    model, seen = tiny().train(), []
    handle = model.layer1[1].register_forward_hook(lambda *_: seen.append(1))
    with lesioned(model, [1]):
        model(images())
        handle.remove()
        model.eval()
        model(images())
    assert seen == [1]
    assert model.training


def test_training_within_trains_the_model() -> None:
    model = Written()
    with lesioned(model, ["a"]):
        model(torch.randn(4, 3)).sum().backward()
    assert model.a.weight.grad is None
    assert model.b.weight.grad is not None


def test_equals_dropping_and_reaches_compiled_models() -> None:
    model, x = tiny(), images()
    compiled = torch.compile(model, backend="eager")
    whole, smaller = compiled(x), drop_blocks(compiled, [2, 4])
    with lesioned(compiled, [2, 4]) as within:
        assert within is model
        assert torch.equal(compiled(x), smaller(x))
    assert torch.equal(compiled(x), whole)


def test_a_lesion_in_a_model_that_was_dropped_before() -> None:
    model, x = tiny(), images()
    net, smaller = unroll(model), drop_blocks(model, [3])
    with lesioned(smaller, [3]):
        assert torch.allclose(smaller(x), gated(net, x, [3, 4]), atol=1e-12)
