"""Whether images are those of which a model keeps statistics, and which variant of them is."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnet_paths.data import ImageData, digits
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.surgery import recalibrate_batchnorm
from resnet_paths.tradeoff import as_in_training, statistics_gap
from resnet_paths.training import augment, augmented

pytestmark = pytest.mark.slow


def coloured(count: int = 6) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageData(pixels, torch.arange(count) % 3, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), "noise")


@settings(max_examples=15, deadline=None)
@given(shift=st.integers(0, 3), flip=st.booleans(), copies=st.integers(1, 3), seed=st.integers(0, 99))
def test_augmented_pixels_are_the_normalised_images_moved_over_black(shift, flip, copies, seed) -> None:
    data = coloured()
    found = augmented(data, shift, flip, copies=copies, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    black = (torch.zeros(3) - torch.tensor(data.mean)) / torch.tensor(data.std)
    expected = torch.cat([augment(data.x, shift, flip, generator, black) for _ in range(copies)])
    assert torch.allclose(found.x, expected, atol=1e-6)
    assert found.labels.tolist() == data.labels.tolist() * copies
    assert found.images.dtype == torch.uint8
    outside = (expected - black.view(-1, 1, 1)).abs().amax(1) < 1e-6
    assert torch.equal((found.images == 0).all(1), outside)  # the noise itself has no black pixel


def test_the_gap_is_that_of_the_moments() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double().eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    x = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    found = statistics_gap(model, [x])
    values = model[0](x).transpose(0, 1).flatten(1).detach()
    old, new = (var + model[1].eps for var in (model[1].running_var, values.var(1)))
    assert found.norms == ("1",)
    assert found.shift[0] == pytest.approx(float(((values.mean(1) - model[1].running_mean).abs() / old**0.5).mean()))
    assert found.scale[0] == pytest.approx(float((new / old).log().abs().mean()))
    assert list(found.to_pandas().columns) == ["norm", "shift", "scale"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    recalibrate_batchnorm(model, [x])
    assert statistics_gap(model, [x]).mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("flip", [False, True])
def test_the_variant_of_which_the_statistics_are_is_found(shift: int, flip: bool) -> None:
    model = cifar_resnet(8, in_channels=1, widths=(8, 8, 8), seed=1).eval()
    images = digits("train")
    recalibrate_batchnorm(model, [x for x, _ in augmented(images, shift, flip, copies=3, seed=5).batches(200)])
    before = copy.deepcopy(model.state_dict())
    found = as_in_training(model, images, images=1352, copies=2)
    words = [f"shifted by up to {shift} pixels"] * shift + ["mirrored"] * flip
    assert found.name == ", ".join(["digits (train)", *([" and ".join(words)] if words else [])])
    assert len(found) == len(images) * (2 if words else 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_recalibrating_the_whole_network_costs_nothing_on_images_as_in_training() -> None:
    model, test = load_model("embedded"), digits("test").subset(slice(0, 100))
    train = digits("train").subset(slice(0, 400))
    errors, gaps = [], []
    for images in (as_in_training(model, train), train):
        other = copy.deepcopy(model)
        recalibrate_batchnorm(other, [x for x, _ in images.batches(100)])
        with torch.no_grad():
            errors.append(float((other(test.x) - model(test.x)).square().mean()))
        gaps.append(statistics_gap(model, [x for x, _ in images.batches(100)]).mean)
    assert gaps[0] < gaps[1] / 2
    assert errors[0] < errors[1] / 2


def test_without_norms_and_wrong_use() -> None:
    plain, data = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), coloured()
    assert as_in_training(plain, data) is data
    assert np.isclose(statistics_gap(plain, []).mean, 0)
    with pytest.raises(ValueError, match="copies to be an integer of at least 1"):
        augmented(data, copies=0)
    with pytest.raises(ValueError, match="shift to be an integer of at least 0"):
        augmented(data, -1)
    with pytest.raises(ValueError, match="at least one batch"):
        statistics_gap(nn.Sequential(nn.BatchNorm1d(3)), [])
