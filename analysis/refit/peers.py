"""Depth against width on ResNet-56 in one process: blocks dropped and refitted, channels pruned by Torch-Pruning.

    python analysis/refit/peers.py --reference FOLDER [--images 512] [--seconds 4]

needs `pip install torch-pruning`. FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors. Width: the
inner channels of every block (those of its first convolution, which the shortcut does not couple) are pruned by the
peer's group magnitude importance, then the batch norms are recalibrated; no training on either side. Depth: the
sets of frontier_resnet56.json, dropped and refitted on the same unlabelled training images. Both: width first, then the
set dropped and the rest refitted towards the narrowed network's sums. Accuracy on the
500 test images, time at batch 32, one thread, all networks in turn. Writes peers.md beside this file.
"""

import argparse
import copy
import json
import platform
from pathlib import Path

import reference
import torch
import torch_pruning
from reference import right
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData
from resnet_paths.statistics import difference_interval
from resnet_paths.surgery import Refitter, drop_blocks, recalibrate_batchnorm
from resnet_paths.tradeoff import count_macs, count_parameters, latencies_in_turn
from resnet_paths.training import augmented

HERE = Path(__file__).resolve().parent


def narrowed(model: nn.Module, share: float, images: ImageData) -> nn.Module:
    """The model with this share of the inner channels of each block pruned, and its statistics measured again."""
    narrow = copy.deepcopy(model)
    inner = [module for name, module in narrow.named_modules() if name.startswith("layer") and name.endswith("conv1")]
    others = [
        m for m in narrow.modules() if isinstance(m, nn.Conv2d | nn.Linear) and all(m is not one for one in inner)
    ]
    pruner = torch_pruning.pruner.BasePruner(
        narrow,
        images.x[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=others,
    )
    pruner.step()
    return recalibrated(narrow.eval(), images)


def recalibrated(model: nn.Module, images: ImageData) -> nn.Module:
    """The same model, its batch-norm statistics measured again."""
    recalibrate_batchnorm(model, images)
    return model


def main() -> None:
    """Make all networks, time them in turn, look at the test images once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (reference.load_images(options.reference, "cifar10_sample.npz", split) for split in ("train", "test"))
    model = reference.load_network(options.reference, 56)
    images = augmented(train.sample(options.images), 4, True)
    net = unroll(model)
    rows = json.loads((HERE / "frontier_resnet56.json").read_text())["rows"]
    sets = {count: next(row["dropped"] for row in rows if len(row["dropped"]) == count) for count in (3, 6, 9)}
    refitter = Refitter(net, images)
    networks: dict[str, nn.Module] = {"full network": model}
    for share in (0.25, 0.4, 0.5, 0.6):
        networks[f"width: {share:.0%} of the inner channels pruned, recalibrated"] = narrowed(model, share, images)
    for count, dropped in sets.items():
        networks[f"depth: {count} blocks dropped, recalibrated"] = recalibrated(drop_blocks(net, dropped), images)
        networks[f"depth: {count} blocks dropped, refitted"] = refitter(dropped).model
    for share, count in ((0.25, 3), (0.25, 6), (0.4, 6)):
        narrow = narrowed(model, share, images)
        networks[f"both: {share:.0%} pruned, then {count} dropped, refitted"] = Refitter(unroll(narrow), images)(
            sets[count]
        ).model
    timings = latencies_in_turn(list(networks.values()), train.x[:32], seconds=options.seconds, threads=1, rounds=15)
    whole = right(model, test)
    lines = [
        "# ResNet-56: depth against width",
        "",
        f"`python analysis/refit/peers.py --reference FOLDER --images {options.images} --seconds {options.seconds:g}`; "
        f"resnet_paths {__version__}, torch-pruning {torch_pruning.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, one thread. {options.images} unlabelled training images, no training. Accuracy on 500 "
        "test images; the interval is of the fall from the full network, paired by image (Tango, 95 %). Time at batch "
        '32 as a share of the full network\'s, all in turn, with the quartiles of the shares. "Both" is refitted '
        "towards the narrowed network's sums.",
        "",
        "| network | accuracy | fall in points (95 %) | time | multiply-adds | parameters |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    example = train.x[:1]
    base = count_macs(model, example), count_parameters(model)
    for (name, network), timing in zip(networks.items(), timings, strict=True):
        now = right(network, test)
        low, high = difference_interval(whole, now)
        share, fastest, slowest = (value / timings[0].median for value in (timing.median, timing.low, timing.high))
        lines.append(
            f"| {name} | {100 * now.mean():.1f} | {100 * (whole - now).mean():.1f} ({-100 * high:.1f} to "
            f"{-100 * low:.1f}) | {share:.2f} ({fastest:.2f} to {slowest:.2f}) | "
            f"{count_macs(network, example) / base[0]:.2f} | {count_parameters(network) / base[1]:.2f} |"
        )
        print(lines[-1], flush=True)
    (HERE / "peers.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
