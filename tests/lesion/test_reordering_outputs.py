"""Reordering models whose output is a record with logits, such as those of Hugging Face."""

import pytest
import torch

import families
from resnet_paths.data import ImageData
from resnet_paths.lesion import reorderings
from resnet_paths.network import unroll


@pytest.mark.slow
def test_models_that_return_records_are_reordered() -> None:
    (family,) = [family for family in families.HUGGING_FACE if family.name == "ViTForImageClassification"]
    model, x = family.make().float(), family.example().float()
    images = ImageData(x, torch.tensor([0, 1]), ("a", "b"), (0.0,) * 3, (1.0,) * 3, "random")
    result = reorderings(unroll(model, images.x), images, [1], draws=2, progress=False)
    assert not result.direct
    assert result.values.shape == (2,)
