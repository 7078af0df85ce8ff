"""Models measured side by side on the same images.

Every difference is taken image by image before it is averaged: two models are wrong on largely the same images, so the
interval of a paired difference is far narrower than two intervals side by side suggest. All that is measured of one
model is one point of a sweep. So a comparison of many checkpoints resumes where it was stopped, and workers divide the
models. Only latencies are measured at the end, in turn, since they depend on the machine and the moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import ComparedPart, MetricName
from ..data import ImageSource, InMemory
from ..data.fitting import data_for
from ..data.metrics import Metric, metric_named
from ..graph.errors import NoBlocksError
from ..graph.eval_mode import check_eval
from ..graph.inputs import call_model, placed
from ..landscape.cell_metrics import usual_loss_name
from ..lesion.evaluate import Network
from ..models.load import load_model
from ..network import unroll
from ..provenance import provenance
from ..sweep import RunOptions, SweepError, sweep
from ..sweep.result import last_line
from ..tradeoff import latencies_in_turn
from .checkpoints import checkpoints_in, told_apart
from .matching import match_blocks
from .measuring import OF_CLASSES, OF_LOSS, PARTS, Measuring, comparing, one_class_each, surface_steps
from .paired import statistics
from .record import Comparison
from .settings import PartSettings

Compared = nn.Module | Network | str | Path
"""A model, a network, or a name of a model as :func:`~resnet_paths.load_model` reads it."""

_ALIGNED_IMAGES = 64
"""Images on which outputs of blocks are compared: the error of linear CKA is about the inverse of their number."""
_CURVE_POINTS = 8
"""Numbers of randomly deleted blocks, spaced geometrically: the curve bends most where few are deleted."""
_ROUNDS = 15
"""Of latencies: an interval of the median at 96.5 % that leaves out the worst rounds."""
_OF_MODELS = ("parameters", "macs", "convex", "largest_eigenvalue", "smallest_eigenvalue", "recommended_order")
"""What is kept of each model as it is."""


@checked
@torch.inference_mode(False)
def compare(
    models: Mapping[str, Compared] | Sequence[Compared] | str | Path,
    data: ImageSource | Mapping[str, ImageSource],
    *,
    metric: MetricName | Metric = "error",
    parts: Sequence[ComparedPart] = ("contributions",),
    gradient_images: int = 32,
    draws: int = 10,
    settings: PartSettings | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> Comparison:
    """Compare models on the same images: metric, blocks, deletions, paths, and whatever else is asked for.

    For each model: the metric; the rise when each block is deleted; the metric after random deletions, and after
    deleting the least damaging blocks; the share of each path length among all paths and in the gradient. The parts,
    cheapest first, are: "contributions", what each block adds directly to the true class's logit; "effective",
    the share of each length if cancellation between paths is ignored; "recommended", the metric after dropping blocks
    in the order that a greedy search recommends; "shapley", what each block is worth if any of
    the others may be missing; "surface", the loss over a plane of random directions with common seeds, each scaled to
    the model's own filters; "curvature", the extreme eigenvalues of the Hessian; "latency", the time of a forward pass,
    all models in turn.

    Blocks that correspond are found by :func:`match_blocks`. Differences from the first model are paired by image, so
    ``compare([model, model], data)`` is exactly zero in all but latency.

    Args:
        models: at least two, in eval mode: modules, unrolled networks, plain networks
            (:func:`~resnet_paths.network.plain_layers`), or names and files as for :func:`~resnet_paths.load_model`;
            by name, or in order. Without names, files keep theirs and other models are numbered 1, 2, 3, ... Or the
            folder of a training with ``keep="all"``, which stands for its checkpoints.
        data: labelled images, or any other examples with targets (:func:`~resnet_paths.data.as_examples`); or, where
            models need different normalisation or sizes, a mapping from each model's name to the same images in the
            same order.
        metric: see :func:`~resnet_paths.lesion.single_deletions`.
        parts: what to measure beyond metric, blocks, deletions and gradients.
        gradient_images: number of images (the first) of which gradients and contributions are taken.
        draws: random sets of blocks for each number of deleted blocks.
        settings: how much the parts measure; see :class:`PartSettings`.
        confidence: coverage of each interval.
        seed: of all random draws, and of the halves of the images for `frontier`.
        **options: how to run, see :class:`~resnet_paths.sweep.RunOptions`; each model is a point.

    Raises:
        FileNotFoundError: a file does not exist, or a folder contains no checkpoints.
        ValueError: fewer than two models, an unknown part, or images that differ in number or labels.
        NoBlocksError: a module has no residual blocks; pass ``plain_layers(model, x)`` for a plain network.
        SweepError: a model failed.
        UnrollError: a model is in training mode.

    Cost: for each model about ``1.5 n + 8 draws`` forward passes of the images for n blocks, and the exact split of the
    gradient of `gradient_images` images. Parts, in the same unit: "contributions" one pass of `gradient_images` images;
    "effective" ``n draws`` gradients of them; "recommended" ``n^2 / 4`` passes of all images; of at most
    `settings.images` images, "shapley" 2^(n+1) evaluations of blocks up to 16 blocks and ``orders n / 2`` passes
    beyond, "surface" ``points^2`` passes, "curvature" about 60 gradients. "latency" takes `settings.latency_seconds`.

    Source: paired differences as in docs/explanation/intervals.md; deletions after Veit, Wilber and Belongie (2016),
    section 4; surfaces after Li et al. (2018), section 4.

    Example:
        >>> from resnet_paths import cifar_resnet, drop_blocks
        >>> from resnet_paths.data import digits
        >>> model = cifar_resnet(14, in_channels=1, widths=(4, 4, 4), seed=0).eval()
        >>> images = digits("test").subset(slice(0, 20))
        >>> record = compare({"full": model, "smaller": drop_blocks(model, [1])}, images, draws=2, progress=False)
        >>> record.matched_by, record.blocks[1], bool(np.isnan(record.damage[1, 1]))
        (('first', 'name'), 'layer1.1', True)
    """
    settings = settings or PartSettings()
    named = named_models(models)
    if len(named) < 2:
        raise ValueError(f"expected at least two models, got {len(named)}")
    images = _images(data, named, metric)
    for one in images.values():
        _check_parts(parts, one)
    networks = [_network(name, model, images[name]) for name, model in named.items()]
    matches = match_blocks(networks, [part.subset(slice(0, _ALIGNED_IMAGES)).x for part in images.values()])
    name, function = metric_named(metric)
    most, fewest = (pick(len(net) for net in networks) for pick in (max, min))
    plan = Measuring(
        networks=tuple(networks),
        images=tuple(images.values()),
        metric=function,
        counts=tuple(sorted({round(float(count)) for count in np.geomspace(1, fewest, _CURVE_POINTS)})),
        most=most,
        gradient_images=min(gradient_images, min(map(len, images.values()))),
        draws=draws,
        seed=seed,
        parts=tuple(part for part in PARTS if part in parts),
        settings=settings,
    )
    measured = _swept(plan, tuple(named), options)
    sources = tuple(provenance(net.model, part, seed=seed) for net, part in zip(networks, images.values(), strict=True))
    return Comparison(
        models=tuple(named),
        metric=name,
        blocks=matches.names,
        block_indices=matches.indices,
        similarity=matches.similarity,
        matched_by=matches.matched_by,
        counts=np.array(plan.counts),
        lengths=np.arange(most + 1),
        path_share=measured["paths"],
        confidence=confidence,
        draws=draws,
        images=len(plan.images[0]),
        gradient_images=plan.gradient_images,
        steps=surface_steps(settings) if "surface" in plan.parts else None,
        source=sources[0],
        sources=sources,
        **{key: measured[key] for key in _OF_MODELS if key in measured},
        **statistics(measured, matches.indices, name, confidence),
        **(_latencies(plan, confidence) if "latency" in parts else {}),
    )


def named_models(models: Any) -> dict[str, nn.Module | Network]:
    """Models by name; files and names of models are loaded, and a run's folder stands for its checkpoints."""
    if isinstance(models, str | Path):
        models = checkpoints_in(models)
    if not isinstance(models, Mapping):
        names = [str(one) if isinstance(one, str | Path) else str(place) for place, one in enumerate(models, 1)]
        models = dict(zip(told_apart(names), models, strict=True))
    return {name: load_model(str(model)) if isinstance(model, str | Path) else model for name, model in models.items()}


def _images(data: Any, models: Mapping[str, nn.Module | Network], metric: MetricName | Metric) -> dict[str, InMemory]:
    """Each model's images, or other examples; the same targets in the same order."""
    modules = {name: model if isinstance(model, nn.Module) else model.model for name, model in models.items()}
    names = tuple(modules)
    if not (isinstance(data, Mapping) and set(data) == set(names)):
        one = data_for(metric, data, modules[names[0]])
        return dict.fromkeys(names, one)
    images = {name: data_for(metric, data[name], modules[name]) for name in names}
    first = images[names[0]]
    for name, other in images.items():
        targets, expected = other.targets, first.targets
        same = targets is expected if targets is None or expected is None else torch.equal(targets, expected)
        if not same or len(first) != len(other):
            raise ValueError(
                f"expected the same labels for all models, got others for {name!r} ({len(other)} {other.nouns}) "
                f"than for {names[0]!r} ({len(first)}); pass the same {first.nouns} in the same order"
            )
    return images


def _check_parts(parts: Sequence[ComparedPart], data: InMemory) -> None:
    """Refuse parts that some data do not have, before any model is measured."""
    others = [part for part in parts if part not in OF_CLASSES]
    if len(others) < len(parts) and not one_class_each(data):
        advice = f"parts={others}" if others else "parts=()"
        raise ValueError(
            f"expected inputs of floats with one class each for {', '.join(sorted(OF_CLASSES & set(parts)))}, got "
            f"{data!r}; pass {advice}"
        )
    if OF_LOSS & set(parts):
        try:
            usual_loss_name(data)
        except ValueError as error:
            others = [part for part in parts if part not in OF_LOSS]
            raise ValueError(f"{str(error).partition(';')[0]}; pass parts={others or '()'}") from None


def _network(name: str, model: nn.Module | Network, images: InMemory) -> Network:
    """The network of a model, refused now rather than after hours on those before it."""
    if isinstance(model, nn.Module):
        try:
            model = unroll(model, placed(images.subset(slice(0, 2)).x, model))
        except NoBlocksError as error:
            hint = "For a network without shortcuts, pass plain_layers(model, x)."
            raise NoBlocksError(f"{name!r}: {error}\n{hint}") from None
    check_eval(model.model)
    return model


def _swept(plan: Measuring, names: tuple[str, ...], options: RunOptions) -> dict[str, np.ndarray]:
    """What was measured of all models, models first."""
    swept = sweep(comparing, plan.points, context=plan, retry_failed=True, chunk=1, **options)
    if swept.errors:
        failed, error = next(iter(swept.errors.items()))
        raise SweepError(f"expected values for all models; {names[failed]!r} failed: {last_line(error)}")
    return {key: np.asarray(value) for key, value in swept.values.items()}


def _latencies(plan: Measuring, confidence: float) -> dict[str, np.ndarray]:
    """The time of each model, and its share of the first one's in the same rounds."""
    settings = plan.settings
    batches = [
        placed(plan.images_of(number, settings.latency_batch).x, net.model) for number, net in enumerate(plan.networks)
    ]
    calls = [_call(net.model, x) for net, x in zip(plan.networks, batches, strict=True)]
    timings = latencies_in_turn(
        calls, batches[0], seconds=settings.latency_seconds, threads=settings.threads, rounds=_ROUNDS
    )
    shares = [timing.share_of(timings[0], confidence) for timing in timings]
    low, high = np.array([ends for _, ends in shares]).T
    return {
        "latency": np.array([timing.median for timing in timings]),
        "latency_share": np.array([share for share, _ in shares]),
        "latency_share_low": low,
        "latency_share_high": high,
    }


def _call(model: nn.Module, x: Any) -> Any:
    """A model on its own input: models may read images of different sizes."""
    return lambda *_, **__: call_model(model, x)
