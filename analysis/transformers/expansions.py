"""Remainders of splits of a transformer's logits: this library's, and jet expansions of the decoder.

    python analysis/transformers/expansions.py --model FILE [--sequences 32]

FILE comes from language_model.py. Jet expansions (Chen et al. 2024, arXiv:2410.06024) write a function of a sum,
f(x_1 + ... + x_m), as a weighted sum of its Taylor polynomials around the terms, sum_i w_i J^k f(x_i)(x), and leave a
remainder. Here f is the last norm and the head, the terms are the embedding and what each attention and each MLP adds,
the weights are uniform, and the order k is 0 or 1 (k = 0 around partial sums is the logit lens). The splits by path
length go further down, through all blocks, and are complete: what the linear maps do not explain is a separate part.
Everything is in float64, on sequences that the model was not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from language_model import Logits, language_model, parts, sequences

from resnet_paths import logits_by_length, unroll
from resnet_paths.statistics import interval

HERE = Path(__file__).parent


@torch.no_grad()
def terms(model: Logits, characters: torch.Tensor) -> list[torch.Tensor]:
    """The embedding and what each block adds to the stream, (batch, length, width) each."""
    transformer, added = model.model.transformer, []
    hooks = [transformer.drop.register_forward_hook(lambda _, given, out: added.append(out))]
    for layer in transformer.h:
        hooks.append(layer.attn.register_forward_hook(lambda _, given, out: added.append(out[0])))
        hooks.append(layer.mlp.register_forward_hook(lambda _, given, out: added.append(out)))
    model(characters)
    for hook in hooks:
        hook.remove()
    return added


def jet(model: Logits, centre: torch.Tensor, point: torch.Tensor, order: int) -> torch.Tensor:
    """The Taylor polynomial of norm and head around a centre, at a point."""

    def decode(stream: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model.model.lm_head(model.model.transformer.ln_f(stream))
        return logits

    value, slope = torch.func.jvp(decode, (centre,), (point - centre,))
    result: torch.Tensor = value + slope if order else value
    return result


def share(left_over: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The norm of the remainder, as a share of the logits' norm, per sequence."""
    return left_over.flatten(1).norm(dim=1) / logits.flatten(1).norm(dim=1)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = language_model(options.model).double()
    characters = sequences(parts()[1], options.sequences, 0)[:, :-1]
    with torch.no_grad():
        logits = model(characters)
    added = terms(model, characters)
    stream = torch.stack(added).sum(0)
    left: dict[str, torch.Tensor] = {}
    for order in (0, 1):
        joint = torch.stack([jet(model, centre, stream, order) for centre in added]).mean(0)
        left[f"jets of order {order} around all {len(added)} terms, uniform weights"] = logits - joint
    for order in (0, 1):
        before = stream - added[-1] - added[-2]
        left[f"jet of order {order} around the stream before the last layer"] = logits - jet(
            model, before, stream, order
        )
    net = unroll(model, characters[:2])
    for way in ("tangent", "frozen"):
        remainders, residuals = [], []
        for batch in characters.split(8):
            split = logits_by_length(net, batch, linearise=way)
            remainders.append(split.parts["remainder"].sum(0))
            residuals.append(split.residual)
        left[f"by path length, {way} (all parts sum to the logits within {max(residuals):.0e})"] = torch.cat(remainders)
    shares = {name: share(value.detach(), logits) for name, value in left.items()}
    names = list(shares)
    verdict = "holds" if float(shares[names[-1]].max()) < 1e-9 < float(shares[names[1]].min()) else "does not hold"
    lines = [
        "# Remainders of logit splits",
        "",
        f"Made by `python analysis/transformers/expansions.py` with torch {torch.__version__}: GPT-2 of 8 layers on "
        f"characters, {options.sequences} held-out sequences of 64, float64. The norm of the remainder, as a share "
        "of the norm of the logits: mean over sequences with a 95 % interval.",
        "",
        "Expected: with what the operations decide held constant, the split by path length leaves nothing (below "
        f"1e-9), and first-order jets with uniform weights leave more. Verdict: {verdict}.",
        "",
        "| split | remainder |",
        "|---|---:|",
    ]
    for name, values in shares.items():
        low, high = interval(values.numpy()) if values.any() else (0.0, 0.0)  # zeros are exact here, not counts
        lines.append(f"| {name} | {values.mean():.3g} ({low:.3g} to {high:.3g}) |")
    lines += [
        "",
        "The two kinds answer different questions. A jet is a function in itself: it can be evaluated at other "
        "inputs, and its remainder says how far it is from the model there. A split by path length holds for one "
        "input; it says what each length adds to these logits.",
        "",
    ]
    (HERE / "expansions.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
