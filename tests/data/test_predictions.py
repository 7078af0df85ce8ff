"""What counts as a correct prediction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnet_paths.data import right


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 6), st.integers(1, 8))
def test_a_label_is_among_the_largest_when_fewer_logits_are_larger(seed: int, images: int, classes: int, among: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (images,), generator=generator)
    larger = [sum(float(v) > float(row[label]) for v in row) for row, label in zip(logits, labels, strict=True)]
    assert right(logits, labels, among).tolist() == [count < among for count in larger]


@pytest.mark.parametrize("among", [1, 5])
def test_a_row_with_nan_predicts_nothing(among: int) -> None:
    nan = float("nan")
    logits = torch.tensor([[nan, nan, nan], [nan, 1.0, 2.0], [1.0, nan, 0.0], [0.0, 0.0, float("inf")]])
    assert right(logits, torch.tensor([0, 2, 0, 2]), among).tolist() == [False, False, False, True]


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_that_the_model_does_not_have_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="expected labels from 0 to 2"):
        right(torch.zeros(2, 3), torch.tensor(labels))
    with pytest.raises(ValueError, match="a class index for each example"):
        right(torch.zeros(2, 3, 4), torch.tensor([0, 1]))
