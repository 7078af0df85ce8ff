"""Products with curvature matrices: against dense second derivatives, and known traps."""

from __future__ import annotations

import copy
import gc
import sys
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import randomise_norms
from references.dense_curvature import WrittenNorm, dense_gauss_newton, dense_hessian
from references.tiny import tiny_batch, tiny_network
from resnet_paths.data import digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.landscape.operator import curvature_operator
from resnet_paths.landscape.parameters import block_parameters
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import unroll

DENSE = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton}


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _sizes(draw_from: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 3), min_size=1, max_size=draw_from)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("smooth", [True, False], ids=["gelu", "relu"])
def test_matrix_equals_dense_second_derivatives(kind: str, smooth: bool) -> None:
    net, (x, target) = tiny_network(3, smooth=smooth), tiny_batch(5)
    operator = curvature_operator(net, [(x, target)], kind=kind)
    expected = DENSE[kind](net.model, x, target, _names(net.model))
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-8, atol=1e-10)
    assert operator.products == len(operator)


@pytest.mark.slow
@given(sizes=_sizes(4), kind=st.sampled_from(["hessian", "gauss_newton"]))
@settings(max_examples=10, deadline=None)
def test_every_sample_counts_the_same_whatever_the_batches(sizes: list[int], kind: str) -> None:
    net, (x, target) = tiny_network(2), tiny_batch(sum(sizes))
    whole = curvature_operator(net, [(x, target)], kind=kind)
    batches = list(zip(x.split(sizes), target.split(sizes), strict=True))
    v = torch.randn(len(whole), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(curvature_operator(net, batches, kind=kind) @ v, whole @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_mean_over_batches_would_be_another_matrix() -> None:
    net, (x, target) = tiny_network(2), tiny_batch(5)
    parts = [curvature_operator(net, [(x[s], target[s])]).dense() for s in (slice(0, 4), slice(4, 5))]
    whole = curvature_operator(net, [(x[:4], target[:4]), (x[4:], target[4:])]).dense()
    assert float((whole - (parts[0] + parts[1]) / 2).norm() / whole.norm()) > 0.05
    torch.testing.assert_close(whole, 0.8 * parts[0] + 0.2 * parts[1], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_chosen_parameters_give_the_diagonal_block() -> None:
    net, (x, target) = tiny_network(3), tiny_batch(4)
    names = [*block_parameters(net)["2"], "0.bias"]
    whole = curvature_operator(net, [(x, target)])
    block = curvature_operator(net, [(x, target)], parameters=names)
    assert set(block.names) == set(names)
    places = torch.cat([torch.arange(len(whole))[whole.slices()[name]] for name in block.names])
    torch.testing.assert_close(block.dense(), whole.dense()[places][:, places], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_convolutions_with_norms_in_eval_mode(residual: bool) -> None:
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 3), residual=residual, num_classes=3, seed=0)
    model = randomise_norms(model).double().eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    for kind, dense in DENSE.items():
        operator = curvature_operator(model, [(x[:2], target[:2]), (x[2:], target[2:])], kind=kind)
        torch.testing.assert_close(operator.dense(), dense(model, x, target, _names(model)), rtol=1e-8, atol=1e-9)


def test_training_mode_is_refused() -> None:
    model = cifar_resnet(8, seed=0).eval()
    model.layer1[0].bn1.train()
    with pytest.raises(ValueError, match=r"eval mode.*layer1.0.bn1"):
        curvature_operator(model, [(torch.randn(1, 3, 8, 8), torch.tensor([0]))])


@pytest.mark.slow
def test_embedded_network_product_is_the_derivative_of_its_gradient() -> None:
    model, data = load_model("embedded").double(), digits("train").subset(slice(0, 6))
    operator = curvature_operator(model, data, batch_size=4)
    v = torch.randn(len(operator), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v /= v.norm()
    step, moved = 1e-5, []
    for sign in (1, -1):
        other = copy.deepcopy(model)
        for name, part in operator.direction(v).items():
            other.get_parameter(name).data += sign * step * part
        x, target = data.to(dtype=torch.float64).x, data.labels
        gradient = torch.autograd.grad(nn.functional.cross_entropy(other(x), target), list(other.parameters()))
        moved.append(torch.cat([part.reshape(-1) for part in gradient]))
    torch.testing.assert_close(operator @ v, (moved[0] - moved[1]) / (2 * step), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_in_place_operations_and_attention_can_be_differentiated_twice() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
            self.act, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.inner(x)
            out += x
            return self.head(self.act(out).mean(1))

    torch.manual_seed(0)
    model = Attending().double().eval()
    x, target = torch.randn(3, 2, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    assert torch.backends.mha.get_fastpath_enabled()
    found = {kind: curvature_operator(model, [(x, target)], kind=kind).dense() for kind in DENSE}
    assert torch.backends.mha.get_fastpath_enabled()
    written = copy.deepcopy(model)
    written.inner.norm1, written.inner.norm2 = map(WrittenNorm, (written.inner.norm1, written.inner.norm2))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = {kind: dense(written, x, target, _names(model)) for kind, dense in DENSE.items()}
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for kind in DENSE:
        torch.testing.assert_close(found[kind], expected[kind], rtol=1e-8, atol=1e-10)


def test_parameters_without_influence_have_no_curvature() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Idle().double().eval()
    batch = [(torch.randn(2, 2, dtype=torch.float64), torch.tensor([0, 1]))]
    assert curvature_operator(model, batch, parameters=["idle.weight"]).dense().count_nonzero() == 0
    linear = curvature_operator(model, batch, parameters=["used.bias"], loss=lambda output, target: output[:, 0])
    assert linear.dense().count_nonzero() == 0


@pytest.mark.slow
def test_own_loss_is_summed_over_samples_and_must_have_one_each() -> None:
    net, (x, target) = tiny_network(2, smooth=True), tiny_batch(4)

    def square(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return (output - nn.functional.one_hot(wanted, 3)).square().sum(1)

    operator = curvature_operator(net, [(x[:3], target[:3]), (x[3:], target[3:])], loss=square)
    expected = dense_hessian(net.model, x, target, _names(net.model), square)
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="one loss for each of 4 samples"):
        curvature_operator(net, [(x, target)], loss=lambda a, b: square(a, b).mean()) @ torch.zeros(len(operator))


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_model_is_left_unchanged_also_after_an_exception(kind: str) -> None:
    net, (x, target) = tiny_network(2), tiny_batch(4)
    model = net.model
    model.register_forward_hook(lambda *_: None)
    next(model.parameters()).requires_grad_(False)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, state = fingerprint(model), torch.get_rng_state()
    identities = [(id(p), p.requires_grad, p._version) for p in model.parameters()]
    hooks = dict(model._forward_hooks)

    operator = curvature_operator(net, [(x, target)], kind=kind)
    operator @ torch.ones(len(operator))

    class Stop(Exception): ...

    def stop(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        raise Stop

    with pytest.raises(Stop):
        curvature_operator(net, [(x, target)], kind=kind, loss=stop) @ torch.ones(len(operator))
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert [(id(p), p.requires_grad, p._version) for p in model.parameters()] == identities
    assert [p.grad is None for p in model.parameters()] == [index > 0 for index in range(len(identities))]
    assert dict(model._forward_hooks) == hooks


def test_hooks_that_count_keep_their_buffers_as_they_were() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting().double().eval()
    operator = curvature_operator(model, [tiny_batch(2)])
    operator @ torch.ones(len(operator))
    assert float(model.calls) == 0


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors created within it that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.made.append(weakref.ref(result))
        return result

    def alive(self) -> int:
        found = [tensor for reference in self.made if (tensor := reference()) is not None]
        return len({tensor.untyped_storage().data_ptr() for tensor in found})


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_products_leave_no_graph_behind(kept: bool) -> None:
    net, (x, target) = tiny_network(3), tiny_batch(4)
    operator = curvature_operator(net, [(x, target)])
    v = torch.ones(len(operator))
    operator @ v
    gc.disable()  # what only the garbage collector could free would pile up
    try:
        tracemalloc.start()
        counts = []
        for _ in range(3):
            with _Alive() as watch, operator.graph_kept() if kept else nullcontext():
                product = operator @ v
            counts.append(watch.alive())
            assert not product.requires_grad
            assert product.grad_fn is None
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            operator @ v
        grown = tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()
        gc.enable()
    assert counts[0] == counts[1] == counts[2] <= 2
    assert grown < 20 * 2000


class _Counted(nn.Sequential):
    """Counts its passes, and so do its copies."""

    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _Counted.passes += 1
        return super().forward(x)


def test_products_of_one_graph_are_the_same_and_outside_the_block_parameters_may_change() -> None:
    net, (x, target) = tiny_network(2), tiny_batch(5)
    operator = curvature_operator(_Counted(net.model).eval(), [(x, target)])
    vectors = torch.randn(len(operator), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [operator @ vector for vector in vectors.T]
    before = _Counted.passes
    with operator.graph_kept():
        for vector, product in zip(vectors.T, expected, strict=True):
            assert torch.equal(operator @ vector, product)
        assert _Counted.passes - before == 1
        with ThreadPoolExecutor(1) as other:  # which keeps no graph, and holds none of this thread's
            assert torch.equal(other.submit(lambda: operator @ vectors[:, 0]).result(), expected[0])
        assert _Counted.passes - before == 2
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.mul_(1.1)
    again = curvature_operator(net, [(x, target)]) @ vectors[:, 0]
    assert not torch.allclose(again, expected[0])
    with operator.graph_kept():
        assert torch.equal(operator @ vectors[:, 0], again)


def test_several_batches_keep_no_graph() -> None:
    net, (x, target) = tiny_network(2), tiny_batch(4)
    operator = curvature_operator(_Counted(net.model).eval(), [(x[:2], target[:2]), (x[2:], target[2:])])
    vector = torch.ones(len(operator), dtype=torch.float64)
    operator @ vector  # the probe of the symmetry
    before = _Counted.passes
    with operator.graph_kept():
        for _ in range(2):
            operator @ vector
    assert _Counted.passes - before == 4


def test_vectors_and_directions_are_inverse() -> None:
    net, batch = tiny_network(2), tiny_batch(2)
    operator = curvature_operator(net, [batch])
    v = torch.randn(len(operator), dtype=torch.float64)
    direction = operator.direction(v)
    assert {name: tuple(part.shape) for name, part in direction.items()} == {
        name: tuple(parameter.shape) for name, parameter in net.model.named_parameters()
    }
    assert torch.equal(operator.vector(direction), v)


def test_labelled_images_and_batches_are_the_same() -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(2, 2, 3), seed=0).double().eval(), digits("test")
    data = data.subset(slice(0, 7))
    v = torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    one = curvature_operator(model, data, batch_size=3) @ v
    x = data.to(dtype=torch.float64).x
    torch.testing.assert_close(curvature_operator(model, iter([(x, data.labels)])) @ v, one, rtol=1e-9, atol=1e-12)


def test_dictionaries_and_tuples_of_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.linear(a + b)}

    model = Sum().double().eval()
    (a, target), b = tiny_batch(3), torch.ones(3, 4, dtype=torch.float64)
    v = torch.ones(15, dtype=torch.float64)
    expected = curvature_operator(model.linear, [(a + b, target)]) @ v
    for x in ({"a": a, "b": b}, (a, b)):
        for kind in ("hessian", "gauss_newton"):
            found = curvature_operator(model, [(x, target)], kind=kind) @ v
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # a linear model: both are the same


def test_what_does_not_fit_is_refused() -> None:
    net, batch = tiny_network(2), tiny_batch(2)
    with pytest.raises(ValueError, match="'hessian' or 'gauss_newton'"):
        curvature_operator(net, [batch], kind="fisher")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names of different parameters"):
        curvature_operator(net, [batch], parameters=["0.weight", "nothing"])
    with pytest.raises(ValueError, match="at least one sample"):
        curvature_operator(net, [])
    with pytest.raises(ValueError, match="'cross_entropy' or a function"):
        curvature_operator(net, [batch], loss="mse")  # type: ignore[arg-type]
    operator = curvature_operator(net, [batch])
    with pytest.raises(ValueError, match="expected a vector"):
        operator @ torch.ones(3)
    broken = copy.deepcopy(net.model)
    broken[-1].bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="finite"):
        curvature_operator(broken, [batch]) @ torch.ones(len(operator))


@pytest.mark.slow
def test_blocks_own_their_parameters() -> None:
    net = tiny_network(4)
    blocks = block_parameters(net)
    assert list(blocks) == [block.name for block in net.blocks]
    for name, parameters in blocks.items():
        assert set(parameters) == {f"{name}.{inner}" for inner, _ in net.model.get_submodule(name).named_parameters()}
    with pytest.raises(ValueError, match="unrolled network"):
        block_parameters(net.model)
    assert list(block_parameters(unroll(load_model("embedded")))) == [
        block.name for block in unroll(load_model()).blocks
    ]


def test_a_parameter_of_two_blocks_belongs_to_the_first() -> None:
    model = tiny_network(2, project=False).model
    model[3].branch[3].weight = model[2].branch[3].weight
    blocks = block_parameters(unroll(model))
    assert "2.branch.3.weight" in blocks["2"]
    assert not set(blocks["2"]) & set(blocks["3"])
    assert len(blocks["3"]) == len(blocks["2"]) - 1


@pytest.mark.slow
def test_without_the_extra_only_curvature_is_missing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is not imported with the package: tests/test_imports.py."""
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    monkeypatch.delitem(sys.modules, "resnet_paths.landscape._operators", raising=False)
    monkeypatch.delattr("resnet_paths.landscape._operators", raising=False)
    with pytest.raises(ImportError, match=r"resnet-paths\[curvature\]"):
        curvature_operator(tiny_network(2), [tiny_batch()])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_products_are_the_same_whatever_mode_is_around(mode: type) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    x, labels = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    expected = curvature_operator(model, [(x, labels)]).dense()
    with mode():
        found = curvature_operator(model, [(x.clone(), labels)]).dense()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert float(expected.norm()) > 0.01


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = self.one
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.other(torch.tanh(self.one(x)))))


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_products_with_a_layer_that_has_two_names(kind: str) -> None:
    torch.manual_seed(0)
    model, x, labels = Twice().double().eval(), torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    weight, operator = model.one.weight, curvature_operator(model, [(x, labels)], kind=kind)
    found = operator.dense()
    assert model.one.weight is model.other.weight is weight  # torch's functional_call leaves another tensor there
    torch.testing.assert_close(found, DENSE[kind](model, x, labels, operator.names), rtol=1e-9, atol=1e-12)
