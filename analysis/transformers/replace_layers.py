"""A refit after a run of layers is dropped, against one linear map in place of the run.

    python analysis/transformers/replace_layers.py --model FILE [--calibration 128] [--sequences 128]

FILE comes from `language_model.py --steps 500`. Runs of 1, 2 and 3 layers (attention and MLP) are dropped at every
place after the first layer; all methods see the same calibration sequences, and the perplexity is that of text that
neither they nor the training saw. With X the stream before the run, Y the same without what the MLP before it added, M
what that MLP added, and L the stream after the run:

- ReplaceMe (Shopkhoev et al. 2025, arXiv:2505.02819), least squares: T = (M'M)^-1 M'(L - Y), merged into the last layer
  of that MLP. Nothing is added to the model.
- TOAST (Cannistraci et al. 2024, arXiv:2410.04941), linear: T = (X'X)^-1 X'L in place of the run: width^2 new weights.
- refit: this library's `refit_blocks`. It fits the last layer of every block that stays from the run on, and chooses
  how far to go on sequences held out from the calibration.

The place that a user would choose is, as in ReplaceMe, the one with the least cosine distance between the stream before
and after the run, on the calibration sequences.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from language_model import LAYERS, LENGTH, Logits, language_model, parts, sequences, token_loss
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.report.claims.rules import every, word
from resnet_paths.statistics import interval
from resnet_paths.surgery import Refitter, drop_blocks

HERE = Path(__file__).parent
RUNS = (1, 2, 3)
METHODS = ("dropped", "ReplaceMe", "TOAST", "refit")


@dataclass(frozen=True, eq=False)
class Streams:
    """Activations of the full model on the calibration sequences, (tokens, width), by layer: 0 is the embedding."""

    after: list[torch.Tensor]
    added: list[torch.Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Logits, characters: torch.Tensor) -> Streams:
        transformer = model.model.transformer
        after: list[torch.Tensor] = []
        middle: list[torch.Tensor] = []
        added: list[torch.Tensor] = []
        hooks = [transformer.drop.register_forward_hook(lambda _, given, out: after.append(out))]
        for layer in transformer.h:
            hooks.append(layer.mlp.register_forward_hook(lambda _, given, out: added.append(out)))
            hooks.append(layer.ln_2.register_forward_pre_hook(lambda _, given: middle.append(given[0])))
        model(characters)
        for hook in hooks:
            hook.remove()
        after += [before + new for before, new in zip(middle, added, strict=True)]
        return cls(*([value.flatten(0, 1).double() for value in values] for values in (after, added)))

    def distance(self, first: int, layers: int) -> float:
        """The mean cosine distance between the stream before and after a run."""
        return float(1 - F.cosine_similarity(self.after[first], self.after[first + layers], dim=-1).mean())


def blocks(first: int, layers: int) -> list[int]:
    return list(range(2 * first, 2 * (first + layers)))


def solved(rows: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """The T with the least squared error of rows @ T."""
    solution: torch.Tensor = torch.linalg.lstsq(rows, goal).solution
    return solution


@torch.no_grad()
def replace_me(dropped: nn.Module, streams: Streams, first: int, layers: int) -> nn.Module:
    """The model without the run, and with a linear map merged into the MLP before it."""
    smaller = copy.deepcopy(dropped)
    added = streams.added[first - 1]
    transform = solved(added, streams.after[first + layers] - (streams.after[first] - added))
    last = smaller.model.transformer.h[first - 1].mlp.c_proj
    last.weight.copy_(last.weight.double() @ transform)
    last.bias.copy_(last.bias.double() @ transform)
    return smaller


class Linear(nn.Module):
    """In place of a layer: a linear map of the stream."""

    def __init__(self, transform: torch.Tensor) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, stream: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return stream @ self.transform


def toast(model: Logits, streams: Streams, first: int, layers: int) -> Logits:
    """A linear map in place of the run."""
    smaller = copy.deepcopy(model)
    transform = solved(streams.after[first], streams.after[first + layers]).to(next(model.parameters()))
    kept = smaller.model.transformer.h
    smaller.model.transformer.h = nn.ModuleList([*kept[:first], Linear(transform), *kept[first + layers :]])
    return smaller


@torch.no_grad()
def losses(model: nn.Module, pieces: torch.Tensor) -> np.ndarray:
    """The loss of each sequence in nats per character."""
    return torch.cat([token_loss(model(part[:, :-1]), part) for part in pieces.split(64)]).double().numpy()


def held_out(count: int) -> torch.Tensor:
    """Pieces of the held-out text that do not overlap."""
    numbers = parts()[1]
    return numbers[: len(numbers) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)[:count]


def measured(model: Logits, calibration: torch.Tensor, pieces: torch.Tensor) -> dict[str, np.ndarray]:
    """The losses by method, layers and first layer, of each sequence; "whole" is the full model."""
    streams, net = Streams.of(model, calibration), unroll(model, calibration[:2])
    refitter = Refitter(net, calibration)
    results = {"whole": losses(model, pieces)}
    for layers in RUNS:
        for first in range(1, LAYERS - layers + 1):
            began = time.perf_counter()
            dropped = drop_blocks(net, blocks(first, layers))
            models = {
                "dropped": dropped,
                "ReplaceMe": replace_me(dropped, streams, first, layers),
                "TOAST": toast(model, streams, first, layers),
                "refit": refitter(blocks(first, layers)).model,
            }
            results |= {key(name, layers, first): losses(one, pieces) for name, one in models.items()}
            found = ", ".join(f"{name} {math.exp(results[key(name, layers, first)].mean()):.3g}" for name in METHODS)
            print(f"layers {first} to {first + layers - 1}: {found}; {time.perf_counter() - began:.0f} s", flush=True)
    for layers in RUNS:
        places = range(1, LAYERS - layers + 1)
        results[f"distance {layers}"] = np.array([streams.distance(first, layers) for first in places])
    return results


def key(method: str, layers: int, first: int) -> str:
    return f"{method} {layers} {first}"


def chosen(results: dict[str, np.ndarray], layers: int) -> int:
    """The first layer of the run with the least cosine distance."""
    return 1 + int(results[f"distance {layers}"].argmin())


def lower(results: dict[str, np.ndarray], one: str, other: str, layers: int, first: int) -> tuple[float, float]:
    """The interval of the difference in loss, paired by sequence."""
    return interval(results[key(one, layers, first)] - results[key(other, layers, first)])


def decided(low: float, high: float) -> bool | None:
    """Whether a difference is below zero."""
    return True if high < 0 else False if low > 0 else None


def claim(results: dict[str, np.ndarray], one: str, other: str) -> tuple[str, ...]:
    verdicts, texts = [], []
    for layers in RUNS:
        first = chosen(results, layers)
        low, high = lower(results, one, other, layers, first)
        verdicts.append(decided(low, high))
        difference = float((results[key(one, layers, first)] - results[key(other, layers, first)]).mean())
        texts.append(f"{layers}: {difference:+.3f} ({low:+.3f} to {high:+.3f})")
    places = [(layers, first) for layers in RUNS for first in range(1, LAYERS - layers + 1)]
    won = sum(decided(*lower(results, one, other, *place)) is True for place in places)
    lost = sum(decided(*lower(results, one, other, *place)) is False for place in places)
    return (
        f"{one} has a lower perplexity than {other}",
        "difference in loss below zero at the chosen place, for runs of 1, 2 and 3 layers",
        f"{'; '.join(texts)}. At all {len(places)} places: lower at {won}, higher at {lost}",
        word(every(*verdicts)),
    )


def table(results: dict[str, np.ndarray]) -> list[str]:
    lines = [f"| layers left out | cosine distance | {' | '.join(METHODS)} |", f"|---|---:|{'---:|' * len(METHODS)}"]
    for layers in RUNS:
        for first in range(1, LAYERS - layers + 1):
            cells = []
            for method in METHODS:
                values = results[key(method, layers, first)]
                low, high = interval(values)
                cells.append(f"{math.exp(values.mean()):.2f} ({math.exp(low):.2f} to {math.exp(high):.2f})")
            mark = " (chosen)" if first == chosen(results, layers) else ""
            span = str(first) if layers == 1 else f"{first} to {first + layers - 1}"
            lines.append(f"| {span}{mark} | {results[f'distance {layers}'][first - 1]:.3f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = language_model(options.model)
    pieces = held_out(options.sequences)
    results = measured(model, sequences(parts()[0], options.calibration, 10_000)[:, :-1], pieces)
    claims = [claim(results, "refit", other) for other in ("ReplaceMe", "TOAST", "dropped")]
    claims += [claim(results, "ReplaceMe", "dropped"), claim(results, "ReplaceMe", "TOAST")]
    low, high = interval(results["whole"])
    whole = f"{math.exp(results['whole'].mean()):.2f} ({math.exp(low):.2f} to {math.exp(high):.2f})"
    lines = [
        "# A refit, and linear maps in place of layers",
        "",
        f"Made by `python analysis/transformers/replace_layers.py` with resnet_paths {__version__}, torch "
        f"{torch.__version__}: GPT-2 of {LAYERS} layers on characters (`language_model.py --steps 500`), "
        f"{options.calibration} calibration sequences of {LENGTH} from the training text, perplexity per character on "
        f"{len(pieces)} sequences of held-out text that do not overlap; 95 % intervals over sequences, differences "
        f"paired. The full model has {whole}. A character model this small says how the methods compare on it, not on "
        "large models.",
        "",
        "`ReplaceMe` and `refit` add no weights, `TOAST` adds a matrix of width x width. ReplaceMe and TOAST are "
        "written in the script from the formulas of the papers (least squares, no regularisation); ReplaceMe's other "
        "objective, the cosine distance, has no closed form and is not compared.",
        "",
        "| claim | expected | measured, in nats per character by layers left out | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(row)} |" for row in claims],
        "",
        "Perplexity:",
        "",
        *table(results),
        "",
    ]
    (HERE / "replace_layers.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
