"""Veit, Wilber and Belongie (2016), section 4.1 and figure 3: deleting single blocks.

    python analysis/veit2016/single_deletions.py --reference FOLDER

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors; without it only the embedded network is
studied. Writes single_deletions.md and the figures beside this file.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.lesion import SingleDeletions, single_deletions
from resnet_paths.models import load_model
from resnet_paths.plot import plot_single_deletions, save

HERE = Path(__file__).resolve().parent


def claims(record: SingleDeletions, chance: float) -> list[tuple[str, str, str, str]]:
    """Claim of the paper, expected, measured, verdict."""
    changes = np.array([kind != "identity" for kind in record.shortcuts])
    median = float(np.median(record.damage))
    worst = int(np.argmax(record.values))
    top = {int(index) for index in np.argsort(record.damage)[-int(changes.sum()) :]}
    ranks = [int(np.sum(record.damage > record.damage[index])) + 1 for index in np.flatnonzero(changes)]
    mild = int(np.sum(record.damage <= 0.05))
    return [
        (
            "Deleting a block of a residual network has little effect",
            "most blocks: error up by a few points at most",
            f"median {100 * median:+.2f} points; {mild} of {len(record.names)} blocks at most +5 points",
            "holds" if mild > len(record.names) / 2 else "does not hold",
        ),
        (
            "No single deletion takes the network to chance (in a plain network it does)",
            f"all below {chance:.0%}",
            f"highest error {record.values[worst]:.1%} (block {worst}, {record.names[worst]})",
            "holds" if record.high[worst] < chance else "does not hold",
        ),
        (
            "Deleting blocks that change the shape of the stream does the most damage",
            f"the {int(changes.sum())} such blocks are the {int(changes.sum())} most damaging",
            "ranks " + ", ".join(map(str, ranks)) + f" of {len(record.names)}",
            "holds" if top == set(np.flatnonzero(changes).tolist()) else "does not hold",
        ),
    ]


def section(title: str, model: torch.nn.Module, data: ImageData, picture: str) -> list[str]:
    record = single_deletions(unroll(model), data)
    chance = 1 - 1 / len(data.classes)
    save(plot_single_deletions(record, chance=chance), HERE / picture)
    low, high = record.full_interval
    lines = [
        f"## {title}",
        "",
        f"{data.name}, {len(data)} images. Accuracy without deletion {1 - record.full:.2%} "
        f"(95 % interval {1 - high:.2%} to {1 - low:.2%}).",
        "",
        f"![error after each deletion]({picture})",
        "",
        "| claim | expected (paper) | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(claim)} |" for claim in claims(record, chance)],
        "",
        "| block | name | shortcut | error | 95 % interval | damage (points) |",
        "|---:|---|---|---:|---|---:|",
    ]
    for index, name in enumerate(record.names):
        lines.append(
            f"| {index} | {name} | {record.shortcuts[index]} | {record.values[index]:.2%} | "
            f"{record.low[index]:.1%} to {record.high[index]:.1%} | {100 * record.damage[index]:+.2f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, default=None)
    folder = parser.parse_args().reference
    lines = [
        "# Deleting single blocks",
        "",
        "Veit, Wilber and Belongie (2016), section 4.1 and figure 3. Made by "
        f"`python analysis/veit2016/single_deletions.py` with resnet_paths {__version__}, torch {torch.__version__}.",
        "",
    ]
    if folder is not None:
        model = load_model(str(folder / "resnet56_cifar10_option_a.safetensors"))
        data = load_data(str(folder / "cifar10_sample.npz"))
        title = "ResNet-56, CIFAR-10 (reference weights of Y. Idelbayev, option A)"
        lines += section(title, model, data, "single_deletions_resnet56.png")
    lines += section(
        "The embedded ResNet-56, UCI digits",
        load_model("embedded"),
        load_data("digits"),
        "single_deletions_embedded.png",
    )
    (HERE / "single_deletions.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
