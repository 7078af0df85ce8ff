"""One module of several sizes."""

import pytest
import torch
from torch import nn

from resnet_paths import unroll
from resnet_paths.surgery import Refitter
from resnet_paths.tradeoff import Clock, Elastic, elastic

SETS = [[4], [4, 6], [1, 4, 6]]


@pytest.fixture(scope="module")
def made(model: nn.Module, images: torch.Tensor) -> Elastic:
    return elastic(unroll(model), SETS, images, clock=Clock(batch=4, seconds=0.01, rounds=2))


@pytest.mark.slow
def test_each_size_is_the_network_refitted_for_its_set(made: Elastic, model: nn.Module, images: torch.Tensor) -> None:
    refitter = Refitter(unroll(model), images)
    assert torch.equal(made(images), model(images))
    for level, dropped in enumerate(SETS, 1):
        made.level = level
        assert torch.equal(made(images), refitter(dropped).model(images))
        assert made.dropped[level] == tuple(unroll(model)[index].name for index in dropped)
    made.level = 0


def test_a_budget_takes_the_largest_size_within_it(made: Elastic) -> None:
    made.costs = (1.0, 0.9, 0.8, 0.6)
    for budget, level in ((1.0, 0), (5.0, 0), (0.95, 1), (0.9, 1), (0.7, 3), (0.6, 3)):
        made.budget = budget
        assert made.level == level
        assert made.budget == made.costs[level]
    with pytest.raises(ValueError, match=r"at least 0.6, the fastest size, got 0.5"):
        made.budget = 0.5
    assert made.level == 3
    for level in (4, -1):
        with pytest.raises(ValueError, match=rf"and 3, got {level}"):
            made.level = level
    assert made.level == 3
    made.level = 0


@pytest.mark.slow
def test_what_repairs_leave_is_held_once(made: Elastic, model: nn.Module, images: torch.Tensor) -> None:
    held = sum(parameter.numel() for parameter in made.parameters())
    alone = sum(parameter.numel() for size in made.sizes for parameter in size.parameters())
    assert held < 0.75 * alone
    assert made.own_weights[0] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert not {id(parameter) for parameter in model.parameters()} & {id(p) for p in made.parameters()}
    again = elastic(unroll(model), SETS, images, clock=Clock(batch=4, seconds=0.01, rounds=2))
    again.load_state_dict(made.state_dict())
    again.level = made.level = 2
    assert torch.equal(again(images), made(images))
    made.level = 0


def test_sets_that_are_not_nested_are_refused(model: nn.Module, images: torch.Tensor) -> None:
    for sets in ([[4], [6]], [[4, 6], [4]], [[4], [4]], [[], [4]]):
        with pytest.raises(ValueError, match="expected nested sets of blocks"):
            elastic(unroll(model), sets, images)
