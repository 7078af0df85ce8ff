"""What later papers say of deleted, swapped and parallel layers of transformers, on small ones trained here.

    python analysis/later_papers/transformer_layers.py [--steps 400] [--language-steps 500] [--runs FOLDER]

A vision transformer is trained on the digits, beside the embedded ResNet-56, and a language model on the help texts
that come with Python, byte by byte (a few minutes in all on one thread; weights are kept under --runs). Writes
transformer_layers.md beside this file.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import (
    Arrangements,
    arrangements,
    evaluate_gates,
    linear_cka,
    metric_named,
    middle_arrangements,
)
from resnet_paths.models import load_model
from resnet_paths.network import UnrolledNetwork
from resnet_paths.report.claims.rules import every, word
from resnet_paths.statistics import interval, intervals, mean_intervals
from resnet_paths.surgery import reorder_blocks

HERE = Path(__file__).resolve().parent
LAYERS, CONTEXT, LANGUAGE_WIDTH = 6, 64, 64
QUIET = {"progress": False}
BHOJANAPALLI = "Bhojanapalli et al. (2021), Understanding Robustness of Transformers for Image Classification, abstract"
LAD = "Lad et al. (2024), The Remarkable Robustness of LLMs: Stages of Inference?, abstract"
SUN = "Sun et al. (2024), Transformer Layers as Painters"
SMALL, ALMOST = 0.05, 0.9


# Networks


def fitted(model: nn.Module, path: Path, steps: int, loss_of: Callable[[torch.Generator], torch.Tensor]) -> nn.Module:
    """The model trained by AdamW with a cosine rate, or read from the file of an earlier run."""
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = loss_of(generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"{path.stem}: step {step + 1}, loss {float(loss.detach()):.3f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def vision(steps: int, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(8, 2, LAYERS, 4, 32, 64, num_classes=10)
    model.conv_proj = nn.Conv2d(1, 32, 2, 2)
    data = digits("train")

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(data), (128,), generator=generator)
        return F.cross_entropy(model(data.x[rows]), data.labels[rows])

    return fitted(model, folder / f"vision-{steps}.pt", steps, loss_of)


class LanguageLayer(nn.Module):
    """Causal attention and an MLP, each on a normed copy of the stream."""

    def __init__(self) -> None:
        super().__init__()
        width = LANGUAGE_WIDTH
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(256, LANGUAGE_WIDTH), nn.Embedding(CONTEXT, LANGUAGE_WIDTH)
        self.layers = nn.ModuleList(LanguageLayer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(LANGUAGE_WIDTH), nn.Linear(LANGUAGE_WIDTH, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.place.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def text() -> tuple[torch.Tensor, torch.Tensor]:
    """Nine tenths of the help texts to train on, and the rest."""
    whole = "\n".join(topics[name] for name in sorted(topics))
    codes = torch.tensor(list(whole.encode()), dtype=torch.int64)
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:]


def language(steps: int, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model, (codes, _) = Language(), text()

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        starts = torch.randint(len(codes) - CONTEXT - 1, (24,), generator=generator)
        rows = torch.stack([codes[start : start + CONTEXT + 1] for start in starts])
        return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    return fitted(model, folder / f"language-{steps}.pt", steps, loss_of)


# Bhojanapalli et al. and Sun et al.: images


def single_damage(net: UnrolledNetwork, data: ImageData) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Increase in error with each block deleted, its paired interval, and the error itself."""
    gates = torch.cat([torch.ones(1, len(net)), 1 - torch.eye(len(net))])
    errors = evaluate_gates(net, data, gates, metric_named("error")[1], **QUIET)
    low, high = intervals(errors[1:], reference=errors[0], bound=1.0)
    return errors[1:].mean(1) - errors[0].mean(), low, high, float(errors[0].mean())


def almost_all_small(low: np.ndarray, high: np.ndarray) -> bool | None:
    if (high <= SMALL).mean() >= ALMOST:
        return True
    return False if (low > SMALL).mean() > 1 - ALMOST else None


def single_claim(name: str, net: UnrolledNetwork, data: ImageData) -> tuple[str, ...]:
    damage, low, high, _ = single_damage(net, data)
    return (
        f"removing almost any single layer hardly matters: {name}",
        f"{ALMOST:.0%} of the {len(net)} blocks cost at most {SMALL:.0%}, by 95 % intervals",
        f"{(damage <= SMALL).mean():.0%} cost at most {SMALL:.0%}; median {np.median(damage):.1%}, worst "
        f"{damage.max():.1%} ({net[int(damage.argmax())].name})",
        word(almost_all_small(low, high)),
    )


def class_tokens(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The class token after each layer."""
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: outputs.append(output[:, 0].double()))
        for layer in model.encoder.layers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return outputs


def later_layers(model: nn.Module, net: UnrolledNetwork, data: ImageData) -> list[tuple[str, ...]]:
    tokens = class_tokens(model, data.x)
    half = LAYERS // 2
    likeness = [float(linear_cka(tokens[i], tokens[i + 1])) for i in range(LAYERS - 1)]
    later = float(np.mean(likeness[half:]))
    gates = torch.ones(2, len(net))
    gates[1, 2 * half :] = 0
    errors = evaluate_gates(net, data, gates, metric_named("error")[1], **QUIET)
    (low,), (high,) = intervals(errors[1:], reference=errors[0], bound=1.0)
    return [
        (
            "activations of later layers are highly correlated with each other",
            f"linear CKA of the class token after neighbouring layers above 0.9 on average over the last {half}",
            f"{later:.2f}; all neighbours {', '.join(f'{value:.2f}' for value in likeness)}",
            word(later > 0.9),
        ),
        (
            "but they play an important role",
            f"removing the last {half} layers raises the error by more than {SMALL:.0%}",
            f"by {errors[1].mean() - errors[0].mean():.1%} ({low:.1%} to {high:.1%})",
            word(True if low > SMALL else False if high < SMALL else None),
        ),
    ]


def ways(net: UnrolledNetwork, data: ImageData, layers: int, first: int, last: int) -> Arrangements:
    before = [index for index in range(layers) if index != 0]
    middle = (first + last) // 2
    return arrangements(
        net,
        data,
        {
            **middle_arrangements(layers, first, last),
            "first skipped": before,
            "middle one skipped": [index for index in range(layers) if index != middle],
        },
        metric="loss",
        **QUIET,
    )


def lower(record: Arrangements, one: str, other: str) -> tuple[str, str]:
    """The difference in loss of two arrangements, and whether the first is lower."""
    rows = [record.per_image[1 + record.names.index(name)] for name in (one, other)]
    low, high = interval(rows[0] - rows[1])
    difference = float((rows[0] - rows[1]).mean())
    return f"{difference:+.2f} ({low:+.2f} to {high:+.2f})", word(True if high < 0 else False if low > 0 else None)


def painters(name: str, record: Arrangements) -> list[tuple[str, ...]]:
    claims = (
        ("a middle layer can be skipped at less cost than the first", "middle one skipped", "first skipped"),
        ("running the middle in parallel is better than repeating one of its layers", "parallel", "middle repeated"),
        ("looping the parallel middle is better than running it once", "looped parallel", "parallel"),
        ("running the middle in another order is better than skipping it", "random order", "skipped"),
    )
    return [
        (f"{what}: {name}", f"loss of {one!r} below that of {other!r}", *lower(record, one, other))
        for what, one, other in claims
    ]


def arranged_table(record: Arrangements) -> list[str]:
    lines = ["| arrangement | loss | increase |", "|---|---:|---:|", f"| itself | {record.full:.2f} | |"]
    for row in record.to_pandas().itertuples():
        lines.append(f"| {row.arrangement} | {row.loss:.2f} | {row.damage:+.2f} ({row.low:+.2f} to {row.high:+.2f}) |")
    return lines


# Lad et al.: text


def next_byte(forward: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> np.ndarray:
    """The share of next bytes predicted in each row."""
    with torch.no_grad():
        return (forward(rows[:, :-1]).argmax(-1) == rows[:, 1:]).double().mean(1).numpy()


def language_rows(count: int = 40) -> torch.Tensor:
    _, codes = text()
    return torch.stack([codes[start : start + CONTEXT + 1] for start in range(0, count * CONTEXT, CONTEXT)])


def interventions(model: nn.Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy by row: of the model, with each layer deleted, with each pair of neighbours swapped."""
    rows = language_rows()
    net = unroll(model, rows[:1, :-1])
    full = next_byte(model, rows)
    deleted = []
    for layer in range(LAYERS):
        gates = torch.ones(len(net))
        gates[2 * layer : 2 * layer + 2] = 0  # attention and MLP
        deleted.append(next_byte(lambda x, gates=gates: net(x, gates), rows))
    swapped = []
    for layer in range(LAYERS - 1):
        order = list(range(len(net)))
        first = 2 * layer
        order[first : first + 4] = [first + 2, first + 3, first, first + 1]
        swapped.append(next_byte(reorder_blocks(net, order, example_input=rows[:1, :-1]), rows))
    return full, np.array(deleted), np.array(swapped)


def kept_claim(what: str, full: np.ndarray, changed: np.ndarray) -> tuple[str, ...]:
    share = 0.72
    low, high = mean_intervals(changed - share * full)
    kept = changed.mean(1) / full.mean()
    return (
        f"{what} keeps 72 to 95 % of the accuracy",
        "at least 72 % is kept for every layer but the first and the last, by 95 % intervals",
        f"kept, by layer: {', '.join(f'{value:.0%}' for value in kept)}",
        word(every(*(True if a > 0 else False if b < 0 else None for a, b in zip(low[1:-1], high[1:-1], strict=True)))),
    )


def ends_claim(full: np.ndarray, deleted: np.ndarray) -> tuple[str, ...]:
    """Whether the first and the last layer each cost more than every layer between them, paired by row of text."""
    verdicts = []
    for end in (0, LAYERS - 1):
        low, high = mean_intervals(deleted[1:-1] - deleted[end])
        verdicts.append(True if (low > 0).all() else False if (high < 0).any() else None)
    damage = (full - deleted).mean(1)
    return (
        "deleting the first and the last layers costs most, middle ones little",
        "each end costs more accuracy than every layer between (95 % intervals, paired by text)",
        f"points lost, by layer: {', '.join(f'{100 * value:.1f}' for value in damage)}",
        word(every(*verdicts)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--language-steps", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("results/transformer_layers"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits("test")
    model, deep = vision(options.steps, options.runs), load_model("embedded")
    net, resnet = unroll(model), unroll(deep)
    accuracies = [1 - single_damage(each, data)[3] for each in (net, resnet)]
    few = data.subset(slice(0, 200))
    records = {
        "vision transformer": ways(net, few, LAYERS, 1, LAYERS - 2),
        "ResNet-56, last stage": ways(resnet, few, len(resnet), 20, 25),
    }
    writer = language(options.language_steps, options.runs)
    full, deleted, swapped = interventions(writer)
    rows = {
        BHOJANAPALLI: [
            single_claim(f"vision transformer of {LAYERS} layers", net, data),
            single_claim("ResNet-56 (our comparison)", resnet, data),
            *later_layers(model, net, data),
        ],
        SUN: [claim for name, record in records.items() for claim in painters(name, record)],
        LAD: [
            kept_claim("deleting a layer", full, deleted),
            kept_claim("swapping two neighbours", full, swapped),
            ends_claim(full, deleted),
        ],
    }
    lines = [
        "# Layers of transformers, deleted, swapped and in parallel",
        "",
        f"Made by `analysis/later_papers/transformer_layers.py` with resnet_paths {__version__}, torch "
        f"{torch.__version__}, on one CPU thread. The papers study networks a thousand times larger; a verdict here "
        "says whether the statement also holds for these small ones, not whether the papers are right. Thresholds "
        "without a number in the paper are ours.",
        "",
        f"- Images: {len(data)} test digits; a vision transformer of {LAYERS} layers and width 32 (accuracy "
        f"{accuracies[0]:.1%}, {options.steps} steps) and the embedded ResNet-56 ({accuracies[1]:.1%}). Arrangements "
        f"on {len(few)} of them: layers 1 to {LAYERS - 2} of the transformer, blocks 20 to 25 of the ResNet.",
        f"- Text: the help texts of Python by byte, {LAYERS} layers of width {LANGUAGE_WIDTH}, "
        f"{options.language_steps} steps; {full.mean():.1%} of {len(full) * CONTEXT:,} held-out bytes are "
        "predicted right.",
        "",
    ]
    for paper, claims in rows.items():
        lines += [f"## {paper}", "", "| claim | expected | measured | verdict |", "|---|---|---|---|"]
        lines += [*[f"| {' | '.join(claim)} |" for claim in claims], ""]
    for name, record in records.items():
        lines += [f"Arrangements of the {name}:", "", *arranged_table(record), ""]
    (HERE / "transformer_layers.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
