"""Cheap predictors of a deletion's damage, and which to trust.

    python analysis/lesion/predictors.py [--reference FOLDER]

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors; without it only the embedded network is
studied. Predictors are measured twice: on the test images on which the damage is measured, and on 100 training images,
as you would without test images. Writes predictors.md and the figures beside this file.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, digits, load_data
from resnet_paths.lesion import PredictorRanking, damage_predictors, rank_predictors, single_deletions
from resnet_paths.models import load_model
from resnet_paths.plot import plot_predictor_ranking, save

HERE = Path(__file__).resolve().parent
SOURCES = {
    "branch_ratio": "norm ratio",
    "block_influence": "Men et al. 2024",
    "norm_scale": "Liu et al. 2017",
    "taylor": "Molchanov et al. 2017",
    "taylor_abs": "Molchanov et al. 2017",
    "gradient_share": "this library",
    "logit_contribution": "this library",
    "cka": "Kornblith et al. 2019",
}


def table(ranking: PredictorRanking) -> list[str]:
    lines = [
        f"| predictor | source | cost | Spearman (95 % over images) | Kendall | share found of the {ranking.count} "
        "least damaging | verdict |",
        "|---|---|---|---|---:|---:|---|",
    ]
    trusted = ranking.trusted()
    for row in ranking.to_pandas().to_dict("records"):
        name = row["predictor"]
        verdict = "trust" if name in trusted else ("some use" if row["spearman_low"] > 0 else "do not trust")
        lines.append(
            f"| {name} | {SOURCES[name]} | {row['cost']} | {row['spearman']:.2f} ({row['spearman_low']:.2f} to "
            f"{row['spearman_high']:.2f}) | {row['kendall']:.2f} | "
            f"{row[f'recall_of_{ranking.count}']:.0%} | {verdict} |"
        )
    return lines


def section(title: str, stem: str, model: torch.nn.Module, test: ImageData, train: ImageData) -> list[str]:
    net = unroll(model)
    damage = single_deletions(net, test, metric="loss", progress=False)
    here = rank_predictors(damage_predictors(net, test, progress=False), damage)
    there = rank_predictors(damage_predictors(net, train, progress=False), damage)
    picture = save(plot_predictor_ranking(here), HERE / f"predictors_{stem}.png")
    low, high = damage.damage_interval()
    return [
        f"## {title}",
        "",
        f"{test.name}, {len(test)} images, {len(net)} blocks. Damage: the increase in cross-entropy, from "
        f"{damage.damage.min():.3f} to {damage.damage.max():.3f}, median {np.median(damage.damage):.3f} nats; median "
        f"width of its 95 % intervals {np.median(high - low):.3f}.",
        "",
        f"![rank correlations]({picture.name})",
        "",
        "Predictors from the same images:",
        "",
        *table(here),
        "",
        f"Predictors from {len(train)} training images:",
        "",
        *table(there),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, default=None)
    folder = parser.parse_args().reference
    torch.set_num_threads(1)
    lines = [
        "# Cheap predictors of damage: which to trust",
        "",
        f"Made by `python analysis/lesion/predictors.py` with resnet_paths {__version__}, torch {torch.__version__}. "
        "Rank correlations, over the blocks, with the damage of deleting each block alone. Trust: Spearman above "
        "0.5 over the full range in which it may lie on more images; some use: above zero. The range is not a "
        "confidence interval (docs/explanation/intervals.md).",
        "",
    ]
    lines += section(
        "The embedded ResNet-56, UCI digits",
        "embedded",
        load_model("embedded"),
        digits("test"),
        digits("train").subset(slice(0, 100)),
    )
    if folder is not None:
        sample = str(folder / "cifar10_sample.npz")
        lines += section(
            "ResNet-56, CIFAR-10 (reference weights of Y. Idelbayev, option A)",
            "resnet56",
            load_model(str(folder / "resnet56_cifar10_option_a.safetensors")),
            load_data(sample),
            load_data(sample, "train", limit=100),
        )
    (HERE / "predictors.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
