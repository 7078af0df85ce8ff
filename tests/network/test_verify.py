"""With an example, a network's output and gradient are compared with the model's own."""

import warnings

import pytest
import torch
from torch import nn

from resnet_paths.graph.errors import TraceError
from resnet_paths.graph.tracing import trace
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.network.verify import gradient_difference, verify


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.a(x))


_BESIDE = {"rounding": 1e-9, "slightly": 1e-4}  # the share of the input's gradient that is lost


class Cheats(nn.Module):
    """Its call changes a gradient in a way that no graph shows: that of the input, of one layer, or none."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.second, self.what = Block(), Block(), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.what == "input":
            x = x.detach() * 0.5 + x * 0.5
        if self.what == "layer":
            hidden = self.first(x)
            return self.second(hidden) + (self.first(x) - self.first(x).detach()) * 0.1
        if self.what in _BESIDE:
            return super().__call__(x.detach() * _BESIDE[self.what] + x * (1 - _BESIDE[self.what]))
        if self.what == "nothing flows":
            return super().__call__(x).detach()
        return super().__call__(x)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("what", ["input", "layer"])
def test_a_gradient_that_is_not_the_models_is_named(what: str) -> None:
    model = Cheats(what).double().eval()
    net = UnrolledNetwork(model, lambda: trace(model))
    assert torch.equal(net(X), model(X))
    with pytest.raises(TraceError, match="to have the model's gradient"):
        verify(net, X)
    found = gradient_difference(net, X)
    assert found is not None
    assert found[1] > 0.01
    assert what == "layer" or found[0] == "the input"


def test_a_rounded_gradient_is_not_a_different_gradient() -> None:
    """Deep networks of random weights amplify it beyond what outputs show (pytorchcv's resattnet56: 2e-10)."""
    for what, follows in (("rounding", True), ("slightly", False)):
        model = Cheats(what).double().eval()
        net = UnrolledNetwork(model, lambda model=model: trace(model))
        found = gradient_difference(net, X)
        assert found is not None
        assert found[1] == pytest.approx(_BESIDE[what], rel=1e-3)
        if follows:
            verify(net, X)
        else:
            with pytest.raises(TraceError):
                verify(net, X)


def test_without_a_gradient_in_the_model_there_is_nothing_to_compare() -> None:
    model = Cheats("nothing flows").double().eval()
    net = UnrolledNetwork(model, lambda: trace(model))
    assert gradient_difference(net, X) is None
    verify(net, X)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_agree_and_leave_no_mark(training: bool) -> None:
    model = nn.Sequential(Block(), nn.Dropout(0.5), nn.BatchNorm1d(4), Block()).double().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        net = unroll(model, X)
    found = gradient_difference(net, X)
    assert found is not None
    assert found[1] == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_whole_numbers_as_input_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), Block(), Block()).double()
    model[0].requires_grad_(False)
    net = unroll(model, torch.tensor([[1, 2, 3]]))
    found = gradient_difference(net, torch.tensor([[1, 2, 3]]))
    assert found is not None
    assert found[0] != "the input"
    assert found[1] == 0


class Part(nn.Module):
    """Cannot be traced, for it asks for the width of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 2:
            x = x[..., 1:]
        return x + torch.tanh(self.a(x))


def test_modules_that_could_not_be_looked_into_are_named() -> None:
    model = nn.Sequential(Block(), nn.Sequential(*[Part() for _ in range(6)])).double()
    with pytest.warns(UserWarning, match=r"1\.0, 1\.1, 1\.2, 1\.3, 2 more could not be traced.*pass example_input"):
        net = unroll(model)
    assert len(net) == 1
    line = "not traced: 1.0, 1.1, 1.2, 1.3, 2 more; pass example_input to trace inside them"
    assert repr(net).splitlines()[-1] == line
    assert line in net._repr_html_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(unroll(model, X)) == 7
        assert "not traced" not in repr(unroll(model, X))
        assert "not traced" not in repr(unroll(nn.Sequential(Block(), Block())))
    advised = UnrolledNetwork(model, lambda: trace(model), X)  # whose example has not helped
    assert repr(advised).splitlines()[-1] == "not traced: 1.0, 1.1, 1.2, 1.3, 2 more"


def test_arguments_that_tracing_takes_as_constants_send_to_the_recorder() -> None:
    """A closed module is given None by the traced graph, and fails: that is not the user's error."""

    class Closed(nn.Module):
        def forward(self, mask: torch.Tensor) -> torch.Tensor:
            return mask if float(mask.sum()) < 1e9 else -mask

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.closed, self.a = Closed(), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return (x + self.a(x)) * self.closed(mask)

    model = Optional().eval()
    x, mask = torch.randn(2, 4), torch.rand(2, 4)
    net = unroll(model, {"x": x, "mask": mask})
    assert net.front_end == "record"
    assert torch.equal(net({"x": x, "mask": mask * 2}), model(x, mask * 2))
