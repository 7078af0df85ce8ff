"""Li and Papyan (2023), Residual Alignment: RA1 to RA4, on networks trained here and on the embedded ResNet-56.

    python analysis/later_papers/residual_alignment.py [--steps 400] [--runs FOLDER]

Fully connected residual networks of several depths and their plain twins are trained on the digits (a minute or two in
all on one thread). Their weights are kept under --runs. Writes residual_alignment.md beside this file.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.data import digits
from resnet_paths.models import load_model
from resnet_paths.paths import ResidualAlignment, residual_alignment
from resnet_paths.report.claims.rules import every, word
from resnet_paths.statistics import mean_intervals, student_intervals

HERE = Path(__file__).resolve().parent
PAPER = "Li and Papyan (2023), Residual Alignment: Uncovering the Mechanisms of Residual Networks, abstract"
WIDTH, CLASSES, DEPTHS, SEEDS, IMAGES = 64, 10, (3, 6, 12), (0, 1, 2), 20
STRAIGHT, EVEN, ALIGNED, LOW_RANK = 0.9, 0.25, 0.5, 0.95


class Layer(nn.Module):
    """``W2 relu(W1 norm(x))``, added to x or not."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.two(F.relu(self.one(self.norm(x))))
        return x + branch if self.residual else branch


class FullyConnected(nn.Module):
    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(64, WIDTH)
        self.layers = nn.ModuleList(Layer(residual) for _ in range(depth))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def trained(depth: int, residual: bool, seed: int, steps: int, folder: Path) -> FullyConnected:
    torch.manual_seed(seed)
    model = FullyConnected(depth, residual)
    path = folder / f"{'residual' if residual else 'plain'}-{depth}-seed{seed}-{steps}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    data = digits("train")
    x, labels = data.x.flatten(1), data.labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(labels), (128,), generator=generator)
        loss = F.cross_entropy(model(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    print(f"{path.stem}: training loss {float(loss.detach()):.4f}", flush=True)
    return model.eval()


def accuracy(model: nn.Module) -> float:
    data = digits("test")
    with torch.inference_mode():
        return float((model(data.x.flatten(1)).argmax(1) == data.labels).double().mean())


def measured(model: FullyConnected) -> ResidualAlignment:
    x = digits("test").subset(slice(0, IMAGES)).x.flatten(1)
    if model.layers[0].residual:
        return residual_alignment(unroll(model), x, CLASSES)
    with torch.no_grad():
        return residual_alignment(list(model.layers), model.stem(x), CLASSES)


def pooled(records: list[ResidualAlignment], quantity: str) -> tuple[float, float, float]:
    """The mean over images and seeds, with an interval over seeds: images of one network are not independent of it."""
    by_image = [np.atleast_2d(getattr(record, quantity)).mean(0) for record in records]
    each = np.array([values.mean() for values in by_image])
    low, high = student_intervals(each[None]) if len(each) > 1 else mean_intervals(by_image[0][None])
    return float(each.mean()), float(low[0]), float(high[0])


def with_interval(numbers: tuple[float, float, float]) -> str:
    return f"{numbers[0]:.2f} ({numbers[1]:.2f} to {numbers[2]:.2f})"


def above(numbers: tuple[float, float, float], threshold: float) -> bool | None:
    return True if numbers[1] > threshold else False if numbers[2] < threshold else None


def below(numbers: tuple[float, float, float], threshold: float) -> bool | None:
    return True if numbers[2] < threshold else False if numbers[1] > threshold else None


def within(numbers: tuple[float, float, float], low: float, high: float) -> bool | None:
    return every(above(numbers, low), below(numbers, high))


def slope(by_depth: dict[int, list[ResidualAlignment]]) -> tuple[float, float, float]:
    """The exponent of depth in the largest singular value, with Student's interval over seeds."""
    logs = np.log(list(by_depth))
    each = [
        np.polyfit(logs, [np.log(by_depth[depth][seed].values[..., 0].mean()) for depth in by_depth], 1)[0]
        for seed in range(len(SEEDS))
    ]
    low, high = student_intervals(np.array(each)[None])
    return float(np.mean(each)), float(low[0]), float(high[0])


def claims(name: str, records: list[ResidualAlignment], plain: list[ResidualAlignment] | None) -> list[tuple[str, ...]]:
    first = records[0]
    null, walk = first.rank / first.dimension, 1 / math.sqrt(len(first.names) - 1)
    straight, uneven = pooled(records, "straightness"), pooled(records, "unevenness")
    own, across, share = (pooled(records, quantity) for quantity in ("own", "across", "shares"))
    twin = "" if plain is None else f"; plain twin {with_interval(pooled(plain, 'straightness'))}"
    rows = [
        (
            f"RA1, {name}: the representations of an image lie on a line",
            f"distance by length of way above {STRAIGHT} (random steps: {walk:.2f})",
            with_interval(straight) + twin,
            word(above(straight, STRAIGHT)),
        ),
        (
            f"RA1, {name}: and are equispaced",
            f"spread of the steps by their mean below {EVEN}",
            with_interval(uneven),
            word(below(uneven, EVEN)),
        ),
    ]
    for quantity, numbers, what in (
        ("own", own, "the leading left and right singular vectors of a branch span the same space"),
        ("across", across, "and those of one branch that of the others, across depth"),
    ):
        twin = "" if plain is None else f"; plain twin {with_interval(pooled(plain, quantity))}"
        rows.append(
            (
                f"RA2, {name}: {what}",
                f"overlap above {ALIGNED} (random subspaces: {null:.2f})",
                with_interval(numbers) + twin,
                word(above(numbers, ALIGNED)),
            )
        )
    rows.append(
        (
            f"RA3, {name}: a branch's Jacobian has at most rank C = {CLASSES}"
            + (" (the paper says so of fully connected networks)" if plain is None else ""),
            f"above {LOW_RANK} of its squared Frobenius norm in {CLASSES} singular values",
            with_interval(share),
            word(above(share, LOW_RANK)),
        )
    )
    return rows


def comparison(records: list[ResidualAlignment], plain: list[ResidualAlignment]) -> tuple[str, ...]:
    """RA2 beside the null: the paper says it is gone once the skips are removed."""
    differences = np.array([one.across.mean() - other.across.mean() for one, other in zip(records, plain, strict=True)])
    low, high = student_intervals(differences[None])
    numbers = float(differences.mean()), float(low[0]), float(high[0])
    return (
        "without skips there is no alignment across depth",
        "overlap of different branches higher than of different layers of the plain twin",
        f"difference {with_interval(numbers)}",
        word(above(numbers, 0.0)),
    )


def table(record: ResidualAlignment) -> list[str]:
    lines = [
        "| block | largest singular value | share of C values | own overlap | overlap with others |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in record.to_pandas().itertuples():
        lines.append(f"| {row.name} | {row.largest:.3f} | {row.share:.2f} | {row.own:.2f} | {row.across:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=Path, default=Path("results/residual_alignment"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    middle = DEPTHS[1]
    models = {depth: [trained(depth, True, seed, options.steps, options.runs) for seed in SEEDS] for depth in DEPTHS}
    plain = [trained(middle, False, seed, options.steps, options.runs) for seed in SEEDS]
    by_depth = {depth: [measured(model) for model in several] for depth, several in models.items()}
    nulls = [measured(model) for model in plain]
    embedded = residual_alignment(
        unroll(load_model("embedded")), digits("test").subset(slice(0, 10)).x, CLASSES, blocks=list(range(19, 27))
    )
    exponent = slope(by_depth)
    rows = [
        *claims(f"fully connected, {middle} blocks", by_depth[middle], nulls),
        comparison(by_depth[middle], nulls),
        (
            f"RA4: the largest singular value is inverse to depth ({', '.join(map(str, DEPTHS))} blocks)",
            "exponent of depth between -1.3 and -0.7",
            with_interval(exponent),
            word(within(exponent, -1.3, -0.7)),
        ),
        *claims("last stage of the embedded ResNet-56", [embedded], None),
    ]
    accuracies = ", ".join(
        f"{np.mean([accuracy(model) for model in several]):.1%} ({depth} blocks)" for depth, several in models.items()
    )
    errors = max(record.errors.max() for record in [*by_depth[middle], embedded])
    lines = [
        "# Residual alignment",
        "",
        f"{PAPER}. Made by `analysis/later_papers/residual_alignment.py` with resnet_paths {__version__}, "
        f"torch {torch.__version__}, on one CPU thread.",
        "",
        f"Fully connected residual networks of width {WIDTH}, trained on 1,352 digits ({options.steps} steps of "
        f"AdamW); test accuracy {accuracies}, plain twin of {middle} layers "
        f"{np.mean([accuracy(model) for model in plain]):.1%}. Jacobians at {IMAGES} test images each (10 for the "
        f"embedded network, in blocks after the projection), by Lanczos; the singular values are within {errors:.1e}. "
        f"Intervals: Student's over {len(SEEDS)} trainings, over images for the embedded network. The thresholds are "
        "ours: the paper shows plots.",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(row)} |" for row in rows],
        "",
        "The paper sees alignment together with neural collapse, which comes late in training; these were trained "
        "until the training loss was about 0.001, so a claim that does not hold here may hold later.",
        "",
        f"Means over images, {middle} blocks, first seed, residual and plain:",
        "",
        *table(by_depth[middle][0]),
        "",
        *table(nulls[0]),
        "",
        "The last stage of the embedded ResNet-56:",
        "",
        *table(embedded),
        "",
    ]
    (HERE / "residual_alignment.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
