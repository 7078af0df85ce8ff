"""Every image is trained on, none alone, and whatever a model returns."""

from __future__ import annotations

import sys
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resnet_paths.data import ImageData
from resnet_paths.data.batches import training_slices
from resnet_paths.models import cifar_resnet, load_checkpoint
from resnet_paths.tradeoff import Distillation, distil
from resnet_paths.training import Recipe, error_rate, read_trajectory, train

Outputs = namedtuple("Outputs", ["loss", "logits", "aux"])


def images(count: int) -> ImageData:
    x = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return ImageData(x, torch.arange(count) % 3, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, "noise")


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_run_of_a_wrapped_model_is_read_and_resumes(tmp_path, wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where there is a GPU, DataParallel would move the model to it, whose numbers are not those of the CPU bit by bit.
    monkeypatch.setattr(sys.modules[nn.DataParallel.__module__], "_get_available_device_type", lambda: None)

    def make() -> nn.Module:
        return cifar_resnet(8, widths=(2, 2, 2), num_classes=3, seed=0)

    options = {"folder": tmp_path, "keep": "all", "progress": False}
    recipe = Recipe(epochs=2, batch_size=4, shift=0, flip=False)

    def stop(epoch: int, model: nn.Module) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(wrap(make()), images(8), recipe, after_epoch=stop, **options)
    trained = wrap(make())
    assert len(train(trained, images(8), recipe, **options)) == 2
    last = tmp_path / "epoch-0002.safetensors"
    for again in (load_checkpoint(last), load_checkpoint(last, make()), load_checkpoint(last, wrap(make()))):
        assert torch.equal(again(images(2).x), trained(images(2).x))
    whole = make()
    train(whole, images(8), recipe, progress=False)
    assert torch.equal(whole.linear.weight, load_checkpoint(last).linear.weight)
    assert read_trajectory(tmp_path).matrix(["linear.weight"]).shape == (3, 6)


@given(st.integers(1, 300), st.integers(1, 40))
def test_slices_for_training(length: int, size: int) -> None:
    parts = training_slices(length, size)
    sizes = [part.stop - part.start for part in parts]
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(length))
    assert set(sizes[:-1]) <= {size}
    assert sizes[-1] <= size + 1
    assert size == 1 or length == 1 or min(sizes) > 1


@pytest.mark.parametrize("count", [4, 5, 9])
def test_no_image_is_trained_on_alone(count: int) -> None:
    """The last map of these images is 1x1: of a single image a norm would see a single value."""
    model = cifar_resnet(8, widths=(2, 2, 2), num_classes=3, seed=0)
    steps: list[int] = []
    model.register_forward_pre_hook(lambda module, args: steps.append(len(args[0])) if module.training else None)
    train(model, images(count), Recipe(epochs=1, batch_size=4, shift=0), progress=False)
    assert sum(steps) == count
    assert min(steps) > 1
    steps.clear()
    teacher = cifar_resnet(8, widths=(2, 2, 2), num_classes=3).eval()
    distil(model, teacher, images(count), settings=Distillation(1, batch_size=4))
    assert sum(steps) == count
    assert min(steps) > 1


class Wrapped(nn.Module):
    """A model that returns its logits in its own format."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.inner, self._form = cifar_resnet(8, widths=(2, 2, 2), num_classes=3, seed=0), form

    def forward(self, x: torch.Tensor) -> Any:
        return self._form(self.inner(x), self.training)


@pytest.mark.parametrize(
    "form",
    [
        lambda logits, training: (logits, logits.exp()),
        lambda logits, training: {"aux": logits.exp(), "logits": logits},
        lambda logits, training: Outputs(None, logits, logits.exp()),
        lambda logits, training: Outputs(None, logits, None) if training else logits,  # as GoogLeNet does
    ],
    ids=["tuple", "dict", "named", "in training alone"],
)
def test_a_model_trains_whatever_it_returns(form: Any) -> None:
    data, recipe = images(8), Recipe(epochs=1, batch_size=4, shift=0, flip=False)
    plain, wrapped = cifar_resnet(8, widths=(2, 2, 2), num_classes=3, seed=0), Wrapped(form)
    expected = train(plain, data, recipe, test=data, progress=False)
    assert train(wrapped, data, recipe, test=data, progress=False) == expected
    assert error_rate(wrapped, data) == error_rate(plain, data)


def test_hugging_face_models_train() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config)
    before = model.classifier[1].weight.clone()
    rows = train(model, images(4), Recipe(epochs=1, batch_size=2, shift=0, learning_rate=0.01), progress=False)
    assert torch.isfinite(torch.tensor(rows[-1]["loss"]))
    assert not torch.equal(model.classifier[1].weight, before)
