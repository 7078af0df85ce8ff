"""A lesion is in the model itself, and leaves no trace in it."""

from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.slow
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


class Twice(nn.Module):
    """Three blocks in two modules: one in a separate module, two in the model's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.a, self.b = Block(), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        x = x + self.a(x)
        return torch.relu(x + self.b(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a(x)


def twice() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Twice().double().eval(), torch.randn(2, 3, dtype=torch.float64)


ORDERS = [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("by", ["model", "net"])
@pytest.mark.parametrize("make", [lambda: (tiny(), images()), twice])
def test_contexts_left_in_any_order(make, by: str, order: tuple[int, int, int]) -> None:
    model, x = make()
    net, whole = unroll(model), model(x)
    before = [(type(module), dict(module.__dict__)) for module in model.modules()]
    expected = {
        blocks: gated(net, x, sorted(blocks))
        for blocks in map(frozenset, [[0, 1, 2], [1, 2], [0, 2], [0, 1], [0], [1], [2]])
    }
    blocks, left, contexts = [0, 2, 1], list(range(len(net))), []
    for block in blocks:
        contexts.append(lesioned(model, [left.index(block)]) if by == "model" else lesioned(net, [block]))
        contexts[-1].__enter__()
        left.remove(block)

    gone = dict(enumerate(blocks))
    for number in order:
        assert torch.allclose(model(x), expected[frozenset(gone.values())], atol=1e-12)
        contexts[number].__exit__(None, None, None)
        del gone[number]
    assert torch.equal(model(x), whole)
    assert [(type(module), dict(module.__dict__)) for module in model.modules()] == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_train_flags_are_those_from_before_the_first_context(order: tuple[int, int]) -> None:
    model, _ = twice()
    model.block.train()
    flags = [module.training for module in model.modules()]
    contexts = [lesioned(model, [0]), lesioned(model, [0])]
    for context in contexts:
        context.__enter__()
        model.train()
    for number in order:
        contexts[number].__exit__(None, None, None)
    assert [module.training for module in model.modules()] == flags


def test_a_lesion_of_a_part_and_one_of_the_whole_left_crosswise() -> None:
    model, x = twice()
    outer = nn.Sequential(model, nn.Linear(3, 2)).double().eval()
    whole, one, other = outer(x), lesioned(model, ["block"]), lesioned(outer, ["0.b"])
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert torch.equal(outer(x), whole)
    assert type(model) is Twice


def test_an_exception_in_one_of_several_contexts_restores() -> None:
    model, x = twice()
    whole, open_context = model(x), lesioned(model, ["a"])
    open_context.__enter__()
    with pytest.raises(KeyError), lesioned(model, ["block"]):
        raise KeyError
    assert torch.equal(model(x), drop_blocks(twice()[0], ["a"])(x))
    open_context.__exit__(None, None, None)
    assert torch.equal(model(x), whole)


def test_many_threads_open_and_close_contexts() -> None:
    model, x = twice()
    net, whole = unroll(model), model(x)

    def work(number: int) -> None:
        for _ in range(5):
            with lesioned(net, [number % 3]):
                model(x)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(6)))
    assert torch.equal(model(x), whole)
    assert [type(module) for module in model.modules()] == [type(module) for module in twice()[0].modules()]
