"""What a stage costs before it runs: counted in passes of the network, and priced by passes timed on this machine.

A stage knows how many passes its sizes need, whatever the model; a model and a machine have a price for a pass,
whatever the stage. So no stage needs a table of times, and a budget holds for models that nobody has tried.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..graph.inputs import examples_in, first, main_output
from ..graph.preserve import preserved
from ..graph.trees import DICTS, leaves, map_leaves
from ..network import UnrolledNetwork
from ..sweep import operation_threads
from ..tradeoff.timing import device_clock

_REPEATS = 3
_SLOW = 0.5  # seconds


@dataclass(frozen=True)
class Effort:
    """The work of a stage.

    Attributes:
        images: forward passes of single images.
        batches: forward passes of batches, each of which costs something whatever its images.
        gradients: forward and backward passes of single images.
        gradient_batches: and of batches.
        seconds: time that does not depend on the model, as for a clock that runs for a given time.
        bytes: memory in addition to that of a batch.
    """

    images: float = 0.0
    batches: float = 0.0
    gradients: float = 0.0
    gradient_batches: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        """Both, one after the other."""
        return Effort(
            self.images + other.images,
            self.batches + other.batches,
            self.gradients + other.gradients,
            self.gradient_batches + other.gradient_batches,
            self.seconds + other.seconds,
            max(self.bytes, other.bytes),
        )


def passes(times: float, images: int, at_once: int) -> Effort:
    """Forward passes over some images, in batches.

    Example:
        >>> passes(10, 250, at_once=100)
        Effort(images=2500, batches=30, gradients=0.0, gradient_batches=0.0, seconds=0.0, bytes=0.0)
    """
    return Effort(images=times * images, batches=times * math.ceil(images / at_once))


def gradients(times: float, images: int, at_once: int) -> Effort:
    """Forward and backward passes over some images, in batches."""
    return Effort(gradients=times * images, gradient_batches=times * math.ceil(images / at_once))


@dataclass(frozen=True)
class Prices:
    """What the passes of one network cost on this machine, in seconds.

    Attributes:
        image: a forward pass of one image of a batch.
        batch: the fixed cost of a forward pass, whatever its images.
        gradient: how many forward passes a forward and backward pass costs.
    """

    image: float
    batch: float
    gradient: float

    def seconds(self, effort: Effort) -> float:
        """The time that some work takes.

        Example:
            >>> Prices(image=0.25, batch=1.0, gradient=2.0).seconds(Effort(images=8, batches=1, gradients=2, seconds=3))
            7.0
        """
        images = effort.images + self.gradient * effort.gradients
        batches = effort.batches + self.gradient * effort.gradient_batches
        return images * self.image + batches * self.batch + effort.seconds


def measured_prices(
    net: UnrolledNetwork, fast: UnrolledNetwork, x: Any, length: int | None = None, longest: float = _SLOW
) -> Prices:
    """Time a pass of one image and of several, and their gradients.

    Args:
        net: the network, for gradients.
        fast: the network as forward passes use it.
        x: images or other inputs, as many as a batch should have at most.
        length: how many they are; None: as many as the first tensor has.
        longest: seconds; the longest single timing, as far as possible; whatever takes longer is timed only once.
    """
    length = examples_in(x) if length is None else length
    with preserved(net.model), torch.inference_mode():
        single = _seconds(lambda: fast(first(x, 1, length)), longest)
        count = min(length, max(2, int(longest / max(single, 1e-9))))
        several = _seconds(lambda: fast(first(x, count, length)), longest) if count > 1 else single
    image = max((several - single) / (count - 1), 0.2 * several / count) if count > 1 else single
    with preserved(net.model), torch.inference_mode(False):
        few = min(count, 8, max(1, int(longest / (3 * image))))
        own = map_leaves(first(x, few, length), lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf)
        gradient = _seconds(lambda: _gradient(net.model, own), longest)
    batch = max(several - count * image, 0.0)
    return Prices(image, batch, gradient / (few * image + batch))


def quickest_threads(fast: UnrolledNetwork, x: Any, threads: int) -> int:
    """One or `threads`: the number of threads per operation with which forward passes are faster, measured in turn.

    Dividing the operations of a small network costs more than it saves, above all on a busy machine, since every
    operation waits for its slowest thread. On an accelerator nothing is measured, nor if a pass takes long: then its
    operations are large enough.
    """
    devices = {leaf.device.type for leaf in leaves(x) if isinstance(leaf, torch.Tensor)}
    if threads == 1 or devices != {"cpu"}:
        return threads
    times: dict[int, list[float]] = {1: [], threads: []}
    for repeat in range(1 + _REPEATS):
        for count, of_count in times.items():
            with operation_threads(count), preserved(fast.model), torch.inference_mode():
                start = device_clock()
                fast(x)
                of_count.append(device_clock() - start)
        if not repeat and times[threads][0] > _SLOW:
            return threads
    return min(times, key=lambda count: statistics.median(times[count][1:]))


def _seconds(call: Callable[[], Any], longest: float) -> float:
    """The median time of a call, after one that warms up."""
    times = []
    for repeat in range(1 + _REPEATS):
        start = device_clock()
        call()
        times.append(device_clock() - start)
        if repeat and times[0] > longest:
            break
    return statistics.median(times[1:])


def _gradient(model: nn.Module, x: Any) -> None:
    """The gradient of a loss that any output has; which one it is hardly changes the time."""
    args, kwargs = ((), x) if isinstance(x, DICTS) else (x if isinstance(x, tuple) else (x,), {})
    with torch.enable_grad():
        named = {
            name: parameter.detach().requires_grad_(parameter.is_floating_point())
            for name, parameter in model.named_parameters()
        }
        output = main_output(torch.func.functional_call(model, named, args, kwargs))
        weights = [weight for weight in named.values() if weight.requires_grad]
        torch.autograd.grad(output.float().square().sum(), weights, allow_unused=True)


@dataclass(frozen=True)
class Footprint:
    """The memory of one image's pass, in bytes.

    Attributes:
        total: all values computed, as a backward pass needs them.
        largest: the largest of them.
        entries: the entries of all blocks together, as they are kept by passes that share their first blocks.
        entry: the largest of these.
        output: the network's output.
    """

    total: int
    largest: int
    entries: int
    entry: int
    output: int = 0

    @property
    def forward(self) -> int:
        """What an image adds to a batch of forward passes that share their first blocks."""
        return self.entries + 6 * self.largest

    @property
    def backward(self) -> int:
        """What an image adds to a forward and backward pass."""
        return 2 * self.total

    @classmethod
    def of(cls, net: UnrolledNetwork, x: Any, length: int | None = None) -> Footprint:
        """Count what one image's pass computes. It follows from shapes alone, and is the same on each machine."""
        one = first(x, 1, examples_in(x) if length is None else length)
        with preserved(net.model), torch.inference_mode(), _Outputs() as seen:
            output = net(one)
        entries = [math.prod(block.entry_shape or ()) * output.element_size() for block in net]
        return cls(
            seen.total, seen.largest, sum(entries), max(entries, default=0), output.numel() * output.element_size()
        )


class _Outputs(TorchFunctionMode):
    """Adds up the sizes of all tensors that functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                size = leaf.numel() * leaf.element_size()
                self.total, self.largest = self.total + size, max(self.largest, size)
        return result
