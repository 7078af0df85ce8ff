"""Several threads look at one model at once: the numbers are those of one thread, and the model stays as it was."""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths import landscape, paths, tradeoff
from resnet_paths.choices import Runtime
from resnet_paths.data import ImageData, digits
from resnet_paths.graph.locking import MODEL_LOCK
from resnet_paths.graph.preserve import generators_kept, preserved
from resnet_paths.graph.private_copy import private_modules, private_use
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.sweep import sweep
from resnet_paths.training import error_rate

pytestmark = pytest.mark.slow

DATA = digits("test").subset(slice(0, 4)).to(dtype=torch.float64)
Numbers = Callable[[UnrolledNetwork], torch.Tensor]


def product(net: UnrolledNetwork, kind: Literal["hessian", "gauss_newton"]) -> torch.Tensor:
    names = ["conv1.weight", "layer3.0.conv2.weight", "linear.bias"]  # all the other parameters are exchanged too
    operator = landscape.curvature_operator(net, DATA, kind=kind, parameters=names)
    return operator @ torch.linspace(-1, 1, len(operator), dtype=torch.float64)


def shapley(net: UnrolledNetwork) -> torch.Tensor:
    return paths.attribute_blocks(net, DATA.x, DATA.labels, method="shapley", draws=2).values


FUNCTIONS: dict[str, Numbers] = {
    "hessian": lambda net: product(net, "hessian"),
    "gauss_newton": lambda net: product(net, "gauss_newton"),
    "hutchinson": lambda net: torch.tensor(landscape.hutchinson(landscape.curvature_operator(net, DATA), 2).value),
    "logits_by_length": lambda net: paths.logits_by_length(net, DATA.x).logits,
    "block_contributions": lambda net: paths.block_contributions(net, DATA.x).contributions,
    "shapley": shapley,
    "block_conductance": lambda net: paths.block_conductance(net, DATA.x, DATA.labels, steps=2).values,
    "gradient_by_length": lambda net: paths.gradient_by_length(net, DATA.x, DATA.labels).norms,
    "gate_path": lambda net: torch.tensor(
        landscape.gate_path(net, DATA, [[1.0] * 3, [0.0] * 3], t=[0, 0.5], progress=False).values["loss"]
    ),
    "statistics_gap": lambda net: torch.tensor(tradeoff.statistics_gap(net.model, [DATA.x]).mean),
}


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def subject() -> UnrolledNetwork:
    model = randomise_norms(cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0)).double().eval()
    return unroll(model, DATA.x)


def state(model: nn.Module) -> list[object]:
    """Every attribute of every module by identity, train flags, hooks, and the values of tensors."""
    tables = [{name: id(value) for name, value in vars(module).items()} for module in model.modules()]
    tensors = [(id(value), value.requires_grad, value.tolist()) for value in model.state_dict(keep_vars=True).values()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    return [tables, tensors, hooks, [module.training for module in model.modules()]]


def together(*works: Callable[[], object]) -> list[object]:
    """The results of the jobs, each in its own thread, all started at once; an exception in place of its value."""
    values: list[object] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(index: int) -> None:
        start.wait()
        try:
            values[index] = works[index]()
        except Exception as error:
            values[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "the threads wait for each other"
    return values


def own_gradient(net: UnrolledNetwork) -> torch.Tensor:
    """What a thread that trains computes: the gradient by the model's own parameters."""
    loss = nn.functional.cross_entropy(net.model(DATA.x), DATA.labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.model.parameters()))])


def wrong(function: Numbers, threads: int, trials: int) -> list[str]:
    """What differed from one thread's numbers, or from the model and the settings before."""
    expected, gradient, faults = function(subject()), own_gradient(subject()), []
    for _ in range(trials):
        net = subject()
        before = state(net.model), settings()
        *values, other = together(*[lambda net=net: function(net)] * threads, lambda net=net: own_gradient(net))
        for value, right in [*((value, expected) for value in values), (other, gradient)]:
            if not isinstance(value, torch.Tensor) or not torch.allclose(value, right, rtol=1e-9, atol=1e-12):
                faults.append(repr(value))
        if (state(net.model), settings()) != before:
            faults.append("the model or a global setting was left changed")
    return faults


def settings() -> list[object]:
    attention = [getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in ("flash", "math", "mem_efficient")]
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return [attention, torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(), generators]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_threads_on_one_model_get_the_numbers_of_one_thread(name: str) -> None:
    assert not [fault for threads in (2, 3) for fault in wrong(FUNCTIONS[name], threads, trials=2)]


@pytest.mark.parametrize("runtime", ["export", "compile", "onnx"])
def test_no_other_thread_follows_a_model_while_one_is_exported(runtime: Runtime, monkeypatch) -> None:
    """All use torch.fx, which follows one model at a time for all threads."""
    taken = []

    def noting(function: Callable[..., object]) -> Callable[..., object]:
        def noted(*args: object, **named: object) -> object:
            [free] = together(lambda: MODEL_LOCK.acquire(blocking=False))
            taken.append(not free)
            return function(*args, **named)

        return noted

    class Noting(nn.Linear):
        forward = noting(nn.Linear.forward)  # type: ignore[assignment]

    monkeypatch.setattr(torch.export, "export", noting(torch.export.export))
    monkeypatch.setattr(torch.onnx, "export", noting(torch.onnx.export))
    monkeypatch.setattr(torch, "compile", lambda model: model)  # its first call runs the model
    tradeoff.in_runtime(Noting(2, 3).eval(), torch.zeros(2, 2), runtime)
    assert taken
    assert all(taken)


def test_threads_share_one_operator() -> None:
    net = subject()
    operator = landscape.curvature_operator(net, DATA)
    vector = torch.linspace(-1, 1, len(operator), dtype=torch.float64)
    expected, before = operator @ vector, state(net.model)
    for value in together(*[lambda: operator @ vector] * 3):
        assert torch.equal(value, expected)  # type: ignore[arg-type]
    assert state(net.model) == before


def test_an_operator_sees_parameters_that_move_in_place() -> None:
    net = subject()
    operator = landscape.curvature_operator(net, DATA, parameters=["linear.weight"])
    before = operator.dense()
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.mul_(1.1)
    fresh = landscape.curvature_operator(net, DATA, parameters=["linear.weight"])
    assert torch.equal(operator.dense(), fresh.dense())
    assert not torch.allclose(operator.dense(), before)


def test_what_one_thread_changes_for_a_while_another_does_not_put_back_for_good() -> None:
    """The second snapshot is taken after the first restore, however the threads take turns."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    before, changed, second_in = state(model), threading.Event(), threading.Event()

    def first() -> bool:
        with preserved(model):
            model.train()
            model(torch.randn(4, 2))
            changed.set()
            return second_in.wait(0.3)

    def second() -> None:
        assert changed.wait(10)
        with preserved(model):
            second_in.set()

    came_in_between, error = together(first, second)
    assert came_in_between is False
    assert error is None
    assert state(model) == before


def test_a_restore_writes_nothing_where_nothing_changed() -> None:
    class Watched(dict):  # type: ignore[type-arg]
        def clear(self) -> None:
            raise AssertionError("another thread would see a module without its parameters")

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.cache = {"kept": 1}  # type: ignore[assignment]
    for module in model.modules():
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(module, name, Watched(vars(module)[name]))
    with preserved(model):
        model(torch.randn(1, 2))
    assert all(isinstance(vars(module)["_parameters"], Watched) for module in model.modules())


@pytest.mark.parametrize("last_out", ["first", "second"])
def test_generators_go_on_as_before_the_first_thread_came(last_out: str) -> None:
    steps = [threading.Event() for _ in range(3)]

    def first() -> None:
        with generators_kept([]):
            torch.rand(1), np.random.rand(), random.random()
            steps[0].set()
            assert steps[1].wait(10)
            assert last_out == "second" or steps[2].wait(10)
        steps[2].set()

    def second() -> None:
        assert steps[0].wait(10)
        with generators_kept([]):
            torch.rand(1), np.random.rand(), random.random()
            steps[1].set()
            assert last_out == "first" or steps[2].wait(10)
        steps[2].set()

    before = settings()
    assert together(first, second) == [None, None]
    assert settings() == before


def test_sweeps_in_threads_leave_the_generators_alone() -> None:
    def draw(point: dict[str, int], context: None, seed: int) -> float:
        return float(torch.rand(()))

    before = settings()
    together(*[lambda: sweep(draw, [{"n": n} for n in range(20)], progress=False)] * 3)
    assert settings() == before


class Holds(nn.Module):
    """A model with something that cannot be copied, and that notes the train flag it runs with."""

    def __init__(self, copyable: bool) -> None:
        super().__init__()
        self.linear, self.flags = nn.Linear(64, 10), []
        self.handle = None if copyable else threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.flags.append(self.training)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("copyable", [True, False])
def test_flags_are_set_on_private_modules_or_put_back(copyable: bool) -> None:
    model = Holds(copyable)
    before = state(model)
    with private_use(model) as own:
        own.eval()
        own(torch.randn(2, 64))
        assert model.training == copyable
        assert own.linear.weight is model.linear.weight
        assert own.flags == [False]
    assert model.flags == []
    assert state(model) == before


@pytest.mark.parametrize("copyable", [True, False])
def test_models_that_cannot_be_copied_have_the_same_curvature(copyable: bool) -> None:
    torch.manual_seed(0)
    model = Holds(copyable).double().eval()
    assert (private_modules(model) is None) == (not copyable)
    operator = landscape.curvature_operator(model, DATA, parameters=["linear.bias"])
    (gradient,) = torch.autograd.grad(loss(model, DATA), model.linear.bias, create_graph=True)
    rows = [torch.autograd.grad(g, model.linear.bias, retain_graph=True)[0] for g in gradient]
    assert torch.allclose(operator.dense(), torch.stack(rows), rtol=1e-10, atol=1e-14)


def loss(model: nn.Module, data: ImageData) -> torch.Tensor:
    return nn.functional.cross_entropy(model(data.x), data.labels)


def test_reparametrised_weights_are_shared_by_the_private_modules() -> None:
    """A weight computed by a hook is not a leaf, which deepcopy refuses; a parametrisation creates its own class."""
    for wrap in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        model = nn.Sequential(wrap(nn.Linear(3, 3)), nn.Linear(3, 2)).double().eval()
        model(torch.randn(1, 3, dtype=torch.float64))
        own = private_modules(model)
        assert own is not None
        ours, theirs = dict(own.named_parameters()), dict(model.named_parameters())
        assert list(ours) == list(theirs)
        assert all(ours[name] is theirs[name] for name in theirs)


def test_the_error_rate_of_a_model_in_training_is_taken_without_touching_its_flags() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0).train()
    model.layer1.eval()
    seen: list[bool] = []
    model.linear.register_forward_hook(lambda module, args, output: seen.append(model.training))
    before = state(model)
    rates = together(*[lambda: error_rate(model, DATA)] * 3)
    assert len(set(rates)) == 1
    assert isinstance(rates[0], float)
    assert set(seen) == {True}
    assert state(model) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_is_forked_between_changes_and_begins_with_the_lock_free() -> None:
    model, held = nn.Linear(2, 2), threading.Event()

    def change() -> None:
        with preserved(model):
            model.train(False)
            held.set()
            time.sleep(0.1)

    def child() -> bool:
        assert held.wait(10)
        return in_a_fork(lambda: model.training and MODEL_LOCK.acquire(timeout=5))

    assert together(change, child) == [None, True]


def in_a_fork(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a process forked from this thread."""
    process = os.fork()
    if not process:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("inside", [False, True])
def test_a_forked_process_keeps_its_generators_without_the_threads_that_it_left_behind(inside: bool) -> None:
    came, over = threading.Event(), threading.Event()

    def other() -> bool:
        with generators_kept([]):
            came.set()
            return over.wait(30)

    def kept() -> bool:
        before = random.getstate()
        with generators_kept([]):
            random.random()
        return random.getstate() == before

    def forks() -> bool:
        assert came.wait(10)
        with generators_kept([]) if inside else nullcontext():
            held = in_a_fork(kept)
        over.set()
        return held

    assert together(other, forks) == [True, True]
