"""Rows with a common prefix are evaluated once."""

from hypothesis import given
from hypothesis import strategies as st

from resnet_paths.graph.prefix_tree import shared_walk

ROWS = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=12)
)


@given(ROWS)
def test_every_row_ends_where_it_would_alone_and_beginnings_are_shared(rows: list[list[int]]) -> None:
    calls = []

    def step(state: tuple[int, ...], position: int, choice: int) -> tuple[int, ...]:
        assert len(state) == position
        calls.append((*state, choice))
        return (*state, choice)

    found = dict(shared_walk((), rows, step))
    assert found == {index: tuple(row) for index, row in enumerate(rows)}
    beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert sorted(calls) == sorted(beginnings)
