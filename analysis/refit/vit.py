"""A small vision transformer, trained on the CIFAR-10 JPEGs: a subject of frontier.py.

    python analysis/refit/vit.py --reference FOLDER --out FILE [--epochs 60] [--device cuda] [--images N]

FOLDER holds cifar10_jpeg.zip. timm's VisionTransformer with patches of 4 x 4 pixels, width 192, 9 layers, 3 heads
(4 million weights), trained by AdamW with shifted, mirrored and blended images; written in half precision, which
`small_vit` reads as single precision: the rounded network is the one studied.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from reference import load_images
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from resnet_paths.training import error_rate
from resnet_paths.training.augmentation import augment
from resnet_paths.training.mixing import mixup


def small_vit(weights: Path | None = None) -> nn.Module:
    """The network, with the weights of a file if one is given."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, num_classes=10, embed_dim=192, depth=9, num_heads=3)
    if weights is not None:
        model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return model


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--images", type=int)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    train, test = (
        load_images(options.reference, "cifar10_jpeg.zip", split, options.images).to(options.device)
        for split in ("train", "test")
    )
    model = small_vit().to(options.device)
    steps = options.epochs * (len(train) // options.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / (steps / 20), 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    pixels, labels = train.x, train.labels
    generator, shares = torch.Generator().manual_seed(0), np.random.default_rng(0)
    start = time.perf_counter()
    for epoch in range(options.epochs):
        order = torch.randperm(len(labels), generator=generator).to(options.device)
        for chosen in order.split(options.batch_size):
            if len(chosen) < options.batch_size:
                continue
            mixed = mixup(augment(pixels[chosen], 4, True, generator), labels[chosen], 0.2, shares, generator)
            with torch.autocast(options.device, torch.bfloat16):
                loss = mixed.loss(model(mixed.images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(epoch + 1, f"{float(loss.detach()):.3f}", f"{time.perf_counter() - start:.0f} s", flush=True)
    model.eval()
    save_file({name: value.half().cpu().contiguous() for name, value in model.state_dict().items()}, options.out)
    print("accuracy", 1 - error_rate(small_vit(options.out).eval().to(options.device), test))


if __name__ == "__main__":
    main()
