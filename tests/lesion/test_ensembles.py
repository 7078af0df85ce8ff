"""The ensemble of the last blocks' networks against its definition: every subset run separately, and summed."""

import itertools

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import path_ensemble
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.statistics import intervals

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def net() -> UnrolledNetwork:
    """Six post-activation blocks; the last four hold one that changes the shape."""
    model = randomise_norms(cifar_resnet(14, widths=(4, 6, 8), seed=0)).eval().double()
    model.linear.weight.data *= 30  # otherwise all members predict nearly the same
    return unroll(model)


@pytest.fixture(scope="module")
def data() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (11,), generator=generator)
    images = torch.rand(11, 3, 8, 8, generator=generator, dtype=torch.float64)
    return ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random", torch.float64)


def literal(net: UnrolledNetwork, data: ImageData, keep: list[float], scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mean prediction and the mean divergence of a member from it, one forward pass for each subset."""
    first, members, weights = len(net) - len(keep), [], []
    for kept in itertools.product([False, True], repeat=len(keep)):
        gates = [1.0] * first + [float(on) / (q if scaled else 1) for on, q in zip(kept, keep, strict=True)]
        with torch.no_grad():
            members.append(net(data.x, gates).softmax(1))
        weights.append(np.prod([q if on else 1 - q for on, q in zip(kept, keep, strict=True)]))
    probabilities, shares = torch.stack(members).numpy(), np.array(weights)
    mean = np.tensordot(shares, probabilities, 1)
    divergence = (probabilities * np.log(probabilities / mean)).sum(-1)
    return mean, shares @ divergence


@pytest.mark.parametrize(
    ("keep", "scaled"), [([0.5] * 4, False), ([0.9, 0.7, 0.6, 0.3], False), ([0.8, 0.5, 0.25, 1.0], True), ([], False)]
)
@pytest.mark.parametrize("fast", [True, False])
def test_every_subset_by_itself(
    net: UnrolledNetwork, data: ImageData, keep: list[float], scaled: bool, fast: bool
) -> None:
    found = path_ensemble(net, data, len(keep), keep=keep, scaled=scaled, batch_size=4, fast=fast, **QUIET)
    mean, divergence = literal(net, data, keep, scaled)
    with torch.no_grad():
        single = net.model(data.x).softmax(1).numpy()
    assert np.allclose(found.probabilities, mean, rtol=0, atol=1e-10)
    assert np.allclose(found.single, single, rtol=0, atol=1e-10)
    assert np.allclose(found.entropy, -(mean * np.log(mean)).sum(1), rtol=0, atol=1e-10)
    assert np.allclose(found.disagreement, divergence, rtol=0, atol=1e-10)
    assert keep == [] or divergence.max() > 0.01
    assert found.members == 2 ** (len(keep) - keep.count(1.0))


def test_cost_is_that_of_shared_prefixes(net: UnrolledNetwork, data: ImageData) -> None:
    for last in (0, 1, 3, len(net)):
        pieces = path_ensemble(net, data, last, batch_size=100, **QUIET).evaluations
        assert pieces.stems == 1
        assert pieces.branches == len(net) - last + 2**last - 1
        assert pieces.joins == len(net) - last + 2 ** (last + 1) - 2


def test_no_doubt_about_the_blocks_leaves_the_network_itself(net: UnrolledNetwork, data: ImageData) -> None:
    found = path_ensemble(net, data, 3, keep=1.0, **QUIET)
    assert found.members == 1
    assert np.allclose(found.probabilities, found.single, rtol=0, atol=1e-12)
    assert found.disagreement.max() < 1e-12
    nothing = path_ensemble(net, data, 3, keep=0, **QUIET)
    with torch.no_grad():
        without = net(data.x, [1.0] * (len(net) - 3) + [0.0] * 3).softmax(1).numpy()
    assert np.allclose(nothing.probabilities, without, rtol=0, atol=1e-12)


def test_differences_are_those_of_the_metrics(net: UnrolledNetwork, data: ImageData) -> None:
    found = path_ensemble(net, data, 3, **QUIET)
    rows = np.arange(len(data))
    losses = [-np.log(values[rows, data.labels]) for values in (found.single, found.probabilities)]
    assert np.allclose(found.by_image("loss"), losses)
    mean, low, high = found.difference("loss")
    assert low < mean < high
    assert mean == pytest.approx(losses[1].mean() - losses[0].mean())
    errors = found.by_image("error")
    assert (errors[1] == (found.probabilities.argmax(1) != data.labels.numpy())).all()
    table = found.to_pandas()
    assert list(table.prediction) == list(found.probabilities.argmax(1))
    assert list(table.probability) == list(found.probabilities.max(1))
    assert list(table.single_prediction) == list(found.single.argmax(1))
    assert list(table.single_probability) == list(found.single.max(1))
    assert found.difference("loss") == pytest.approx(
        (mean, *map(float, np.ravel(intervals(np.array([losses[1]]), 0.95, reference=losses[0]))))
    )


def test_journal_and_unlabelled_images(net: UnrolledNetwork, data: ImageData, tmp_path) -> None:
    here = path_ensemble(net, data.x, 2, batch_size=4, **QUIET)
    journalled = path_ensemble(net, data.x, 2, batch_size=4, journal=tmp_path / "journal", **QUIET)
    assert np.array_equal(here.probabilities, journalled.probabilities)
    assert here.evaluations == journalled.evaluations
    assert (here.labels == -1).all()


def test_wrong_requests_are_refused(net: UnrolledNetwork, data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"at most the network's 6 blocks to switch, got last=7"):
        path_ensemble(net, data, 7)
    with pytest.raises(ValueError, match=r"one for each of the last 3 blocks, got 2"):
        path_ensemble(net, data, 3, keep=[0.5, 0.5])
    with pytest.raises(ValueError, match="keep"):
        path_ensemble(net, data, 3, keep=1.5)
    with pytest.raises(ValueError, match="last"):
        path_ensemble(net, data, 17)
