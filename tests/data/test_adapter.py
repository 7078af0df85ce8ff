"""Every container of labelled images gives the same images, and every function that takes images accepts it."""

from __future__ import annotations

import random
from collections import UserDict, deque
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from resnet_paths import unroll
from resnet_paths.data import ImageData, as_batches, as_data, as_examples
from resnet_paths.landscape import curvature_operator, gate_path, loss_surface, random_direction
from resnet_paths.lesion import (
    block_values,
    damage_predictors,
    path_ensemble,
    random_deletions,
    reorderings,
    shortcut_deletions,
    single_deletions,
    stage_deletions,
)
from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import recalibrate_batchnorm
from resnet_paths.tradeoff import (
    Clock,
    Count,
    Distillation,
    ImageSplit,
    NoRepair,
    as_in_training,
    distil,
    measure_latency,
    plan_drop,
    statistics_gap,
)
from resnet_paths.training import Recipe, augmented, error_rate, train

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(7, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1, 0, 2, 1])


class Items(Dataset):
    """A data set whose items are a function of the index."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        if index >= len(X):
            raise IndexError
        return self._make(index)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def batches(make: Any = lambda part: (X[part], Y[part])) -> list[Any]:
    return [make(slice(0, 4)), make(slice(4, 7))]


SOURCES: dict[str, Any] = {
    "pair": lambda: (X, Y),
    "list of two": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "channels last": lambda: (X.permute(0, 2, 3, 1).numpy(), Y.numpy()),
    "labels in a column": lambda: (X, Y[:, None]),
    "one-hot": lambda: (X, nn.functional.one_hot(Y)),
    "one-hot floats": lambda: (X.numpy(), np.eye(3)[Y]),
    "small integers": lambda: (X, Y.to(torch.uint8)),
    "unsigned numpy": lambda: (X.numpy(), Y.numpy().astype(np.uint16)),
    "reversed array": lambda: (X.flip(0).numpy()[::-1], Y.numpy()),
    "other byte order": lambda: (X.numpy().astype(">f8"), Y.numpy().astype(">i8")),
    "data set": lambda: TensorDataset(X, Y),
    "subset": lambda: Subset(TensorDataset(X, Y), range(7)),
    "data set of dicts": lambda: Items(lambda i: {"image": X[i], "label": int(Y[i])}),
    "data set of three": lambda: Items(lambda i: (X[i], Y[i], i)),
    "data set of one-hot": lambda: Items(lambda i: (X[i].numpy(), np.eye(3)[Y[i]])),
    "stream": Stream,
    "loader": lambda: DataLoader(TensorDataset(X, Y), 3),
    "loader of a stream": lambda: DataLoader(Stream(), 3),
    "loader of dicts": lambda: DataLoader(Items(lambda i: {"img": X[i], "fine_label": Y[i]}), 3),
    "loader of three": lambda: DataLoader(Items(lambda i: (X[i], Y[i], i)), 2),
    "loader of other keys": lambda: DataLoader(Items(lambda i: {"scan": X[i], "diagnosis": Y[i], "dose": 0.5}), 2),
    "batches": batches,
    "generator": lambda: (batch for batch in batches()),
    "deque": lambda: deque(batches()),
    "samples": lambda: list(zip(X, Y, strict=True)),
    "mappings": lambda: batches(lambda part: UserDict(pixel_values=X[part], labels=Y[part])),
    "one mapping": lambda: {"x": X, "y": Y},
    "batches of lists": lambda: batches(lambda part: [X[part], Y[part].tolist()]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_images(kind: str) -> None:
    data = as_data(SOURCES[kind]())
    assert torch.equal(data.x, X)  # floats are what the model reads, to the last bit
    assert torch.equal(data.labels, Y)
    assert data.classes == ("0", "1", "2")


def test_images_stay_what_they_are() -> None:
    data = as_data((X, Y), name="seven")
    assert as_data(data) is data
    assert data.name == "seven"
    assert as_data(data, classes=("a", "b", "c")).classes == ("a", "b", "c")
    assert len(as_data(DataLoader(TensorDataset(X, Y), 3), limit=4)) == len(as_data(data, limit=4)) == 4


def test_pictures_and_their_normalisation() -> None:
    pixels = (torch.arange(7 * 4 * 4 * 3) % 256).reshape(7, 4, 4, 3).to(torch.uint8).numpy()
    pictures = Items(lambda i: (Image.fromarray(pixels[i]), int(Y[i])))
    data = as_data(pictures, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.allclose(data.x, (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    with pytest.raises(TypeError, match="normalisation is not known; pass mean and std"):
        as_data(pictures)
    grey = as_data((X[:, 0], Y))
    assert grey.images.shape == (7, 1, 8, 8)


def test_names_of_classes_and_a_loaders_order() -> None:
    source = TensorDataset(X, Y)
    source.classes = ["ant", "bee", "cow"]  # type: ignore[attr-defined]
    state = torch.get_rng_state()
    data = as_data(DataLoader(Subset(source, [2, 0, 1]), 2, shuffle=True))
    assert data.classes == ("ant", "bee", "cow")
    assert torch.equal(torch.get_rng_state(), state)  # an order was drawn, without changing the random state

    def drawn(index: int) -> Any:
        return X[index] + random.random() + float(np.random.rand()) + torch.rand(1), Y[index]

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    as_data(Items(drawn))
    as_examples(Items(lambda index: (*drawn(index)[:1], torch.ones(2))))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert as_data(source, classes=("x", "y", "z")).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "got NoneType"),
        (3, "got int"),
        ("digits", r"pass load_data\('digits'\)"),
        (X, "got Tensor"),
        (nn.Sequential(nn.ReLU()), "got Sequential"),
        ([], "got none; is the iterator exhausted"),
        ((X, Y[:5]), "got 7 images and 5 labels"),
        ((Y, X), "images of 3 or 4 dimensions"),
        ((X, Y.double()), r"convert them with \.long\(\)"),
        ((X, Y - 1), "marks images without a label"),
        ((X, torch.ones(7, 3)), "several classes of an image"),
        ((X, torch.full((7, 4), 0.25)), "soft labels"),
        ((X, torch.randn(7, 3)), "neither class numbers nor one-hot"),
        (((X * 9).long(), Y), "whose white is not known"),
        ([(X[:2], Y[:2]), (X[2:, :, 1:], Y[2:])], "got 2 sizes"),
        ([{"scan": X, "other": X, "labels": Y}], "image= and label="),
        ([(X,)], "got tuple of 1; labels are required"),
        ([X, X], "expected"),
        ((X, list("abcabca")), "for classes their indices"),
        ((X.to_sparse(), Y), "a dense tensor"),
        ((X.to("meta"), Y), "that holds all values"),
        ((np.ma.masked_less(X.numpy(), 0), Y), "masked entries"),
        (pd.DataFrame({"pixel": [1, 2], "label": [0, 1]}), "got DataFrame; pass arrays"),
    ],
)
def test_anything_but_labelled_images_is_refused_in_one_line(source: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as error:
        as_data(source)
    assert "\n" not in str(error.value)


MODEL = cifar_resnet(8, widths=(2, 2, 4), num_classes=3, seed=0).double().eval()
NET = unroll(MODEL)
OTHERS = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(9)), torch.tensor([0, 1, 2, 0]))
QUIET = {"progress": False}
DIRECTION = random_direction(MODEL)


def fresh() -> nn.Module:
    return cifar_resnet(8, widths=(2, 2, 4), num_classes=3, seed=0).double().eval()


def recalibrated(source: Any) -> torch.Tensor:
    model = fresh()
    recalibrate_batchnorm(model, source)
    return model.bn1.running_var


TAKERS: dict[str, Any] = {
    "single_deletions": lambda s: single_deletions(NET, s, metric="loss", **QUIET).values,
    "shortcut_deletions": lambda s: shortcut_deletions(NET, s, metric="loss", **QUIET).values,
    "random_deletions": lambda s: random_deletions(NET, s, [1], draws=1, metric="loss", **QUIET).values,
    "stage_deletions": lambda s: stage_deletions(NET, s, draws=1, metric="loss", **QUIET).full_stage,
    "reorderings": lambda s: (
        reorderings(
            unroll(cifar_resnet(14, widths=(2, 2, 2), num_classes=3, seed=0).double().eval()), s, [1], draws=1, **QUIET
        ).values
    ),
    "block_values": lambda s: block_values(NET, s, **QUIET).values,
    "path_ensemble": lambda s: path_ensemble(NET, s, 2, **QUIET).probabilities,
    "damage_predictors": lambda s: damage_predictors(NET, s, **QUIET).values["taylor"],
    "loss_surface": lambda s: loss_surface(MODEL, s, directions=DIRECTION, x=[0.0, 0.5], **QUIET).values["loss"],
    "gate_path": lambda s: gate_path(NET, s, torch.eye(3), t=[0.5], **QUIET).values["loss"],
    "curvature_operator": lambda s: curvature_operator(MODEL, s, parameters=["linear.bias"]).dense(),
    "recalibrate_batchnorm": recalibrated,
    "statistics_gap": lambda s: statistics_gap(fresh(), s).shift[0],
    "as_in_training": lambda s: len(as_in_training(fresh(), s)),
    "augmented": lambda s: augmented(s).x,
    "error_rate": lambda s: error_rate(MODEL, s),
    "train": lambda s: train(fresh(), s, Recipe(epochs=1, batch_size=4, shift=0), test=s, **QUIET)[-1]["loss"],
    "distil": lambda s: distil(fresh(), MODEL, s, settings=Distillation(epochs=1, batch_size=4, shift=0)),
    "plan_drop": lambda s: [
        p.loss
        for p in plan_drop(
            NET,
            s,
            goal=Count(1),
            repair=NoRepair(),
            split=ImageSplit(search=s, certify=OTHERS),
            clock=Clock(batch=2, seconds=0.0, rounds=1),
            **QUIET,
        ).points
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("taker", TAKERS)
def test_every_function_takes_what_holds_images(taker: str) -> None:
    expected = TAKERS[taker](as_data((X, Y)))
    for kind in ("loader of dicts", "pair"):
        found = TAKERS[taker](SOURCES[kind]())
        assert np.allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-12), kind
    with pytest.raises(TypeError, match="expected an ImageData, a pair"):
        TAKERS[taker](None)


class Two(nn.Module):
    """Two inputs, one with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.norm(u) + v


class Optional(Two):
    """The same with defaults for both, as models of Hugging Face have them."""

    def forward(self, u: Any = None, v: Any = None) -> torch.Tensor:
        return super().forward(u, v)


def test_inputs_of_any_kind_come_in_batches() -> None:
    u, v, y = torch.randn(5, 3), torch.randn(5, 3), torch.arange(5)
    expected = u.mean(0)
    collated = DataLoader(TensorDataset(u, v, y), 5, collate_fn=lambda rows: [[u, v], y])
    for source in (
        [((u, v), y)],
        collated,
        [[[u, v], y]],
        [(u, v, y)],
        [UserDict(u=u, v=v)],
        [{"u": u, "v": v, "index": y, "labels": y}],
    ):
        model = Two()
        recalibrate_batchnorm(model, source)
        assert torch.allclose(model.norm.running_mean, expected, atol=1e-6)  # type: ignore[arg-type]
    optional = Optional()
    recalibrate_batchnorm(optional, [[[u, v], y]])
    assert torch.allclose(optional.norm.running_mean, expected, atol=1e-6)  # type: ignore[arg-type]
    norm = nn.BatchNorm1d(3)
    for source in ([u[:3], u[3:]], [{"image": u, "label": y}], TensorDataset(u, y), (u, y)):
        recalibrate_batchnorm(norm, source)
        assert torch.allclose(norm.running_mean, expected, atol=1e-6)  # type: ignore[arg-type]
    assert [len(x) for x, _ in as_batches((u, y), batch_size=3)] == [3, 2]
    with pytest.raises(TypeError, match="uint8, whose normalisation"):
        recalibrate_batchnorm(cifar_resnet(8), [torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])


@pytest.mark.parametrize("inputs", ["tuple", "dict", "user dict"])
def test_several_inputs_and_their_targets_are_a_pair(inputs: str) -> None:
    u, v, y = torch.randn(5, 3), torch.randn(5, 3), torch.arange(5)
    x = {"tuple": (u, v), "dict": {"u": u, "v": v}, "user dict": UserDict(u=u, v=v)}[inputs]
    data = as_examples((x, y), Two())
    parts = list(data.x.values()) if isinstance(data.x, dict) else list(data.x)
    assert all(map(torch.equal, parts, (u, v)))
    assert torch.equal(data.targets, y)
    cut = list(as_batches((x, y), Two(), batch_size=3))
    assert [len(targets) for _, targets in cut] == [3, 2]
    assert torch.equal(
        torch.cat([Two().eval()(*(b if isinstance(b, tuple) else b.values())) for b, _ in cut]), Two().eval()(u, v)
    )
    two = [(x, y), (x, y)]  # two batches
    assert len(as_examples(two, Two())) == 10
    with pytest.raises(ValueError, match="the same inputs in all batches"):
        as_examples([{"u": u, "v": v}, y], Two(), labelled=False)


def test_targets_that_no_loss_reads_are_refused() -> None:
    line = nn.Linear(3, 2).eval()
    for target, got in (((Y, Y), "for cross-entropy, got tuple"), ({"a": Y}, "for .*, got dict"), (None, "got none")):
        with pytest.raises(TypeError, match=f"targets in each batch.*{got}"):
            curvature_operator(line, [(torch.zeros(7, 3), target)])


def test_latency_of_any_input() -> None:
    u = torch.randn(4, 3)
    model = Two().eval()
    for x in ((u, u), {"u": u, "v": u}, UserDict(u=u, v=u), {"v": 2.0, "u": u}):
        assert measure_latency(model, x, seconds=0.0).batch == 4
    assert measure_latency(lambda images: images[0], [u, u], seconds=0.0).batch == 2
    with pytest.raises(TypeError, match="contains a tensor"):
        measure_latency(model, u.numpy(), seconds=0.0)


def test_classes_are_numbered_by_their_names() -> None:
    data = as_data((X, Y), classes=("cat", "ant", "bee"))
    again = data.numbered(("ant", "bee", "cat", "dog"))
    assert [again.classes[k] for k in again.labels] == [data.classes[k] for k in data.labels]
    with pytest.raises(ValueError, match="no other classes than 'ant', 'bee', got also 'cat'"):
        data.numbered(("ant", "bee"))
    assert isinstance(data.subset([1, 2]).numbered(("ant", "bee")), ImageData)  # an unused name needs no image
