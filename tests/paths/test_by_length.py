"""The gradient by path length: sums that must close, against dense Jacobians, and what must not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from families import Family
from helpers import randomise_norms
from references.dense_paths import by_length, path_gradients
from references.small_families import SMALL
from references.tiny import tiny_batch, tiny_network
from resnet_paths import UnrolledNetwork, paths, unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.network import for_inference
from resnet_paths.paths import gradient_by_length, parameter_gradients_by_length
from resnet_paths.provenance import fingerprint


@pytest.mark.parametrize("options", [{}, {"post": False}, {"project": False}, {"smooth": True}], ids=str)
def test_equals_the_sum_of_all_paths(options: dict[str, bool]) -> None:
    net = tiny_network(6, **options)
    x, target = tiny_batch()
    split = gradient_by_length(net, x, target)
    for example in range(len(x)):
        single, label = x[example : example + 1], target[example : example + 1]
        every = path_gradients(net, single, lambda out, label=label: F.cross_entropy(out, label))
        torch.testing.assert_close(split.gradient[:, example], by_length(every, 6), rtol=1e-10, atol=1e-14)


def test_equals_the_sum_of_all_paths_of_ten_blocks() -> None:
    net = tiny_network(10)
    x, target = tiny_batch(1)
    every = path_gradients(net, x, lambda out: F.cross_entropy(out, target))
    split = gradient_by_length(net, x, target)
    torch.testing.assert_close(split.gradient[:, 0], by_length(every, 10), rtol=1e-10, atol=1e-14)


SUMS = [
    "cifar20",
    "cifar56",
    "torchvision-resnet18",
    "torchvision-resnet50",
    "torchvision-mobilenet_v3_small",
    "torchvision-convnext_tiny",
    "torchvision-vit_b_16",
    "timm-resnetv2_50",
    "timm-seresnet18",
    "timm-swin_tiny_patch4_window7_224",
    "hf-ViTForImageClassification",
]


def _unrolled(name: str) -> tuple[UnrolledNetwork, torch.Tensor]:
    if name.startswith("cifar"):
        model = randomise_norms(cifar_resnet(int(name.removeprefix("cifar")), seed=0)).double().eval()
        return unroll(model), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    family: Family = SMALL[name]
    if family.library != "torchvision":
        pytest.importorskip("timm" if family.library == "timm" else "transformers")
    x = family.example(1 if family.library == "torchvision" else 2)
    model = randomise_norms(family.make())
    return unroll(model, x) if family.needs_example else unroll(model), x


def _ordinary(net: UnrolledNetwork, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    output = net.model(leaf)
    output = output if isinstance(output, torch.Tensor) else output.logits
    (gradient,) = torch.autograd.grad(F.cross_entropy(output, target, reduction="sum"), leaf)
    return gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_sums_to_the_ordinary_gradient(name: str) -> None:
    net, x = _unrolled(name)
    target = torch.arange(len(x))
    split = gradient_by_length(net, x, target)
    expected = _ordinary(net, x, target)
    gap = (split.gradient.sum(0) - expected).norm() / expected.norm()
    assert float(gap) < 1e-10
    assert split.residual is not None
    assert split.residual < 1e-10
    assert len(split.lengths) == len(net) + 1
    torch.testing.assert_close(split.share.sum(0), torch.ones(len(x), dtype=torch.float64))


def test_with_respect_to_a_block_counts_the_blocks_from_it_on() -> None:
    net = tiny_network(7)
    x, target = tiny_batch()
    split = gradient_by_length(net, x, target, at=3)
    state = net.prefix(x, 3)
    leaf = state.value.detach().requires_grad_()
    loss = F.cross_entropy(net.run(replace(state, value=leaf)).value, target, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    assert len(split.lengths) == 5
    assert split.at == net[3].name
    torch.testing.assert_close(split.gradient.sum(0), expected, rtol=1e-10, atol=1e-14)

    whole = gradient_by_length(net, x, target)
    torch.testing.assert_close(whole.entry_norms[3][:5], split.norms, rtol=1e-10, atol=1e-14)


def _with_gates(net: UnrolledNetwork, x: torch.Tensor, target: torch.Tensor, t: float) -> dict[str, torch.Tensor]:
    """Parameters' gradients with the backward signal of every branch multiplied by t, the values kept."""
    state = net.stem(x)
    while state.index < len(net):
        branch = net.branch(state)
        total = net.shortcut(state) + branch.detach() + t * (branch - branch.detach())
        state = net.join(state, total)
    loss = F.cross_entropy(state.value, target, reduction="sum")
    named = dict(net.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_parameter_gradients_are_a_generating_function() -> None:
    net = tiny_network(5)
    x, target = tiny_batch()
    split = parameter_gradients_by_length(net, x, target)
    for t in (1.0, 0.5, -2.0):
        expected = _with_gates(net, x, target, t)
        powers = t ** split.lengths.double()
        for name, gradient in expected.items():
            found = torch.tensordot(powers, split.gradient[name], dims=1)
            torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)
    assert split.residual is not None
    assert split.residual < 1e-12


@pytest.mark.slow
def test_parameter_gradients_of_a_convolutional_network() -> None:
    net, x = _unrolled("timm-seresnet18")
    target = torch.arange(len(x))
    split = parameter_gradients_by_length(net, x, target, max_bytes=2**22)
    loss = F.cross_entropy(net.model(x), target, reduction="sum")
    named = dict(net.model.named_parameters())
    for name, expected in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
        torch.testing.assert_close(split.gradient[name].sum(0), expected, rtol=1e-8, atol=1e-10)
    last = net[-1].name
    head = next(name for name in named if name.startswith("fc"))
    assert not split.gradient[head][1:].any()
    assert all(not split.gradient[name][0].any() for name in named if name.startswith(f"{last}.conv"))


def test_truncation_gives_the_same_short_lengths() -> None:
    net = tiny_network(8)
    x, target = tiny_batch()
    whole, cut = gradient_by_length(net, x, target), gradient_by_length(net, x, target, max_length=3)
    torch.testing.assert_close(whole.gradient[:4], cut.gradient, rtol=1e-12, atol=1e-14)
    assert cut.residual is None
    assert cut.vjps["branch"] < whole.vjps["branch"] == 8 * 9 // 2


def test_counting_a_part_of_the_blocks() -> None:
    net = tiny_network(6)
    x, target = tiny_batch(1)
    every = path_gradients(net, x, lambda out: F.cross_entropy(out, target))
    chosen = {1, 4}
    split = gradient_by_length(net, x, target, blocks=sorted(chosen))
    for length in range(3):
        expected = sum(g for blocks, g in every.items() if len(chosen & set(blocks)) == length)
        torch.testing.assert_close(split.gradient[length, 0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [1, 3000, 2**20, 2**30])
def test_chunks_do_not_change_the_numbers(max_bytes: int) -> None:
    net, x = _unrolled("torchvision-resnet18")
    target = torch.arange(len(x))
    free, tight = (gradient_by_length(net, x, target, max_bytes=size) for size in (None, max_bytes))
    torch.testing.assert_close(free.gradient, tight.gradient, rtol=1e-10, atol=1e-14)


def test_runs_out_of_memory_gracefully(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_network(6)
    x, target = tiny_batch()
    expected = gradient_by_length(net, x, target)
    original, sizes = torch.autograd.grad, []

    def scarce(outputs, inputs, grads, **options):
        if options["is_grads_batched"]:
            sizes.append(len(grads))
            if len(grads) > 2:
                raise torch.OutOfMemoryError("no room for more than two rows")
        return original(outputs, inputs, grads, **options)

    monkeypatch.setattr(torch.autograd, "grad", scarce)
    found = gradient_by_length(net, x, target)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-12, atol=1e-14)
    assert max(sizes) > 2
    assert sizes.count(max(sizes)) == 1  # it learned from the first refusal


class _NoBatchingRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, grad):
        return torch.from_numpy(3 * grad.numpy())


class _Numpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _NoBatchingRule.apply(x)


def test_loops_where_an_operation_cannot_be_batched() -> None:
    net = tiny_network(4)
    plain = gradient_by_length(net, *tiny_batch())
    assert not plain.looped
    for module in net.model.modules():
        if hasattr(module, "branch"):
            module.branch.append(_Numpy().eval())
    opaque = unroll(net.model)
    split = gradient_by_length(opaque, *tiny_batch())
    assert split.residual is not None
    assert split.residual < 1e-12
    assert split.looped
    assert all("branch" in piece for piece in split.looped)


def test_folded_copy_gives_the_same_split() -> None:
    net, x = _unrolled("torchvision-resnet18")
    target = torch.arange(len(x))
    plain, folded = gradient_by_length(net, x, target), gradient_by_length(for_inference(net), x, target)
    gap = (plain.gradient - folded.gradient).norm() / plain.gradient.norm()
    assert float(gap) < 1e-10


def test_leaves_model_input_and_chance_as_they_were() -> None:
    net = tiny_network(4)
    x, target = tiny_batch()
    first = next(net.model.parameters())
    first.requires_grad_(False)
    flags = [p.requires_grad for p in net.model.parameters()]
    state = {name: value.clone() for name, value in net.model.state_dict().items()}
    before = torch.get_rng_state()
    for at in ("input", 2):
        gradient_by_length(net, x, target, at=at)
    parameter_gradients_by_length(net, x, target)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.requires_grad for p in net.model.parameters()] == flags
    assert all(p.grad is None for p in net.model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.model.state_dict().items())
    assert not x.requires_grad
    assert torch.is_grad_enabled()


def test_works_under_no_grad_and_inference_mode() -> None:
    net = tiny_network(4)
    x, target = tiny_batch()
    expected = gradient_by_length(net, x, target).gradient
    with torch.no_grad():
        found = gradient_by_length(net, x, target).gradient
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    with torch.inference_mode():
        made_there = x + 0
    found = gradient_by_length(net, made_there, target).gradient
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_custom_loss_and_logit() -> None:
    net = tiny_network(4)
    x, target = tiny_batch()
    logit = gradient_by_length(net, x, target, loss="logit")
    by_hand = gradient_by_length(net, x, target, loss=lambda out, t: out[torch.arange(len(t)), t].sum())
    torch.testing.assert_close(logit.gradient, by_hand.gradient, rtol=1e-12, atol=1e-14)


def test_tables_name_everything() -> None:
    net = tiny_network(4)
    split = gradient_by_length(net, *tiny_batch())
    frame = split.to_pandas()
    assert len(frame) == 5 * 3
    row = frame[(frame.length == 2) & (frame.example == 1)]
    assert float(row["norms"].iloc[0]) == float(split.norms[2, 1])
    labelled = split.to_xarray()
    assert labelled.entry_norms.sel(block=net[1].name, length=0).shape == (3,)
    assert labelled.attrs["model"] == split.source.model
    assert split.stages == (0, 0, 1, 1)
    torch.testing.assert_close(split.stage_norms(), split.entry_norms[[0, 2]])
    of_parameters = parameter_gradients_by_length(net, *tiny_batch())
    assert len(of_parameters.to_pandas()) == 5 * len(list(net.model.parameters()))


def _training(net: UnrolledNetwork) -> UnrolledNetwork:
    net.model[2].train()
    return net


WRONG: list[tuple[str, Callable[..., object]]] = [
    ("eval mode", lambda net, x, t: gradient_by_length(_training(net), x, t)),
    ("targets from 0 to 2", lambda net, x, t: gradient_by_length(net, x, t + 3)),
    ("3 class indices", lambda net, x, t: gradient_by_length(net, x, t[:2])),
    ("3 class indices", lambda net, x, t: gradient_by_length(net, x, t.double())),
    ("scalar loss", lambda net, x, t: gradient_by_length(net, x, t, loss=lambda out, t: out.sum(1))),
    ("without gradient", lambda net, x, t: gradient_by_length(net, x, t, loss=lambda out, t: out.detach().sum())),
    ("'cross_entropy' or 'logit'", lambda net, x, t: gradient_by_length(net, x, t, loss="hinge")),
    ("max_length", lambda net, x, t: gradient_by_length(net, x, t, max_length=-1)),
    ("max_bytes", lambda net, x, t: gradient_by_length(net, x, t, max_bytes=0)),
    ("blocks from 2 on", lambda net, x, t: gradient_by_length(net, x, t, at=2, blocks=[1, 3])),
    ("floating-point tensor", lambda net, x, t: gradient_by_length(net, x.long(), t)),
    (
        "require gradients",
        lambda net, x, t: parameter_gradients_by_length(for_inference(net, fold=False), x, t),
    ),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
def test_wrong_input_is_refused(message: str, call: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=message):
        call(tiny_network(4), *tiny_batch())


def test_cosine_and_share_by_their_definitions() -> None:
    net, (x, target) = tiny_network(5, smooth=True, post=False), tiny_batch()
    found = gradient_by_length(net, x, target, at=1)
    parts, total = found.gradient.flatten(2), found.total.flatten(1)
    cosines = (parts * total).sum(2) / (parts.norm(dim=2) * total.norm(dim=1))
    torch.testing.assert_close(found.cosine, cosines)
    torch.testing.assert_close(found.share, (parts * total).sum(2) / (total * total).sum(1))
    torch.testing.assert_close(found.share.sum(0), torch.ones(3, dtype=torch.float64))


class Broadcast(nn.Module):
    """A block whose branch gives one number an example, added to every entry of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_a_branch_that_is_broadcast_over_the_stream() -> None:
    torch.manual_seed(0)
    net = unroll(nn.Sequential(nn.Linear(4, 3), Broadcast(), Broadcast(), nn.Linear(3, 3)).double().eval())
    x, target = tiny_batch()
    assert gradient_by_length(net, x, target).residual < 1e-12


ANALYSES = {
    "gradient": lambda net, x, y: gradient_by_length(net, x, y).gradient,
    "sampled": lambda net, x, y: paths.sample_path_gradients(net, x, y, draws=2).norms,
    "enumerated": lambda net, x, y: paths.enumerate_path_gradients(net, x, y).norms,
    "energy": lambda net, x, y: paths.path_energy(net, x, y, draws=2, columns=2).energy,
    "logits": lambda net, x, y: paths.logits_by_length(net, x).logits,
    "contributions": lambda net, x, y: paths.block_contributions(net, x).contributions,
    "lens": lambda net, x, y: paths.logit_lens(net, x).logits,
    "attribution": lambda net, x, y: paths.attribute_blocks(net, x, y, steps=3).values,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_an_analysis_changes_nothing(name: str, mode: type) -> None:
    net, (x, target) = tiny_network(4), tiny_batch()
    expected = ANALYSES[name](net, x, target)
    with mode():
        found = ANALYSES[name](net, x.clone(), target)  # in inference mode a tensor that autograd cannot keep
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_fingerprint_of_data_follows_every_entry_of_an_array() -> None:
    numbers = np.arange(2000)
    other = numbers.copy()
    other[1000] += 1  # in the part of which print shows dots
    assert len({fingerprint([value]) for value in (numbers, other, numbers.astype(float), numbers[None])}) == 4
    objects = [np.array(value, dtype=object) for value in ([1, "a"], [1, "b"])]
    assert fingerprint(objects[0]) != fingerprint(objects[1])
    assert fingerprint(np.array([1, "a"], dtype=object)) == fingerprint(objects[0])


class Sharing(nn.Module):
    """Weights in several places: two branches, a branch twice, shortcut and join, stem and head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.slope = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slope(self.a(x))
        x = torch.tanh(x + self.b(torch.tanh(self.b(x))))
        x = self.slope(self.c(x) + self.d(torch.sigmoid(self.b(x))))
        x = self.slope(x + torch.tanh(self.c(self.slope(x))))
        x = x + self.d(torch.sin(self.a(x)))
        return self.c(torch.tanh(self.a(x)))


@pytest.mark.parametrize("max_bytes", [1, None])
def test_parameters_in_several_places_get_the_sum_over_these(max_bytes: int | None) -> None:
    torch.manual_seed(0)
    net = unroll(Sharing().double().eval())
    x, target = torch.randn(3, 4, dtype=torch.float64), torch.arange(3)
    split = parameter_gradients_by_length(net, x, target, max_bytes=max_bytes)
    assert len(net) == 4
    for t in (1.0, 0.5, -2.0):
        for name, gradient in _with_gates(net, x, target, t).items():
            found = torch.tensordot(t ** split.lengths.double(), split.gradient[name], dims=1)
            torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)
    assert split.residual < 1e-12


class Conditioned(nn.Module):
    """A time step, which comes first, enters every branch; the blocks stand along x."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branches = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, time: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + torch.relu(branch(x) * torch.tanh(time))
        return x


@pytest.mark.parametrize("form", ["tuple", "dict", "dict the other way round"])
def test_the_gradient_is_that_of_the_input_along_which_the_blocks_stand(form: str) -> None:
    torch.manual_seed(0)
    net = unroll(Conditioned().double().eval())
    time, x = torch.randn(2, 3, 4, dtype=torch.float64)
    forms = {"tuple": (time, x), "dict": {"time": time, "x": x}, "dict the other way round": {"x": x, "time": time}}
    leaf = x.clone().requires_grad_()
    loss = F.cross_entropy(net.model(time, leaf), torch.arange(3), reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    found = gradient_by_length(net, forms[form], torch.arange(3))
    torch.testing.assert_close(found.gradient.sum(0), expected, rtol=1e-12, atol=1e-14)
    assert found.residual < 1e-12


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        gradient_by_length(tiny_network(3), torch.empty(0, 4, dtype=torch.float64), torch.empty(0, dtype=torch.long))


def test_parameters_that_are_single_numbers() -> None:
    """ReZero: x + a branch(x)."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(0.3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.scale * torch.tanh(self.branch(x))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 3)).double().eval()
    x = torch.randn(2, 4).double()
    split = parameter_gradients_by_length(unroll(model), x, torch.tensor([0, 2]))
    assert split.residual is not None
    assert split.residual < 1e-12
    torch.testing.assert_close(split.norms["1.scale"], split.gradient["1.scale"].abs())
