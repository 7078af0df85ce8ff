"""Recalibrated statistics are those of all images, each with the same weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnet_paths.data import ImageData
from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import recalibrate_batchnorm


def norms_of(model: nn.Module) -> torch.Tensor:
    buffers = [b for name, b in model.named_buffers() if "running" in name]
    return torch.cat([buffer.flatten() for buffer in buffers]).clone()


def of_one_batch(make, x: torch.Tensor) -> torch.Tensor:
    """By torch itself: the running statistics that a single batch of all images leaves."""
    model = make()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(x)
    return norms_of(model)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_statistics_are_pooled_whatever_the_batches(sizes: list[int], seed: int) -> None:
    if sum(sizes) < 2:
        sizes = [2]
    generator = torch.Generator().manual_seed(seed)
    drift = torch.arange(sum(sizes), dtype=torch.float64)[:, None]  # batches differ: variance between them counts
    x = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) + drift
    norm = nn.BatchNorm1d(3).double()
    recalibrate_batchnorm(norm, x.split(sizes))
    assert torch.allclose(norm.running_mean, x.mean(0), rtol=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, x.var(0), rtol=1e-10)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(6, 1), (3, 3, 1), (2, 5), (7,)])
def test_exact_statistics_are_those_of_one_batch_at_every_depth(sizes: tuple[int, ...]) -> None:
    def make() -> nn.Module:
        return cifar_resnet(8, widths=(2, 3, 4), shortcut="B", seed=1).double()

    x = torch.randn(7, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = make().eval()
    recalibrate_batchnorm(model, list(x.split(sizes)), exact=True)
    assert torch.allclose(norms_of(model), of_one_batch(make, x), rtol=1e-10, atol=1e-12)
    plain = make().eval()
    recalibrate_batchnorm(plain, list(x.split(sizes)))
    same = torch.allclose(norms_of(plain), of_one_batch(make, x), rtol=1e-10, atol=1e-12)
    assert same == (sizes in [(7,), (6, 1)])  # one batch, or one that the image alone has joined
    assert torch.allclose(plain.bn1.running_var, model.bn1.running_var, rtol=1e-10)  # type: ignore[arg-type]


def test_a_last_batch_of_one_image_counts_as_one_image() -> None:
    """The whole is 601 images in hundreds: the last used to weigh as much as a hundred."""
    x = torch.zeros(601, 1, dtype=torch.float64)
    x[-1] = 601
    norm = nn.BatchNorm1d(1).double()
    recalibrate_batchnorm(norm, x.split(100))
    assert float(norm.running_mean) == pytest.approx(1.0, rel=1e-12)


def test_an_image_alone_joins_its_neighbour() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)).double()  # a single value a channel for 2x2 images
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    for batches in (x.split([4, 1]), x.split(1), x.split([1, 4]), x.split([1, 1, 3])):
        recalibrate_batchnorm(model, list(batches))
        assert torch.allclose(model[1].running_var, model[0](x).flatten(1).var(0), rtol=1e-10)
    before = norms_of(model)
    with pytest.raises(ValueError, match="at least two examples per batch"):
        recalibrate_batchnorm(model, [x[:1]])
    assert torch.equal(norms_of(model), before)


def test_sorted_images_come_in_a_random_order() -> None:
    """Files come class by class; a batch of one class would be normalised by that class's statistics."""
    images = torch.cat([torch.full((40, 1, 2, 2), float(k)) for k in range(4)]) + torch.randn(160, 1, 2, 2) / 100
    labels = torch.arange(4).repeat_interleave(40)
    data = ImageData(images, labels, tuple("abcd"), (0.0,), (1.0,), "sorted")
    shuffled = data.subset(torch.randperm(160, generator=torch.Generator().manual_seed(7)))

    def deeper(source: ImageData) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        recalibrate_batchnorm(model, source, batch_size=40)
        return model[4].running_var  # type: ignore[return-value]

    def in_file_order() -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        recalibrate_batchnorm(model, list(data.batches(40)))
        return model[4].running_var  # type: ignore[return-value]

    assert torch.allclose(deeper(data), deeper(shuffled), rtol=0.1)
    assert not torch.allclose(deeper(data), in_file_order(), rtol=0.1)


def test_a_norm_that_runs_twice_or_never() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) + self.norm(2 * x)

    model, x = Shared().double(), torch.randn(5, 2, dtype=torch.float64)
    model.unused.running_mean.fill_(3)  # type: ignore[union-attr]
    recalibrate_batchnorm(model, [x])
    assert torch.allclose(model.norm.running_mean, 1.5 * x.mean(0))  # type: ignore[arg-type]
    assert torch.allclose(model.norm.running_var, torch.cat([x, 2 * x]).var(0))  # type: ignore[arg-type]
    assert model.unused.running_mean.tolist() == [3, 3]  # type: ignore[union-attr]
