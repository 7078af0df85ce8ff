"""Test one model: count its blocks, compare its numbers, drop a block, pickle the result.

    python analysis/coverage/trial.py torchvision/resnet18 [...]

prints one JSON record per line. All numbers are in float64, with random norms, biases and layer scales, and with
random weights where a model is initialised to zero: otherwise many comparisons would pass trivially.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2] / "tests")]

from additions import call, sites  # noqa: E402
from catalogue import ALL, Entry  # noqa: E402
from rules import judge  # noqa: E402

from helpers import randomise_norms  # noqa: E402
from resnet_paths import drop_blocks  # noqa: E402
from resnet_paths.graph.program import call_of  # noqa: E402
from resnet_paths.network import NoBlocksError, UnrolledNetwork, UnrollError, unroll  # noqa: E402

Record = dict[str, Any]


def randomised(model: nn.Module) -> nn.Module:
    """A model in eval mode and float64 in which no parameter is constant.

    Weights so small that the signal would vanish after fifty layers are scaled to a variance of 1/fan-in.
    """
    model = randomise_norms(model.eval().double())
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        values = parameter.detach()
        if values.numel() > 1 and values.ne(values.flatten()[0]).any():
            usual = (values[0].numel() if values.ndim > 1 else 1) ** -0.5
            if values.ndim > 1 and 0 < float(values.std()) < 0.3 * usual:
                parameter.data.mul_(usual / values.std())
            continue
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        scale_like = values.numel() and values.ne(0).all()
        parameter.data.copy_(0.7 + 0.2 * noise.clamp(-2, 2) if scale_like else 0.1 * noise)
    return model


def outputs(result: Any) -> list[torch.Tensor]:
    """The floating-point tensors of a result; the first is the one compared."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest entry; over all outputs if both have the same number."""
    left, right = outputs(ours), outputs(theirs)
    if len(left) != len(right):
        left, right = left[:1], [next(r for r in right if r.shape == left[0].shape)]
    pairs = [(a.detach(), b.detach()) for a, b in zip(left, right, strict=True) if a.numel()]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    largest = max((float(b.abs().max()) for _, b in pairs), default=0.0)
    return max((float((a - b).abs().max()) for a, b in pairs), default=0.0) / (largest or 1.0)


def gradients(run: Callable[[Any], Any], model: nn.Module, inputs: Any, like: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of a random sum of the first output with respect to float inputs, or to weights for token indices."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    targets = leaves or [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.randn(like.shape, generator=torch.Generator().manual_seed(3), dtype=like.dtype)
    for leaf in leaves:
        leaf.requires_grad_()
    output = next(leaf for leaf in outputs(run(inputs)) if leaf.shape == like.shape)
    found = torch.autograd.grad((output * weights).sum(), targets, allow_unused=True)
    for leaf in leaves:
        leaf.requires_grad_(False)
    return [torch.zeros_like(to) if part is None else part for part, to in zip(found, targets, strict=True)]


def batch_of(entry: Entry, size: int, seed: int) -> Any:
    """An input of the model."""
    return entry.inputs(size, torch.Generator().manual_seed(seed))


def trial(entry: Entry) -> Record:
    """Everything the table says about one model. Errors are recorded, not raised."""
    record: Record = {"library": entry.library, "name": entry.name}
    if importlib.util.find_spec(entry.package) is None:
        return {**record, "status": "not tried", "reason": f"{entry.package} is not installed"}
    try:
        torch.manual_seed(0)
        model = randomised(entry.build())
        example = batch_of(entry, 2, 1)
        judgement = judge(sites(model, example))
    except Exception as error:  # the model itself does not run here
        return {**record, "status": "not tried", "reason": said(error)}
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    record["expected"], record["source"] = judgement.expected, judgement.source
    record["unjudged"] = sorted(judgement.unjudged)
    start, started = time.process_time(), time.perf_counter()
    try:
        net = unroll(model, example)
    except NoBlocksError as error:
        return {**record, "status": "refused", "found": 0, "reason": said(error)}
    except UnrollError as error:
        return {**record, "status": "failed", "found": 0, "reason": said(error)}
    except Exception as error:
        return {**record, "status": "raw error", "found": 0, "reason": said(error)}
    record["seconds"], record["wall seconds"] = time.process_time() - start, time.perf_counter() - started
    record.update(status="unrolled", found=len(net), front_end=net.front_end)
    record["missing"], record["further"] = judgement.match(
        (call_of(cut.add).path, block.owner) for cut, block in zip(net.segments.cuts, net, strict=True)
    )
    for step in (_exactness, _drop):
        try:
            step(record, entry, model, net)
        except UnrollError as error:
            record[f"error in {step.__name__[1:]}"] = said(error)
        except Exception as error:
            record[f"raw error in {step.__name__[1:]}"] = said(error)
    return record


def _exactness(record: Record, entry: Entry, model: nn.Module, net: UnrolledNetwork) -> None:
    """The network at gates of one against the model, on a batch of one although unrolled on a batch of two."""
    inputs = batch_of(entry, 1, 5)
    with torch.no_grad():
        theirs, ours = call(model, inputs), net(inputs)
    record["difference"] = difference(ours, theirs)
    like = outputs(ours)[0]
    if not like.numel():
        return
    expected = gradients(lambda given: call(model, given), model, inputs, like)
    record["gradient"] = difference(gradients(net, model, inputs, like), expected)
    record["output varies"] = difference(call(model, batch_of(entry, 1, 6)), theirs) > 0


def _drop(record: Record, entry: Entry, model: nn.Module, net: UnrolledNetwork) -> None:
    """Drop a middle block: it must equal a gate of zero, be smaller as stated in the table, and survive pickling."""
    inputs = batch_of(entry, 1, 5)
    droppable = [block.index for block in net if block.droppable]
    record["droppable"] = len(droppable)
    if not droppable:
        record["why not droppable"] = net[len(net) // 2].reason
        return
    block = net[droppable[len(droppable) // 2]]
    record["dropped"] = block.name
    gates = torch.ones(len(net), dtype=torch.float64)
    gates[block.index] = 0
    smaller = drop_blocks(net, [block.index])
    with torch.no_grad():
        gated, dropped = net(inputs, gates), call(smaller, inputs)
        whole = net(inputs)
    record["drop difference"] = difference(gated, dropped)
    record["drop changes"] = difference(gated, whole) > 0
    count = sum(parameter.numel() for parameter in smaller.parameters())
    record["parameters gone"] = record["parameters"] - count
    record["branch parameters"] = block.branch_parameters
    record["pickle"] = _pickled(smaller, model, inputs, dropped)


def _pickled(smaller: nn.Module, model: nn.Module, inputs: Any, dropped: Any) -> str:
    try:
        _reloaded(model)
    except Exception:
        return "as the model"  # the model itself does not pickle
    try:
        loaded = _reloaded(smaller)
        with torch.no_grad():
            return "yes" if difference(call(loaded, inputs), dropped) == 0 else "differs"
    except Exception as error:
        return f"no: {said(error)}"


def _reloaded(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


def said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:600]}"


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    for entry in ALL:
        if entry.key in wanted:
            with contextlib.redirect_stdout(sys.stderr):
                record = trial(entry)
            print(json.dumps(record))


if __name__ == "__main__":
    main()
