"""A small language model of characters: the subject of the studies in this folder.

    python analysis/transformers/language_model.py --out FILE [--steps 800]

Hugging Face's GPT-2 with 8 layers of width 96 (0.9 million weights) reads 64 characters of the text of Python's own
`help()` topics, which come with every Python (465,000 characters). The last tenth of the text is held out. Training
takes about eight minutes on one core (held-out loss 1.65 nats per character); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from transformers import GPT2Config, GPT2LMHeadModel

LENGTH, WIDTH, LAYERS, HEADS = 64, 96, 8, 4


def text() -> tuple[torch.Tensor, list[str]]:
    """The text as numbers of characters, and the characters."""
    whole = "\n".join(topics[name] for name in sorted(topics))
    characters = sorted(set(whole))
    number = {character: index for index, character in enumerate(characters)}
    return torch.tensor([number[character] for character in whole]), characters


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    """The text that the model is trained on, and the held-out text."""
    numbers, _ = text()
    split = len(numbers) * 9 // 10
    return numbers[:split], numbers[split:]


def sequences(numbers: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Random pieces of LENGTH + 1 characters, (count, LENGTH + 1)."""
    starts = torch.randint(len(numbers) - LENGTH, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([numbers[start : start + LENGTH + 1] for start in starts])


class Logits(nn.Module):
    """The language model as a function from characters to logits, (batch, length, characters)."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=characters, use_cache=False).logits
        return logits


def language_model(weights: Path | None = None) -> Logits:
    """The model, with the weights of a file if one is given."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(text()[1]), n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Logits(GPT2LMHeadModel(config)).eval()
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model


def token_loss(logits: torch.Tensor, pieces: torch.Tensor) -> torch.Tensor:
    """The mean loss of each sequence in nats per character, (batch,)."""
    losses = F.cross_entropy(logits.transpose(1, 2), pieces[:, 1:], reduction="none")
    return losses.mean(1)


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=24)
    options = parser.parse_args()
    train, held_out = parts()
    model = language_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / 100, 0.5 + 0.5 * math.cos(math.pi * step / options.steps))
    )
    start = time.perf_counter()
    for step in range(options.steps):
        pieces = sequences(train, options.batch_size, step)
        loss = token_loss(model(pieces[:, :-1]), pieces).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(step + 1, f"{float(loss.detach()):.3f}", f"{time.perf_counter() - start:.0f} s", flush=True)
    model.eval()
    pieces = sequences(held_out, 512, 0)
    with torch.no_grad():
        print("held-out loss", float(token_loss(model(pieces[:, :-1]), pieces).mean()))
    save_file(model.state_dict(), options.out)


if __name__ == "__main__":
    main()
