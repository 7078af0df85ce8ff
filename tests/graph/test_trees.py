"""Nests of values, including those whose contents torch's own pytree would lose."""

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils._pytree import tree_leaves

from resnet_paths.graph.trees import leaves, map_leaves


class Book(dict):
    """As models return them: a dict that nobody registered."""


class Row(list):
    pass


Pair = namedtuple("Pair", "one two")


@pytest.mark.parametrize(
    ("tree", "plain"),
    [
        (Book(a=1, b=[2, 3]), {"a": 10, "b": [20, 30]}),
        (Row([1, (2,), 3]), [10, (20,), 30]),
        ((slice(1, 2), 3), (slice(10, 20), 30)),
        (immutable_list([1, immutable_dict(a=2), 3]), [10, {"a": 20}, 30]),
        (OrderedDict(b=1, a=Pair(2, 3)), {"b": 10, "a": Pair(20, 30)}),
    ],
)
def test_every_leaf_is_met_and_nests_are_plain(tree: Any, plain: Any) -> None:
    mapped = map_leaves(tree, lambda leaf: leaf if leaf is None else 10 * leaf)
    assert mapped == plain
    assert type(mapped) is type(plain)
    assert [leaf for leaf in leaves(tree) if leaf is not None] == [1, 2, 3]


def test_torchs_pytree_stops_at_them() -> None:
    """Why we have our own mapper: if this fails one day, it can be removed."""
    for tree in (Book(a=1), Row([1]), slice(1, 2)):
        assert tree_leaves(tree) == [tree]
