"""Detectors of torchvision as a whole: lists of images in, lists of boxes out, the backbone's blocks in between."""

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from resnet_paths.network import unroll
from resnet_paths.surgery import drop_blocks, lesioned

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SMALL = {"num_classes": 5, "min_size": 64, "max_size": 64}
RESNET18 = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]


def pyramid() -> nn.Module:
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)


def faster_rcnn() -> nn.Module:
    few = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10}
    return detection.FasterRCNN(pyramid(), box_score_thresh=0.0, **few, **SMALL)


def retinanet() -> nn.Module:
    return detection.RetinaNet(pyramid(), score_thresh=0.0, detections_per_img=10, **SMALL)


def ssdlite() -> nn.Module:
    return detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, score_thresh=0.0, detections_per_img=10
    )


@pytest.mark.parametrize(
    ("make", "size", "blocks"),
    [(faster_rcnn, 64, RESNET18), (retinanet, 64, RESNET18), (ssdlite, 320, [f"features.{k}" for k in range(10)])],
)
def test_blocks_are_found_lesioned_and_dropped_in_the_whole_detector(make, size: int, blocks: list[str]) -> None:
    torch.manual_seed(0)
    model, images = make().eval(), [torch.rand(3, size, size), torch.rand(3, size, size)]
    net = unroll(model, (images,))
    in_backbone = [block for block in net if block.name.startswith("backbone.") and ".." not in block.name]
    assert len(in_backbone) == len(blocks)
    if "layer1.0" in blocks:
        assert [block.name.removeprefix("backbone.body.") for block in in_backbone] == blocks
    with torch.no_grad():
        assert torch.equal(net((images,)), net.followed(model(images)))
        with lesioned(net, [3]):
            damaged = model(images)
        smaller = drop_blocks(net, [3])
        for one, other in zip(smaller(images), damaged, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)
    gone = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert gone == net[3].branch_parameters > 0
