"""The operations of `resnet_paths.network.arithmetic` as loops over single numbers, for one image."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import product

import numpy as np

from resnet_paths.network.arithmetic import Operation


def run(steps: Sequence[Operation], image: np.ndarray, deleted: Collection[int] = ()) -> np.ndarray:
    """The logits (classes,) of an image (channels, height, width) with blocks deleted."""
    known: dict[int, np.ndarray] = {0: image}

    def value(place: int) -> np.ndarray:
        if place not in known:
            step = steps[place]
            of = step.of[:1] if step.does == "sum" and step.settings["block"] in deleted else step.of
            known[place] = result(step, [value(other) for other in of])
            assert known[place].shape == step.shape, step
        return known[place]

    return value(len(steps) - 1)


def result(step: Operation, given: list[np.ndarray]) -> np.ndarray:
    x, settings, tensors = given[0], step.settings, step.tensors
    if step.does in ("sum", "add"):
        return sum(given[1:], start=x)
    if step.does == "reshape":
        return x.reshape(step.shape)
    if step.does == "linear":
        return tensors["weight"] @ x + tensors.get("bias", 0)
    if step.does == "scale":
        return settings["factor"] * x + settings["shift"]
    if step.does == "affine":
        by = [values.reshape(-1, *[1] * (x.ndim - 1)) for values in (tensors["scale"], tensors["shift"])]
        return x * by[0] + by[1]
    if step.does == "multiply":
        return x * given[1].reshape(given[1].shape[0], *given[1].shape[1:] or [1] * (x.ndim - 1))
    if step.does == "mean":
        return x.mean((1, 2)).reshape(step.shape)
    if step.does in ACTIVATIONS:
        return np.vectorize(lambda number: ACTIVATIONS[step.does](number, **settings))(x)
    out = np.zeros(step.shape)
    for at in product(*map(range, step.shape)):
        out[at] = ENTRIES[step.does](step, x, at)
    return out


def convolution(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    weight, settings = step.tensors["weight"], step.settings
    out, y, column = at
    group = out // (weight.shape[0] // settings["groups"])
    total = float(step.tensors["bias"][out]) if "bias" in step.tensors else 0.0
    for channel, i, j in product(*map(range, weight.shape[1:])):
        row = y * settings["stride"][0] + i * settings["dilation"][0] - settings["padding"][0]
        over = column * settings["stride"][1] + j * settings["dilation"][1] - settings["padding"][1]
        if 0 <= row < x.shape[1] and 0 <= over < x.shape[2]:
            total += weight[out, channel, i, j] * x[group * weight.shape[1] + channel, row, over]
    return total


def adaptive_pool(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    part = [
        slice(k * size // count, -(-(k + 1) * size // count))
        for k, size, count in zip(at[1:], x.shape[1:], step.shape[1:], strict=True)
    ]
    return float(x[at[0], part[0], part[1]].mean())


def window(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> tuple[list[float], int]:
    """The numbers in a window, and how many there are with the zeros around the image."""
    settings, inside, counted = step.settings, [], 0
    spread = settings.get("dilation", [1, 1])
    for i, j in product(*map(range, settings["kernel"])):
        row, column = (
            at[axis + 1] * settings["stride"][axis] + k * spread[axis] - settings["padding"][axis]
            for axis, k in enumerate((i, j))
        )
        if row < x.shape[1] + settings["padding"][0] and column < x.shape[2] + settings["padding"][1]:
            counted += 1
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            inside.append(float(x[at[0], row, column]))
    return inside, counted


def average_pool(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    inside, counted = window(step, x, at)
    return sum(inside) / (counted if step.settings["count_padding"] else len(inside))


def max_pool(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    return max(window(step, x, at)[0])


def cut_out(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    settings = step.settings
    return float(x[tuple(s + k * every for k, s, every in zip(at, settings["starts"], settings["steps"], strict=True))])


def pad(step: Operation, x: np.ndarray, at: tuple[int, ...]) -> float:
    source = tuple(k - before for k, before in zip(at, step.settings["before"], strict=True))
    return float(x[source]) if all(0 <= k < size for k, size in zip(source, x.shape, strict=True)) else 0.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ENTRIES = {
    "convolution": convolution, "adaptive_pool": adaptive_pool, "average_pool": average_pool, "max_pool": max_pool,
    "slice": cut_out, "pad": pad,
}  # fmt: skip
ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "clip": lambda x, low, high: min(max(x, low), high),
    "leaky_relu": lambda x, slope: x if x > 0 else slope * x,
    "elu": lambda x, slope: x if x > 0 else slope * (math.exp(x) - 1),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "hardsigmoid": lambda x: min(max(x / 6 + 0.5, 0.0), 1.0),
    "hardswish": lambda x: x * min(max(x / 6 + 0.5, 0.0), 1.0),
}
