"""Images without labels: read where none are needed, refused in one line where some are."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from resnet_paths import unroll
from resnet_paths.data import ImageData, as_data
from resnet_paths.data.classes import numbered_alike
from resnet_paths.lesion import block_values, evaluate_gates, metric_named, random_deletions, single_deletions
from resnet_paths.models import cifar_resnet
from resnet_paths.tradeoff import Distillation, distil, distil_best

X = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Photos(Dataset):
    """Images alone."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> torch.Tensor:
        return X[index]


SOURCES = {
    "a tensor": lambda: X,
    "an array": lambda: X.numpy(),
    "a data set of images": Photos,
    "a loader of images": lambda: DataLoader(Photos(), batch_size=3),
    "batches": lambda: list(X.split(3)),
    "two batches": lambda: list(X.split(4)),
    "batches in tuples of one": lambda: [(part,) for part in X.split(3)],
    "a mapping": lambda: {"pixel_values": X},
    "mappings without labels": lambda: [{"image": part, "size": part.flatten(1).float()} for part in X.split(3)],
    "channels last": lambda: np.ascontiguousarray(X.permute(0, 2, 3, 1).numpy()),
    "numpy batches": lambda: [part.numpy() for part in X.split(5)],
}


@pytest.fixture(scope="module")
def net():
    return unroll(cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=0).eval())


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_images_alone_are_read_from_whatever_holds_them(make) -> None:
    data = as_data(make(), labelled=False)
    assert torch.equal(data.images, X)
    assert not data.labelled
    assert data.labels.tolist() == [-1] * 7
    assert repr(data).endswith("no labels)")
    for part in (data.subset(slice(0, 3)), data.shuffled(1), data.sample(2), data.halves()[0], data.split(0.4)[0]):
        assert not part.labelled


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_they_are_refused_where_labels_are_needed(make) -> None:
    with pytest.raises((TypeError, ValueError), match="expected"):
        as_data(make())
    with pytest.raises(ValueError, match=r"expected labelled images in .*, got images without labels"):
        as_data(as_data(make(), labelled=False))


def test_a_column_of_numbers_is_not_a_label_where_none_are_needed() -> None:
    batches = [{"image": X, "index": torch.arange(7)}]
    assert not as_data(batches, labelled=False).labelled
    assert as_data(batches, labelled=False, label="index").labels.tolist() == list(range(7))


def test_labels_are_kept_where_there_are_some() -> None:
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for source in ((X, y), [(X[:3], y[:3]), (X[3:], y[3:])], {"image": X, "label": y}):
        assert torch.equal(as_data(source, labelled=False).labels, y)
    with pytest.raises(ValueError, match=r"for all images in .* or for none, got 4 without"):
        as_data([(X[:3], y[:3]), X[3:]], labelled=False)
    mixed = torch.tensor([0, -1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="expected labels from 0"):
        ImageData(X, mixed, ("one",), (0.0,), (1.0,), "mixed")


def test_they_take_the_classes_of_images_beside_them() -> None:
    plain, named = as_data(X, labelled=False), ImageData(X, torch.arange(7), tuple("abcdefg"), (0.0,), (1.0,), "named")
    alike = numbered_alike(plain, named, plain)
    assert [one.classes for one in alike] == [named.classes] * 3
    assert [one.labelled for one in alike] == [False, True, False]
    assert plain.numbered(("x", "y")).classes == ("x", "y")


@pytest.mark.parametrize("metric", ["disagreement", "divergence", "soft_disagreement"])
def test_studies_by_metrics_that_need_none_are_those_of_labelled_images(metric, net) -> None:
    labelled = (X, torch.zeros(7, dtype=torch.long))
    options = {"metric": metric, "progress": False}
    for study in (single_deletions, block_values, lambda *a, **o: random_deletions(*a, counts=[1], draws=2, **o)):
        one, other = (study(net, data, **options) for data in (X, labelled))
        assert np.array_equal(one.values, other.values)


def test_metrics_that_need_them_refuse(net) -> None:
    plain = as_data(X, labelled=False)
    for metric in ("error", "loss", "soft_error", "top5_error"):
        with pytest.raises(ValueError, match="expected labelled images"):
            single_deletions(net, plain, metric=metric, progress=False)
        with pytest.raises(ValueError, match="expected labelled images"):
            evaluate_gates(net, plain, torch.ones(1, len(net)), metric_named(metric)[1], progress=False)
    with pytest.raises(ValueError, match="expected labelled images for this, got images without labels"):
        single_deletions(net, plain, metric=lambda *given: metric_named("loss")[1](*given), progress=False)


def test_a_student_follows_its_teacher_without_labels(net) -> None:
    student = cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=1).eval()
    with pytest.raises(ValueError, match=r"10% of the loss, got images without labels; pass .*weight=1"):
        distil(student, net, X)
    best = distil_best(student, net, X, settings=Distillation(epochs=2, batch_size=3, weight=1.0, shift=0, flip=False))
    assert best.losses[best.kept] <= best.losses[0]
    assert all(0 <= error <= 1 for error in best.errors)
