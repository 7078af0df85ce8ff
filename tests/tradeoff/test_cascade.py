"""A cascade answers as one of its networks does, computes what they share once, and keeps its promise."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnet_paths import unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.statistics import share_at_most
from resnet_paths.tradeoff import Cascade, Threshold, cascade, cascade_threshold
from resnet_paths.tradeoff.cascading import margin


@pytest.fixture(scope="module")
def made(model: nn.Module, images: torch.Tensor) -> Cascade:
    return cascade(unroll(model), [4, 6], images, images[:20], disagreement=0.5)


def with_margin(value: float) -> Threshold:
    return Threshold(value, 0.0, 0.0, 0.0, 1, 0.95)


@pytest.mark.slow
def test_each_image_is_answered_by_one_of_the_two(made: Cascade, model: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        full, small = model(images), made.refit.model(images)
    probabilities = small.softmax(1).topk(2, dim=1).values
    margins = probabilities[:, 0] - probabilities[:, 1]
    for threshold in (float("inf"), float(margins.median()), 0.0):
        made.threshold = with_margin(threshold)
        expected = torch.where((margins < threshold)[:, None], full, small)
        torch.testing.assert_close(made(images), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(made.deferred, margins < threshold)
    for one in images[:6].split(1):
        made.threshold = with_margin(float(margins.median()))
        assert torch.allclose(made(one), expected_alone(made, model, one), atol=1e-9)


def expected_alone(made: Cascade, model: nn.Module, one: torch.Tensor) -> Any:
    return model(one) if bool(made.deferred) else made.refit.model(one)


def test_what_both_share_runs_once(made: Cascade, images: torch.Tensor) -> None:
    assert made.shared == 3  # the block before the first that is dropped is refitted
    calls: list[str] = []
    watched = [name for name, module in made.full_model.named_modules() if isinstance(module, nn.Conv2d)]
    handles = [
        net.get_submodule(name).register_forward_hook(lambda *_, name=name, kind=kind: calls.append(f"{kind} {name}"))
        for kind, net in (("full", made.full_model), ("small", made.small_model))
        for name in watched
    ]
    fresh = cascade_of(made)
    fresh.threshold = with_margin(float("inf"))
    fresh(images[:3])
    for handle in handles:
        handle.remove()
    early = [call for call in calls if "layer1." in call or call.split()[1] == "conv1"]
    assert early
    assert all(call.startswith("full") for call in early)
    assert len(set(calls)) == len(calls)
    assert any(call.startswith("small layer2") for call in calls)


def cascade_of(made: Cascade) -> Cascade:
    """A cascade whose networks were followed while the hooks were there."""
    full, small = unroll(made.full_model), unroll(made.small_model)
    return Cascade(full, small, made.refit)


def test_equal_weights_are_stored_once(made: Cascade, images: torch.Tensor) -> None:
    both = {id(parameter) for parameter in made.parameters()}
    full = list(made.full_model.parameters())
    assert len(both) < 2 * len(full)
    assert 0 < made.own_weights < sum(parameter.numel() for parameter in full)


def test_the_model_is_left_unchanged_and_copies_give_the_same_answers(
    made: Cascade, model: nn.Module, images: torch.Tensor
) -> None:
    before = copy.deepcopy(model.state_dict())
    made.threshold = with_margin(0.5)
    expected = made(images)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(images), expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_nothing_dropped_is_the_full_network(model: nn.Module, images: torch.Tensor) -> None:
    whole = cascade(unroll(model), [], images, images[:40], disagreement=0.2)
    assert whole.shared == len(unroll(model))
    assert torch.allclose(whole(images), model(images), atol=1e-9)
    assert whole.threshold.margin == 0.0
    assert whole.threshold.disagreement == 0.0


class TokensFirst(nn.Module):
    """Blocks on values of (tokens, batch, width): a row is not an image, but in a batch of seven there are as many."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Linear(9, 5)) for _ in range(4))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1)
        for block in self.blocks:
            x = x + block(x + x.mean(0, keepdim=True))
        return self.head(x.mean(0))


@pytest.mark.slow
def test_images_are_distinguished_from_as_many_tokens() -> None:
    torch.manual_seed(0)
    model, x = TokensFirst().double().eval(), torch.randn(30, 7, 5, dtype=torch.float64)
    with torch.inference_mode():
        made = cascade(unroll(model), [2], x, x[:20], disagreement=0.9)
        full, small = model(x[:7]), made.refit.model(x[:7])
    made.threshold = with_margin(float(margin(small).median()))
    expected = torch.where((margin(small) < made.threshold.margin)[:, None], full, small)
    assert torch.allclose(made(x[:7]), expected, atol=1e-9)
    assert 0 < int(made.deferred.sum()) < 7


# the threshold


def test_the_bound_is_the_exact_one_on_all_images() -> None:
    generator = np.random.default_rng(0)
    margins = generator.random(2000)
    same = generator.random(2000) < 0.9 + 0.1 * margins
    found = cascade_threshold(margins, same, disagreement=0.03)
    taken = margins >= found.margin
    wrong = int((taken & ~same).sum())
    assert found.disagreement == wrong / 2000
    assert found.answered == taken.mean()
    assert found.at_most == share_at_most(wrong, 2000, 0.95) <= 0.03
    tighter = cascade_threshold(margins, same, disagreement=0.01)
    assert tighter.margin > found.margin


def test_too_few_images_show_nothing() -> None:
    found = cascade_threshold(np.ones(50), np.ones(50, bool), disagreement=0.01)
    assert found.margin == float("inf")
    assert found.answered == 0.0
    with pytest.raises(ValueError, match="expected one margin and one answer per example"):
        cascade_threshold(np.ones(5), np.ones(4, bool))


@pytest.mark.slow
def test_the_promise_is_kept_as_often_as_said() -> None:
    """In 500 draws of images of a known population the true disagreement exceeds the share in at most 5 % of them."""
    share, draws, generator = 0.03, 500, np.random.default_rng(1)
    margins = generator.random(20000)
    same = generator.random(20000) < 1 - 0.2 * (1 - margins)
    broken = 0
    for _ in range(draws):
        drawn = generator.integers(0, 20000, 600)
        found = cascade_threshold(margins[drawn], same[drawn], disagreement=share)
        broken += (~same & (margins >= found.margin)).mean() > share
    assert broken / draws < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
    assert broken > 0  # the bound is near: a test that can fail


@pytest.mark.slow
def test_that_nothing_is_shown_is_said(model: nn.Module, images: torch.Tensor) -> None:
    net = unroll(model)
    with pytest.warns(UserWarning, match=r"20 of them do not show that at most 1.00% .*; give at least 299$"):
        few = cascade(net, [4], images, images[:20])
    assert torch.allclose(few(images), model(images), atol=1e-9)
    assert bool(few.deferred.all())
    few.small_model.linear.weight = nn.Parameter(-1000 * few.small_model.linear.weight)
    with pytest.warns(UserWarning, match="60 of them do not show .*; drop fewer blocks, or allow more"):
        few.calibrate(images, disagreement=0.06)


@pytest.mark.parametrize("classes", [1, (2, 2)])
def test_other_outputs_than_logits_are_refused(classes: Any) -> None:
    made = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), num_classes=1 if classes == 1 else 4, seed=0)
    head = nn.Identity() if classes == 1 else nn.Unflatten(1, classes)
    made.linear = nn.Sequential(made.linear, head)
    x = torch.randn(12, 1, 8, 8)
    with pytest.raises(ValueError, match=r"expected logits of shape \(batch, classes\) with at least two classes, got"):
        cascade(unroll(made.eval()), [1], x, x)
