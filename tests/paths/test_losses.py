"""Losses by name on targets of any form, beside the same written out by hand; and single examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths import unroll
from resnet_paths.network import UnrolledNetwork
from resnet_paths.paths import (
    attribute_blocks,
    enumerate_path_gradients,
    gradient_by_length,
    parameter_gradients_by_length,
    path_energy,
    sample_path_gradients,
)
from resnet_paths.provenance import fingerprint

WIDTH, WORDS = 6, 7


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.layer(self.norm(x)))


class Model(nn.Module):
    """Three blocks between a stem and a head: `form` says what goes in and comes out."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.stem = nn.Embedding(WORDS, WIDTH) if form == "tokens" else nn.Linear(4, WIDTH)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(WIDTH, 1 if form in ("numbers", "flags") else WORDS)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.stem(input_ids)
        out = self.head(self.blocks(x))
        if self.form in ("numbers", "flags"):
            return out[:, 0]
        return out.permute(0, 3, 1, 2) if self.form == "pixels" else out


def numbers(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (out - target) ** 2


def flags(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(torch.where(target, -out, out)))


def pixels(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(out, target, reduction="none", ignore_index=-100)
    return losses.sum((1, 2)) / (target != -100).sum((1, 2))


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def tokens(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    means = []
    for scores, labels, mask in zip(out, target, MASK[-len(out) :], strict=True):
        counts = [place for place in range(1, 5) if mask[place] and labels[place] != -100]
        losses = [-scores[place - 1].log_softmax(0)[labels[place]] for place in counts]
        means.append(torch.stack(losses).mean())
    return torch.stack(means)


def _case(form: str) -> tuple[UnrolledNetwork, Any, torch.Tensor, str, Callable[..., torch.Tensor]]:
    torch.manual_seed(0)
    model = Model(form).double().eval()
    if form == "numbers":
        x, target, name, literal = torch.randn(3, 4).double(), torch.randn(3).double(), "squared_error", numbers
    elif form == "flags":
        x, target, name, literal = (
            torch.randn(3, 4).double(),
            torch.tensor([True, False, True]),
            "multilabel_loss",
            flags,
        )
    elif form == "pixels":
        x, target, name, literal = (
            torch.randn(3, 5, 2, 4).double(),
            torch.randint(WORDS, (3, 5, 2)),
            "pixel_loss",
            pixels,
        )
        target[1, 2:] = -100
    else:
        words = torch.randint(WORDS, (3, 5))
        target = words.clone()
        target[0, 2] = -100
        x, name, literal = {"input_ids": words, "attention_mask": MASK}, "next_token_loss", tokens
    return unroll(model, x), x, target, name, literal


@pytest.mark.parametrize("form", ["numbers", "flags", "pixels", "tokens"])
def test_a_loss_by_name_is_the_mean_of_each_example_summed(form: str) -> None:
    net, x, target, name, literal = _case(form)
    split = gradient_by_length(net, x, target, at=0, loss=name)
    assert split.loss == name
    model = net.model
    entry_values: list[torch.Tensor] = []
    handle = model.blocks.register_forward_pre_hook(lambda module, args: entry_values.append(args[0]))
    try:
        out = model(**x) if isinstance(x, dict) else model(x)
    finally:
        handle.remove()
    (expected,) = torch.autograd.grad(literal(out, target).sum(), entry_values)
    torch.testing.assert_close(split.total, expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(split.gradient.sum(0), expected, rtol=1e-10, atol=1e-14)
    # the other path analyses have the same loss
    every = enumerate_path_gradients(net, x, target, at=0, loss=name, keep_gradients=True)
    assert every.gradient is not None
    torch.testing.assert_close(every.gradient.sum(0), expected, rtol=1e-10, atol=1e-14)
    energy = path_energy(net, x, target, at=0, loss=name).energy[0]
    torch.testing.assert_close(energy, every.energy_by_length()[0])  # one path has no branch: exact
    assert sample_path_gradients(net, x, target, at=0, loss=name, draws=3).loss == name
    parameters = parameter_gradients_by_length(net, x, target, loss=name)
    out = model(**x) if isinstance(x, dict) else model(x)
    (bias,) = torch.autograd.grad(literal(out, target).sum(), [model.blocks[1].layer.bias])
    torch.testing.assert_close(parameters.total["blocks.1.layer.bias"], bias, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("form", ["pixels", "tokens"])
def test_an_example_has_the_same_gradient_alone(form: str) -> None:
    """A mean over the positions of all examples would weigh each by the others' lengths."""
    net, x, target, name, _ = _case(form)
    last = {key: value[2:] for key, value in x.items()} if isinstance(x, dict) else x[2:]
    alone = gradient_by_length(net, last, target[2:], at=0, loss=name)
    together = gradient_by_length(net, x, target, at=0, loss=name)
    torch.testing.assert_close(together.gradient[:, 2:], alone.gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("cross_entropy", "'squared_error' or 'next_token_loss'"),
        ("logit", "'squared_error' or 'next_token_loss'"),
        ("next_token_loss", "squared_error"),
        ("divergence", "compares with the full network"),
        ("perplexity", "mean over samples or positions"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss: Any, message: str) -> None:
    net, x, target, _, _ = _case("numbers")
    with pytest.raises(ValueError, match=message):
        gradient_by_length(net, x, target, loss=loss)


def test_a_loss_without_gradient_is_refused() -> None:
    torch.manual_seed(0)
    net = unroll(nn.Sequential(nn.Linear(4, WIDTH), Block(), nn.Linear(WIDTH, WORDS)).eval())
    with pytest.raises(ValueError, match="without gradient"):
        gradient_by_length(net, torch.randn(3, 4), torch.tensor([0, 1, 2]), loss="error")


def test_one_example_and_one_class_for_all() -> None:
    """One element expanded from a single number has a stride of zero, of which a fingerprint is taken as of any."""
    torch.manual_seed(0)
    net = unroll(nn.Sequential(nn.Linear(4, WIDTH), Block(), nn.Linear(WIDTH, WORDS)).eval())
    x = torch.randn(1, 4)
    found = attribute_blocks(net, x, 2)
    assert torch.equal(found.values, attribute_blocks(net, x, torch.tensor([2])).values)
    assert gradient_by_length(net, x, torch.tensor(2)).residual < 1e-5
    for dtype in (torch.float32, torch.int64, torch.bfloat16, torch.bool, torch.complex64):
        one = torch.ones((), dtype=dtype)
        assert fingerprint(one.expand(1)) == fingerprint(torch.ones(1, dtype=dtype))
