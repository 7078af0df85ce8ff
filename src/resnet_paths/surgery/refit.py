"""Repair a network after blocks are dropped, in closed form: least squares for the remaining blocks' last layers.

A dropped block leaves an error in the stream, which every later block reads. Each remaining block ends in a layer that
is linear in its weights, so the weights that bring the block's sum closest to the full network's solve normal
equations: no labels, no gradient, no learning rate, and the shapes, keys and latency of the dropped model. The blocks
are fitted in order, each on the output of the network repaired so far, so that later blocks also correct the errors
that earlier ones leave.

Sets are independent of each other, so a search refits several at once, in threads. Each thread works on a copy of the
network; the full network's states, and the fits of single blocks that sets have in common, are shared.

A fit to few images overfits. A stronger ridge does not help: on the way between old and fitted weights it passes
through weights worse than either. What helps is a *step* from the old weights towards the fitted ones. Its length, and
so whether to repair at all, is chosen on held-out images by the divergence of the outputs from the full network's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import SOME_SHARE
from ..data import ImageSource
from ..data.inputs import Inputs, as_inputs, placed_input
from ..data.position_metrics import channels_beside
from ..data.predictions import divergence_of
from ..draws import seeded
from ..graph.eval_mode import check_eval
from ..graph.inputs import call_model, named
from ..graph.private_copy import private_copy
from ..network import BlockRef, Twins, UnrolledNetwork, for_inference, unroll
from ..network.inference import foldable
from ..network.norms import tracking_norms
from ..records import Shown
from ..tables import data_frame
from .recalibrate import recalibrate_batchnorm
from .refit_layers import LayerFit, measure_statistics, put, put_folded
from .refit_problem import BlockProblem
from .refit_sites import Site, Sites
from .refit_streams import DroppedRun, FullRun
from .removal import without_blocks
from .running_statistics import norms_before

if TYPE_CHECKING:
    import pandas as pd

Repair = Literal["plain", "recalibrated", "refitted"]
_ROWS = 4096
"""Rows of scores that are compared at a time: in float64, those of a vocabulary are large."""
_REMEMBERED = 512
"""Number of single-block fits to remember: a search extends one set at a time, and all extensions share its fits."""


@checked(steps=SOME_SHARE)
@dataclass(frozen=True)
class RefitSettings:
    """How to refit.

    Attributes:
        held_out: share of the images held out to choose the length of the step; the others are used for fitting.
        steps: the lengths to try; 0 is the plain drop, 1 the full solution.
        ridge: pull towards the old weights, relative to the mean square of a feature. It is meant for features that
            the images do not determine; how far to trust the fit is left to the step.
        rows_per_feature: positions used to fit a layer, per feature of the layer.
        batch_size: images per batch.
        memory: bytes for the full network's states, which then serve every set of blocks. If they do not fit, they
            are recomputed for each block, which takes about n / 2 times as long.
        seed: seed of the split and of the sampled positions.
    """

    held_out: float = 0.25
    steps: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    ridge: float = 1e-4
    rows_per_feature: int = 60
    batch_size: int = 100
    memory: float = 2e9
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.held_out < 1 or self.ridge < 0 or self.rows_per_feature < 1 or self.batch_size < 1:
            raise ValueError(
                "expected held_out between 0 and 1, ridge at least 0, rows_per_feature and batch_size at least 1, "
                f"got {self.held_out}, {self.ridge}, {self.rows_per_feature} and {self.batch_size}"
            )
        if not all(0 < step <= 1 for step in self.steps):
            raise ValueError(f"expected steps above 0 and up to 1, got {self.steps}")


@dataclass(frozen=True)
class BlockFit:
    """The fit of one block.

    Attributes:
        block: its name.
        target: the block whose sum in the full network it was fitted to.
        layers: names of the fitted layers, joined by commas.
        before: mean squared error of its sum before the fit, with all earlier blocks fitted.
        after: mean squared error after the fit, on the same images and positions.
        reason: why nothing was fitted; empty if something was.
    """

    block: str
    target: str
    layers: str
    before: float
    after: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class RefitResult(Shown):
    """A repaired network without some blocks, and how the repair was chosen.

    Attributes:
        model: the smaller model, with the chosen repair.
        dropped: names of the dropped blocks.
        repair: ``"plain"``, ``"recalibrated"`` (batch-norm statistics measured again) or ``"refitted"``.
        step: the fraction of the way to the fitted weights; 0 if the model is not refitted.
        divergences: for each repair tried, the mean divergence of the finished model's outputs from the full network's
            on the held-out images.
        steps: for each length of step, the same divergence, estimated on the folded network.
        blocks: the fit of each block that the drop affects.
        fitted_images: number of images used for fitting.
        held_out_images: number of held-out images, on which the repair was chosen.
        reason: the choice in one line.
    """

    model: nn.Module
    dropped: tuple[str, ...]
    repair: Repair
    step: float
    divergences: dict[str, float]
    steps: dict[float, float]
    blocks: tuple[BlockFit, ...]
    fitted_images: int
    held_out_images: int
    reason: str

    def to_pandas(self) -> pd.DataFrame:
        """One row per block that the drop affects."""
        return data_frame([vars(block) for block in self.blocks])


@dataclass(frozen=True, eq=False)
class _Solution:
    """Fitted layers for one set of blocks, the divergence at each step, and the first block affected."""

    fits: tuple[LayerFit, ...]
    steps: dict[float, float]
    blocks: tuple[BlockFit, ...]
    start: int

    @property
    def step(self) -> float:
        """The step with the smallest divergence."""
        return _least(self.steps)


@dataclass(frozen=True, eq=False)
class _WorkingNetwork:
    """A copy of the network in which one set at a time is refitted."""

    net: UnrolledNetwork
    twins: Twins
    sites: Sites


class Refitter:
    """Repairs one network for many sets of dropped blocks, on the same images.

    The full network's states, sums and outputs are computed once. Several threads may use one refitter.

    Args:
        net: the network, in eval mode; neither it nor its model is changed.
        images: calibration images, with or without labels, like those the model saw in training: anything that
            :func:`~resnet_paths.data.as_data` reads, a tensor, or batches of inputs.
        groups: a group number per image; a group (crops of one photo) is never split between fitting and held-out
            images.
        settings: default :class:`RefitSettings`.

    Attributes:
        fitted_images: the images used for fitting.
        held_out_images: the held-out images, on which the repair is chosen.

    Raises:
        UnrollError: the model is in training mode.
        ValueError: there are too few images to hold some out, no position counts, or the network's output for some is
            not a number.

    Example:
        >>> from resnet_paths import load_data, load_model, unroll
        >>> refitter = Refitter(unroll(load_model("embedded")), load_data("digits", "train").sample(80))
        >>> divergence = refitter.divergence([3, 7])
        >>> result = refitter([3, 7])
        >>> result.divergences[result.repair] <= result.divergences["plain"]
        True
    """

    def __init__(
        self,
        net: UnrolledNetwork,
        images: ImageSource | torch.Tensor,
        *,
        groups: Sequence[int] | torch.Tensor | None = None,
        settings: RefitSettings | None = None,
    ) -> None:
        check_eval(net.model)
        self.net = net
        self.settings = settings or RefitSettings()
        inputs = as_inputs(images, net.model)
        numbers = None if groups is None else torch.as_tensor(groups, device="cpu")
        self.fitted_images, self.held_out_images = inputs.apart(self.settings.held_out, numbers, self.settings.seed)
        counted = [part.counted for part in (self.fitted_images, self.held_out_images)]
        if not all(part is None or part.any() for part in counted):
            raise ValueError(
                "expected positions that count among the inputs to fit on and among those held out, got none; all are "
                "labelled -100 or hidden by the attention mask"
            )
        self._scores = net.output_path[-1:] != ("last_hidden_state",)
        self._arguments = net.segments.inputs
        self._norms = dict(foldable(net.segments.program))
        self._fits: OrderedDict[tuple[int, tuple[int, ...]], tuple[list[LayerFit], BlockFit]] = OrderedDict()
        self._idle: list[_WorkingNetwork] = []
        self._lock = Lock()  # of the two above
        full = for_inference(net, dtype=_exact_type(net.model))
        with torch.inference_mode():
            size, share = self.settings.batch_size, self.settings.held_out
            self._full = FullRun(full, self.fitted_images, size, self.settings.memory * (1 - share))
            self._full_held_out = FullRun(full, self.held_out_images, size, self.settings.memory * share, sums=False)
            self._check_numbers()

    def divergence(self, dropped: Sequence[BlockRef] | BlockRef, *, steps: Sequence[float] | None = None) -> float:
        """The divergence on the held-out images after refitting with the best step.

        This is the score that a search over sets of blocks compares; no model is built.

        Args:
            dropped: indices or names of blocks.
            steps: the steps to try (default: 0, the plain drop, and those of the settings).

        Cost: about three forward passes over the fitting images, starting at the first block not shared with an earlier
        set; and per step one over the held-out images, starting at the first block affected.
        """
        solution = self._solved(self.net.indices(dropped), steps)
        return solution.steps[solution.step]

    def on(self, images: ImageSource | torch.Tensor) -> Callable[[Sequence[BlockRef] | BlockRef], torch.Tensor]:
        """A function from a set of blocks to the outputs on other images after refitting with its best step.

        No model is built.

        Example:
            >>> from resnet_paths import load_data, load_model, unroll
            >>> data = load_data("digits", "train")
            >>> refitter = Refitter(unroll(load_model("embedded")), data.sample(80))
            >>> refitter.on(data.subset([0, 1, 2]))([3, 7]).shape
            torch.Size([3, 10])
        """
        other = as_inputs(images, self.net.model)
        with torch.inference_mode():
            full = FullRun(self._full.net, other, self.settings.batch_size, self.settings.memory, sums=False)

        def outputs(dropped: Sequence[BlockRef] | BlockRef) -> torch.Tensor:
            indices = self.net.indices(dropped)
            solution = self._solved(indices)
            with self._working_network() as working, torch.inference_mode():
                try:
                    put_folded(working.net.model, solution.fits, solution.step)
                    return self._outputs(working, full, indices, solution.start)
                finally:
                    put_folded(working.net.model, solution.fits, 0.0)

        return outputs

    def __call__(self, dropped: Sequence[BlockRef] | BlockRef, *, inplace: bool = False) -> RefitResult:
        """The smaller model with the best of three repairs: plain (none), recalibrated, refitted.

        Args:
            dropped: indices or names of blocks.
            inplace: whether to change the network's model itself.

        Raises:
            NotDroppableError: a block cannot be dropped.
        """
        indices = self.net.indices(dropped)
        solution = self._solved(indices)
        kept = norms_before(self.net, indices)
        bare = without_blocks(self.net, indices)
        candidates: dict[Repair, nn.Module] = {"plain": bare}
        if indices and set(tracking_norms(bare)) - set(kept):
            candidates["recalibrated"] = private_copy(bare)
            recalibrate_batchnorm(candidates["recalibrated"], self._batches(self.fitted_images), keep=kept)
        if solution.step:
            candidates["refitted"] = private_copy(bare)
            put(candidates["refitted"], solution.fits, solution.step)
        with torch.inference_mode():
            divergences = {name: self._of_model(model) for name, model in candidates.items()}
        best = _least(divergences)
        if best == "refitted":
            changed = [fit.norm for fit in solution.fits if fit.norm is not None]
            measure_statistics(candidates[best], changed, self._batches(self.fitted_images))
        model = candidates[best]
        if inplace:
            weights = model.state_dict()
            model = without_blocks(self.net, indices, inplace=True)
            model.load_state_dict(weights)
        return RefitResult(
            model=model,
            dropped=tuple(self.net[index].name for index in indices),
            repair=best,
            step=solution.step if best == "refitted" else 0.0,
            divergences={str(name): value for name, value in divergences.items()},
            steps=solution.steps,
            blocks=solution.blocks,
            fitted_images=self.fitted_images.count,
            held_out_images=self.held_out_images.count,
            reason=_reason(divergences, best, solution, self.held_out_images.count),
        )

    def _check_numbers(self) -> None:
        """Refuse NaN: no weights fit it, and no repair is closer to it than another."""
        outputs = chain(self._full.each_output(), [self._full_held_out.outputs])
        if broken := sum(int(part.isnan().reshape(len(part), -1).any(1).sum()) for part in outputs):
            count = self.fitted_images.count + self.held_out_images.count
            raise ValueError(
                f"expected the network's outputs for the calibration inputs to be numbers, got NaN for {broken} of "
                f"{count}; leave these inputs out"
            )

    def _solved(self, indices: Sequence[int], steps: Sequence[float] | None = None) -> _Solution:
        """Fit all blocks that a set affects, and evaluate each step."""
        fits: list[LayerFit] = []
        with self._working_network() as working, torch.inference_mode():
            sites = working.sites.of(indices)
            start = min((site.block for site in sites), default=0)
            run = DroppedRun(self._full, working.twins, self._gates(indices), start)
            try:
                blocks = tuple(self._fit_once(working, site, run, indices, fits) for site in sites)
                divergences = {}
                for step in (0.0, *self.settings.steps) if steps is None else steps:
                    put_folded(working.net.model, fits, step)
                    outputs = self._outputs(working, self._full_held_out, indices, start)
                    divergences[step] = self._divergence(outputs)
                    if not fits:
                        break
            finally:
                # The working copy goes back to the pool with its old weights, also after an error.
                put_folded(working.net.model, fits, 0.0)
        return _Solution(tuple(fits), divergences, blocks, start)

    @contextmanager
    def _working_network(self) -> Iterator[_WorkingNetwork]:
        """A working copy that no other thread is using; created if all are taken."""
        with self._lock:
            working = self._idle.pop() if self._idle else None
        if working is None:
            with torch.inference_mode(False):
                work = for_inference(self.net, dtype=_exact_type(self.net.model))
            working = _WorkingNetwork(work, Twins(self._full.net, work), Sites(work.segments))
        try:
            yield working
        finally:
            with self._lock:
                self._idle.append(working)

    def _fit_once(
        self, working: _WorkingNetwork, site: Site, run: DroppedRun, indices: Sequence[int], fits: list[LayerFit]
    ) -> BlockFit:
        """Fit one block, or reuse the fit of an earlier set that agrees up to here; add its layers to `fits`."""
        # A fit depends on the dropped blocks up to its target and on no later ones, so sets that agree up to there
        # share it.
        key = site.block, tuple(sorted(index for index in indices if index <= site.target))
        with self._lock:
            known = self._fits.get(key)
        # Outside the lock: two threads that fit the same block at once waste time, but get the same numbers.
        new, block = known or self._fit(working, site, run)
        with self._lock:
            self._fits[key] = new, block
            self._fits.move_to_end(key)
            while len(self._fits) > _REMEMBERED:
                self._fits.popitem(last=False)
        fits += new
        put_folded(working.net.model, new, 1.0)
        return block

    def _fit(self, working: _WorkingNetwork, site: Site, run: DroppedRun) -> tuple[list[LayerFit], BlockFit]:
        """Fit one block in the working network, whose earlier blocks are already fitted."""
        name, target = self.net[site.block].name, self.net[site.target].name
        # One generator per block, so that a fit is the same whichever blocks were fitted, or remembered, before it.
        generator = seeded(self.settings.seed + site.block)
        problem = BlockProblem(
            working.net.segments, site, self.settings.rows_per_feature, self.fitted_images.count, generator
        )
        reason = site.reason
        for number, x in self._full.batches() if not reason else ():
            values = working.net.inside(run.state(number, x, site.block), branch=not site.dropped)
            if not problem.add(values, self._full.sum_at(number, x, site.target), self._full.counted(number)):
                reason = problem.reason
                break
        if reason:
            return [], BlockFit(name, target, "", math.nan, math.nan, reason)
        new, before, after = problem.solve(self.settings.ridge)
        new = [replace(fit, norm=self._norms.get(fit.layer)) for fit in new]
        return new, BlockFit(name, target, ", ".join(fit.layer for fit in new), before, after)

    def _batches(self, inputs: Inputs) -> Iterator[Any]:
        """Inputs in batches, in the form in which the model is called."""
        for x in inputs.batches(self.settings.batch_size):
            x = placed_input(x, self.net.model)
            yield named(self.net.model, self._arguments, x) if isinstance(x, tuple) else x

    def _gates(self, indices: Sequence[int]) -> list[float]:
        return [0.0 if index in set(indices) else 1.0 for index in range(len(self.net))]

    def _outputs(self, working: _WorkingNetwork, full: FullRun, indices: Sequence[int], start: int) -> torch.Tensor:
        """The current working network's outputs on the images of a run of the full network."""
        run = DroppedRun(full, working.twins, self._gates(indices), start)
        return torch.cat([run.state(number, x, len(self.net)).value for number, x in full.batches()])

    def _of_model(self, model: nn.Module) -> float:
        outputs = [self.net.followed(call_model(model, x)) for x in self._batches(self.held_out_images)]
        return self._divergence(torch.cat(outputs))

    def _divergence(self, outputs: torch.Tensor) -> float:
        """The divergence of outputs on the held-out images from the full network's."""
        goal = self._full_held_out.outputs
        return divergence(outputs.to(goal), goal, self.held_out_images.counted, scores=self._scores)


@checked
def refit_blocks(
    model: nn.Module | UnrolledNetwork,
    blocks: Sequence[BlockRef] | BlockRef,
    images: ImageSource | torch.Tensor,
    *,
    groups: Sequence[int] | torch.Tensor | None = None,
    settings: RefitSettings | None = None,
    example_input: Any = None,
    inplace: bool = False,
) -> RefitResult:
    """Drop blocks and repair the rest in closed form, without labels or training.

    Each remaining block i that the drop affects, in order, gets the last layer W (and shortcut projection, if it has
    one) that solves

        min over W, b of  mean over images and positions |S y + W h + b - s_j|^2 + ridge m |(W, b) - (W_i, b_i)|^2

    on the network as repaired so far, where y is the block's input, S its shortcut, h the layer's input, s_j the full
    network's sum after the last of the dropped blocks that directly follow i (i itself if none does), and m the mean
    square of a feature. Norms with fixed statistics and learned scales after the layer are part of W. The weights then
    move a step between 0 and 1 from the old to the fitted ones. The step, and whether the plain or the recalibrated
    drop is better still, is chosen on held-out images by the divergence from the full network's outputs
    (Kullback-Leibler for logits, otherwise the squared error relative to the mean square). For tokens, and wherever
    labels are given for positions, it is the mean over positions; those that an attention mask hides or that are
    labelled -100 are neither fitted nor counted.

    Args:
        model: any residual model in eval mode, or its network.
        blocks: indices or names of the blocks to drop.
        images: a few hundred calibration images like those the model saw in training, with or without labels.
        groups: a group number per image; a group (crops of one photo) stays on one side of the split.
        settings: default :class:`RefitSettings`.
        example_input: see :func:`resnet_paths.unroll`.
        inplace: whether to change the model itself.

    Returns:
        The repaired model, in :attr:`RefitResult.model`, and which repair was chosen and why.

    Raises:
        BlockIndexError: there is no such block.
        NotDroppableError: a block cannot be dropped.
        ValueError: there are fewer than two groups of images, or no position counts.

    Cost: about four forward passes over the images, and for each fitted layer with F features the solution of F
    equations. Memory: the images, and up to ``settings.memory`` bytes.

    Source: ThiNet (Luo, Wu and Lin 2017, section 3.3) fits channels by least squares; here whole blocks are dropped.

    Example:
        >>> from resnet_paths import load_data, load_model
        >>> result = refit_blocks(load_model("embedded"), [3, 7], load_data("digits", "train").sample(80))
        >>> result.dropped, result.repair in ("plain", "recalibrated", "refitted")
        (('layer1.3', 'layer1.7'), True)
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    return Refitter(net, images, groups=groups, settings=settings)(blocks, inplace=inplace)


def divergence(
    outputs: torch.Tensor, goal: torch.Tensor, counted: torch.Tensor | None = None, *, scores: bool = True
) -> float:
    """The divergence of outputs from the full network's, in nats: the mean of KL(goal || outputs) for scores.

    Scores are (images, classes), or one row of them for each position of `counted`; the mean is then over all positions
    that count. For other outputs it is the mean squared error, relative to the goal's mean square.

    Args:
        outputs: (images, ...).
        goal: the full network's outputs.
        counted: which positions count, (images, positions, ...); their scores are in the dimension after the images, or
            in the last one.
        scores: whether positions have scores, not features.

    Example:
        >>> logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0]]])
        >>> divergence(logits, torch.zeros(1, 2, 2), torch.tensor([[True, False]]))
        0.0
    """
    axis = None if counted is None or goal.ndim == 2 else channels_beside(goal, counted)
    if axis is not None and counted is not None:
        outputs, goal = (values.movedim(axis, -1)[counted.to(values.device)] for values in (outputs, goal))
    if goal.ndim == 2 and goal.shape[1] > 1 and (scores or axis is None):
        rows = zip(outputs.split(_ROWS), goal.split(_ROWS), strict=True)
        parts = [divergence_of(*(part.cpu().double() for part in pair)) for pair in rows]
        return float(torch.cat(parts).mean())
    outputs, goal = outputs.cpu().double(), goal.cpu().double()
    return float((outputs - goal).square().mean() / goal.square().mean().clamp_min(1e-300))


def _exact_type(model: nn.Module) -> torch.dtype | None:
    """The dtype to fit in: float32 for half precision, otherwise the model's own (None)."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    return torch.float32 if kinds & {torch.float16, torch.bfloat16} else None


Key = TypeVar("Key", float, Repair)


def _least(values: Mapping[Key, float]) -> Key:
    """The key of the smallest value (the first one on a tie); NaN counts as largest."""
    return min(values, key=lambda key: (math.isnan(values[key]), values[key]))


def _reason(divergences: dict[Repair, float], best: Repair, solution: _Solution, images: int) -> str:
    """The choice in one line."""
    listed = ", ".join(f"{name} {value:.3g}" for name, value in divergences.items())
    words = {"plain": "left as dropped", "refitted": f"refitted with a step of {solution.step:g}"}
    choice = words.get(best, best)
    if not solution.fits:
        why = "no block could be refitted" if solution.blocks else "nothing changes"
        return f"{choice}: {why}; divergence from the full network on {images} held-out inputs: {listed}"
    return f"{choice}: smallest divergence from the full network on {images} held-out inputs ({listed})"
