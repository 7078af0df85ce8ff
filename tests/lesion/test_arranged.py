"""Layers skipped, swapped, repeated and run in parallel, against calling the modules of the model one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import arrangements, middle_arrangements
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.statistics import intervals

QUIET = {"progress": False}


def images(count: int, side: int) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(pixels, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random", torch.float64)


def first_logit(logits, labels, full):
    return logits[:, 0]


def run(layers: list[Callable], steps, value: torch.Tensor, post: Callable = lambda x: x) -> torch.Tensor:
    for step in steps.tolist() if isinstance(steps, torch.Tensor) else steps:
        parallel = (step,) if isinstance(step, int) else step
        value = post(torch.stack([layers[layer](value) for layer in parallel]).mean(0))
    return value


def summed(block: nn.Module) -> Callable:
    """A block without the activation at its end."""
    return lambda x: block.shortcut(x) + block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


def convolutional() -> tuple[nn.Module, Callable, int]:
    """Nine layers in three stages; layers 3 and 6 change the shape."""
    model = randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0)).eval().double()
    layers = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]

    def literal(x: torch.Tensor, steps) -> torch.Tensor:
        out = run([summed(layer) for layer in layers], steps, F.relu(model.bn1(model.conv1(x))), F.relu)
        return model.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))

    return model, literal, 8


def transformer() -> tuple[nn.Module, Callable, int]:
    """Four layers of two blocks each."""
    torch.manual_seed(0)
    model = randomise_norms(VisionTransformer(16, 8, 4, 2, 16, 32, num_classes=10)).eval().double()
    nn.init.normal_(model.heads.head.weight)
    layers = list(model.encoder.layers)

    def literal(x: torch.Tensor, steps) -> torch.Tensor:
        tokens = model._process_input(x)
        tokens = torch.cat([model.class_token.expand(len(x), -1, -1), tokens], 1) + model.encoder.pos_embedding
        return model.heads(model.encoder.ln(run(layers, steps, tokens))[:, 0])

    return model, literal, 16


CONVOLUTIONAL = {
    "itself": [*range(9)],
    "swap": [0, 2, 1, *range(3, 9)],
    "first skipped": [*range(1, 9)],
    "stage skipped": [*range(3, 9)],
    "its blocks after the projection skipped": [0, 1, 2, 3, 6, 7, 8],
    "parallel": [(0, 1, 2), 3, (4, 5), 6, (7, 8)],
    "looped": [0, (1, 2), (1, 2), (1, 2), 3, 4, 5, 6, 7, 8],
    "longer": [0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 7, 8],
    "in a tensor": torch.tensor([0, 2, 1, *range(3, 9)]),
}
TRANSFORMER = {
    "itself": [0, 1, 2, 3],
    "all skipped": [],
    "swap": [0, 2, 1, 3],
    **middle_arrangements(4, 1, 3, loops=2, seed=1),
}


@pytest.mark.parametrize(("build", "arranged"), [(convolutional, CONVOLUTIONAL), (transformer, TRANSFORMER)])
def test_modules_called_one_by_one(build: Callable, arranged: dict) -> None:
    model, literal, side = build()
    data = images(5, side)
    record = arrangements(unroll(model), data, arranged, metric=first_logit, batch_size=3, **QUIET)
    with torch.no_grad():
        full = model(data.x)[:, 0]
        for row, steps in enumerate(arranged.values()):
            expected = literal(data.x, steps)[:, 0].numpy()
            assert np.allclose(record.per_image[1 + row], expected, rtol=0, atol=1e-10), record.names[row]
            assert np.ptp(expected) > 1e-3 or not len(
                steps
            )  # without layers, the class token cannot depend on the image
            if record.names[row] != "itself":
                assert not np.allclose(expected, full, atol=1e-3)
    assert np.allclose(record.per_image[0], full, rtol=0, atol=1e-10)
    assert list(record.to_pandas().arrangement) == list(arranged)
    assert np.allclose(record.values, record.per_image[1:].mean(1))
    low, high = record.damage_interval()
    kept = list(arranged).index("itself")
    assert list(record.values - record.full)[kept] == pytest.approx(0, abs=1e-9)
    expected = intervals(record.per_image[1:] - record.per_image[0])
    for ends, others in zip((low, high), expected, strict=True):
        assert np.allclose(np.delete(ends, kept), np.delete(others, kept)), "differences are paired by image"


def test_layers_stay_where_their_shape_puts_them() -> None:
    model, _, side = convolutional()
    net, data = unroll(model), images(2, side)
    for steps, message in (
        ([0, 1, 2, 4, 3, 5, 6, 7, 8], "others stay in their places"),
        ([0, 1, 4, 3, 2, 5, 6, 7, 8], "trade places"),
        ([*range(3), *range(4, 9)], "trade places"),
        ([0, 1, (2, 3), *range(4, 9)], "trade places"),
        ([*range(10)], "layers from 0 to 8 in arrangement 'a'"),
        ([*range(8), -1], "layers from 0 to 8 in arrangement 'a'"),
        ([0, (), *range(1, 9)], "layers from 0 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            arrangements(net, data, {"a": steps}, **QUIET)
    with pytest.raises(ValueError, match="at least one arrangement"):
        arrangements(net, data, {}, **QUIET)
    with pytest.raises(ValueError, match="two or more layers among the 5"):
        middle_arrangements(5, 3, 5)


def test_what_is_not_the_same_everywhere_is_refused() -> None:
    model = randomise_norms(cifar_resnet(20, widths=(4, 6, 8), preactivation=True, seed=0)).eval().double()
    with pytest.raises(ValueError, match="the same operations between all layers"):
        arrangements(unroll(model), images(2, 8), {"swap": [0, 2, 1, *range(3, 9)]}, **QUIET)


def test_the_usual_arrangements_are_those_of_the_paper() -> None:
    ways = middle_arrangements(7, 1, 5, loops=2)
    assert ways["skipped"] == [0, 6]
    assert ways["middle repeated"] == [0, 3, 3, 3, 3, 3, 6]
    assert ways["reversed"] == [0, 5, 4, 3, 2, 1, 6]
    assert ways["looped parallel"] == [0, (1, 2, 3, 4, 5), (1, 2, 3, 4, 5), 6]
    assert sorted(ways["random order"]) == list(range(7))
    assert ways["random order"] != list(range(7))
