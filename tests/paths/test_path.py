"""Explicit paths: lazy, complete, in order, indexable for any n."""

from itertools import islice

import pytest
import torch

from references.tiny import tiny_network
from resnet_paths.paths import Path, path_lengths, paths


def test_all_paths_once_and_by_length() -> None:
    every = list(paths(6))
    assert len(paths(6)) == len(every) == len(set(every)) == 2**6
    for length in range(7):
        of_length = list(paths(6).by_length(length))
        assert len(of_length) == path_lengths(6).count(length)
        assert set(of_length) == {path for path in every if path.length == length}


@pytest.mark.parametrize("length", [None, 0, 1, 3, 6])
def test_index_agrees_with_iteration(length: int | None) -> None:
    some = paths(6, length)
    assert [some[i] for i in range(len(some))] == list(some)
    assert some[-1] == list(some)[-1]
    assert some[1:3] == list(some)[1:3]
    with pytest.raises(IndexError, match="expected an index"):
        some[len(some)]


def test_rank_is_the_place() -> None:
    assert [path.rank for path in paths(4)] == list(range(16))


def test_huge_networks_stay_lazy() -> None:
    huge = paths(2000)
    assert huge.count == 2**2000
    assert [path.units for path in islice(huge, 4)] == [(), (0,), (1,), (0, 1)]
    assert huge[2**1999].units == (1999,)
    assert paths(2000, 1000)[12345].length == 1000
    with pytest.raises(OverflowError, match=r"use \.count"):
        len(huge)
    assert huge


def test_path_of_a_network_gives_gates() -> None:
    net = tiny_network(5)
    path = paths(net, 2)[0]
    assert path == Path((0, 1), 5)
    assert torch.equal(path.gates(), torch.tensor([1.0, 1, 0, 0, 0], dtype=torch.float64))
    assert path in paths(net)
    assert path not in paths(net, 3)


def test_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 3"):
        paths(3, 4)
    with pytest.raises(ValueError, match="from 0 to 3"):
        paths(3).by_length(-1)
