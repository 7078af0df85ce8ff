"""Models with several outputs: analyses follow the output that the network follows, or refuse it in one line."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from references.other_data import case
from resnet_paths import unroll
from resnet_paths.data import Examples, ImageData, digits
from resnet_paths.landscape import curvature_operator, eigenvalue_surface, loss_surface, random_direction
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrollError
from resnet_paths.tradeoff import Clock, Count, Distillation, Greedy, ImageSplit, NoRepair, distil, plan_drop


class Both(nn.Module):
    """Returns other numbers first, of the same shape as the logits that count."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=0)
        self.other = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.inner(x)
        return self.other(logits), logits


@pytest.fixture(scope="module")
def few() -> ImageData:
    return digits("test").subset(slice(0, 24))


@pytest.fixture
def both() -> Both:
    torch.manual_seed(0)
    return Both().eval()


@pytest.mark.slow
def test_a_plan_judges_by_the_output_that_the_network_follows(both: Both, few: ImageData) -> None:
    net = unroll(both, few.x[:2], output=1)
    options = {"clock": Clock(batch=2, seconds=0.0, rounds=1), "progress": False, "repair": NoRepair()}
    others = digits("train").subset(slice(0, 4))
    split = ImageSplit(search=few, certify=others)
    plan = plan_drop(net, few, goal=Count(1), search=Greedy(metric="loss"), split=split, **options)
    with torch.no_grad():
        first, logits = (float(F.cross_entropy(logits, few.labels)) for logits in both(few.x))
    assert plan.points[0].loss == pytest.approx(logits, rel=1e-4)
    assert plan.points[0].loss != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize(("output", "taught"), [(1, False), (0, True)])
def test_a_student_is_taught_by_the_output_that_the_teachers_network_follows(
    both: Both, few: ImageData, output: int, taught: bool
) -> None:
    student = copy.deepcopy(both)
    distil(student, unroll(both, few.x[:2], output=output), few, settings=Distillation(epochs=1))
    assert torch.equal(student.other.weight, both.other.weight) != taught
    assert not torch.equal(student.inner.conv1.weight, both.inner.conv1.weight)


REFUSED: dict[str, Callable[..., object]] = {
    "curvature_operator": lambda net, data: curvature_operator(net, data),
    "loss_surface": lambda net, data: loss_surface(net, data, directions=random_direction(net.model)),
    "eigenvalue_surface": lambda net, data: eigenvalue_surface(net, data, directions=random_direction(net.model)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_losses_of_a_model_are_of_its_main_output_so_that_others_are_refused(
    name: str, both: Both, few: ImageData
) -> None:
    with pytest.raises(UnrollError, match=r"got one that uses \[1\]"):
        REFUSED[name](unroll(both, few.x[:2], output=1), few)


def test_masks_of_two_classes_are_planned_by_their_pixels() -> None:
    one = case("masks", 20)
    model = torch.nn.Sequential(*list(one.model)[:-1], torch.nn.Conv2d(4, 2, 1)).double().eval()
    data = Examples(one.data.inputs, (one.data.targets == 1).long())
    net = unroll(model, data.x[:2])
    plan = plan_drop(net, data, goal=Count(1), clock=Clock(batch=2, seconds=0.0), progress=False)
    assert plan.metric == "pixel_loss"
