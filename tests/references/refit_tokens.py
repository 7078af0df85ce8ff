"""A refit of GPT-2 written out: every token that counts is a row of one tall matrix, in the model as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def recorded(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[list[Any], list[torch.Tensor]]:
    """What the last layer of each block reads, and the stream after each block (attention, MLP, attention, ...)."""
    read: list[torch.Tensor] = []
    streams: list[torch.Tensor] = []
    hooks = []
    for layer in model.transformer.h:
        for part in (layer.attn, layer.mlp):
            hooks.append(part.c_proj.register_forward_pre_hook(lambda _, given: read.append(given[0])))
        hooks.append(layer.ln_2.register_forward_pre_hook(lambda _, given: streams.append(given[0])))
        hooks.append(layer.register_forward_hook(lambda _, given, out: streams.append(out)))
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return read, [stream[0] if isinstance(stream, tuple) else stream for stream in streams]


def last_layer(model: nn.Module, block: int) -> Any:
    """The layer that ends a block, of weights (features, outputs)."""
    layer = model.transformer.h[block // 2]
    return (layer.mlp if block % 2 else layer.attn).c_proj


def drop(model: nn.Module, block: int) -> None:
    """Make a block add nothing."""
    nn.init.zeros_(last_layer(model, block).weight)
    nn.init.zeros_(last_layer(model, block).bias)


def refit(
    full: nn.Module,
    model: nn.Module,
    plan: list[tuple[int, int]],
    inputs: dict[str, torch.Tensor],
    counted: torch.Tensor,
    ridge: float,
) -> None:
    """Fit the last layers of blocks of a dropped model, in place and in order, each to a stream of the full model.

    Args:
        full: the full model.
        model: the dropped one.
        plan: blocks, and for each the block after which the full model's stream is its goal.
        inputs: of all sequences.
        counted: the tokens that count, (sequences, tokens).
        ridge: as a share of the mean of the Gram matrix's diagonal.
    """
    _, goals = recorded(full, inputs)
    for block, target in plan:
        read, streams = recorded(model, inputs)
        layer = last_layer(model, block)
        features = read[block][counted]
        with torch.no_grad():
            before = (streams[block] - read[block] @ layer.weight - layer.bias)[counted]
            rows = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1)
            pull = (ridge * rows.square().sum(0).mean()).sqrt()
            old = torch.cat([layer.weight, layer.bias[None]])
            tall = torch.cat([rows, pull * torch.eye(len(old), dtype=rows.dtype)])
            new = torch.linalg.lstsq(tall, torch.cat([goals[target][counted] - before, pull * old])).solution
            layer.weight.copy_(new[:-1])
            layer.bias.copy_(new[-1])
