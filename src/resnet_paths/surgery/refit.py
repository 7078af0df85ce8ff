"""Repairing a network after blocks are dropped, in closed form: the last layers of kept blocks fitted by least squares.

A dropped block leaves an error in the stream, and every later block reads it. Each kept block ends in a layer that is
linear in its weights, so the weights with which the block's sum comes closest to the full network's are the solution of
normal equations: no labels, no gradient, no learning rate, and the shapes, keys and latency of the dropped model. The
blocks are fitted in order, each on what the network repaired so far gives it, so that later blocks also repair what
earlier ones left over.

A fit to few images follows them too closely. A stronger ridge is no cure (between the old and the fitted weights it
passes through worse ones than either); what helps is a *step* from the old weights towards the fitted ones. Its
length, and so whether to repair at all, is chosen on images held out, by the divergence of the outputs from the full
network's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import SOME_SHARE
from ..data import ImageSource
from ..data.inputs import Inputs, as_inputs, placed_input
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
from .batch_statistics import norms_before
from .recalibrate import recalibrate_batchnorm
from .refit_layers import LayerFit, measure_statistics, put, put_folded
from .refit_problem import BlockProblem
from .refit_sites import Site, Sites
from .refit_streams import DroppedRun, FullRun
from .removal import without_blocks

if TYPE_CHECKING:
    import pandas as pd

Repair = Literal["plain", "recalibrated", "refitted"]
_REMEMBERED = 512
"""Fits of single blocks that are kept: those of a search's present set, which all sets that extend it share."""


@checked(steps=SOME_SHARE)
@dataclass(frozen=True)
class RefitSettings:
    """How to refit.

    Attributes:
        held_out: share of the images on which the length of the step is chosen; the others are fitted to.
        steps: lengths that are tried; 0 is the plain drop, 1 the full solution.
        ridge: pull towards the old weights, as a share of the mean square of a feature. It is there for features that
            the images do not decide; how far to trust the fit is the step's to say.
        rows_per_feature: positions that decide a layer's fit, for each of its features.
        batch_size: images per batch.
        memory: bytes for the full network's states, which then serve every set of blocks. Without room for them they
            are computed anew for each block, which takes about n / 2 times as long.
        seed: of the split and of the positions drawn.
    """

    held_out: float = 0.25
    steps: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    ridge: float = 1e-4
    rows_per_feature: int = 60
    batch_size: int = 100
    memory: float = 2e9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        if not 0 < self.held_out < 1 or self.ridge < 0 or self.rows_per_feature < 1 or self.batch_size < 1:
            raise ValueError(
                "expected apart between 0 and 1, ridge of at least 0, rows_per_feature and batch_size of at least 1, "
                f"got {self.held_out}, {self.ridge}, {self.rows_per_feature} and {self.batch_size}"
            )
        if not all(0 < step <= 1 for step in self.steps):
            raise ValueError(f"expected steps above 0 and up to 1, got {self.steps}")


@dataclass(frozen=True)
class BlockFit:
    """What became of one block.

    Attributes:
        block: its name.
        target: the block whose sum in the full network it was fitted to.
        layers: names of the layers that were fitted, joined by commas.
        before: mean squared error of its sum before the fit, with all blocks before it fitted.
        after: likewise after the fit, on the same images and positions.
        reason: why nothing was fitted; empty where something was.
    """

    block: str
    target: str
    layers: str
    before: float
    after: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class RefitResult(Shown):
    """A network without some blocks, repaired, and how the repair was chosen.

    Attributes:
        model: the smaller model, with the repair that was chosen.
        dropped: names of the blocks that are gone.
        repair: ``"plain"``, ``"recalibrated"`` (batch-norm statistics measured again) or ``"refitted"``.
        step: the part of the way to the fitted weights; 0 where it is not refitted.
        divergences: of each repair that was tried, by name, the mean divergence of the outputs from the full
            network's on the images held out, as the finished models give it.
        steps: of each length of step likewise, estimated on the folded network.
        blocks: what became of each block that the drop changes.
        fitted_images: number of images that were fitted to.
        held_out_images: number of images on which the repair was chosen.
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
        """One row per block that the drop changes."""
        return data_frame([vars(block) for block in self.blocks])


@dataclass(frozen=True, eq=False)
class _Solution:
    """Fitted layers for one set of blocks, the divergence at each step, and the first block that changes."""

    fits: tuple[LayerFit, ...]
    steps: dict[float, float]
    blocks: tuple[BlockFit, ...]
    start: int

    @property
    def step(self) -> float:
        """The step of the least divergence."""
        return _least(self.steps)


class Refitter:
    """Repairs one network for many sets of dropped blocks, on the same images.

    The full network's states, sums and outputs are computed once.

    Args:
        net: the network, in eval mode; it and its model are not changed.
        images: calibration images, without labels or with: such as the model saw in training. Anything that
            :func:`~resnet_paths.data.as_data` reads, a tensor, or batches of inputs.
        groups: a number for each image: images of one group (crops of one photo) are not split between those that are
            fitted to and those held out.
        settings: default :class:`RefitSettings`.

    Attributes:
        fitted_images: those that layers are fitted to.
        held_out_images: those on which the repair is chosen.

    Raises:
        UnrollError: the model is in training mode.
        ValueError: too few images to hold some out.

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
        self._arguments = net.segments.inputs
        self._norms = dict(foldable(net.segments.program))
        dtype = _exact_type(net.model)
        self._known: OrderedDict[tuple[int, tuple[int, ...]], tuple[list[LayerFit], BlockFit]] = OrderedDict()
        full = for_inference(net, dtype=dtype)
        self._work = for_inference(net, dtype=dtype)
        self._twins = Twins(full, self._work)
        self._sites = Sites(self._work.segments)
        with torch.inference_mode():
            size, share = self.settings.batch_size, self.settings.held_out
            self._full = FullRun(full, self.fitted_images, size, self.settings.memory * (1 - share))
            self._full_held_out = FullRun(full, self.held_out_images, size, self.settings.memory * share, sums=False)

    def divergence(self, dropped: Sequence[BlockRef] | BlockRef, *, steps: Sequence[float] | None = None) -> float:
        """The divergence on the images held out that the best step leaves.

        What a search over sets of blocks compares: nothing is built.

        Args:
            dropped: indices or names of blocks.
            steps: those to try (default: 0, the plain drop, and those of the settings).

        Cost: about three forward passes over the images that are fitted to, from the first block on that no earlier set
        had in common; one over those held out for each step, from the first block that changes on.
        """
        solution = self._solved(self.net.indices(dropped), steps)
        return solution.steps[solution.step]

    def on(self, images: ImageSource | torch.Tensor) -> Callable[[Sequence[BlockRef] | BlockRef], torch.Tensor]:
        """The outputs on other images that each set would give, refitted by its best step, without building it.

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
            with torch.inference_mode():
                try:
                    put_folded(self._work.model, solution.fits, solution.step)
                    return self._outputs(full, indices, solution.start)
                finally:
                    put_folded(self._work.model, solution.fits, 0.0)

        return outputs

    def __call__(self, dropped: Sequence[BlockRef] | BlockRef, *, inplace: bool = False) -> RefitResult:
        """The smaller model with the best of three repairs: none (plain), statistics measured again, refit.

        Args:
            dropped: indices or names of blocks.
            inplace: change the network's model itself.

        Raises:
            NotDroppableError: a block cannot be taken out.
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
            found = {name: self._of_model(model) for name, model in candidates.items()}
        best = _least(found)
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
            divergences={str(name): value for name, value in found.items()},
            steps=solution.steps,
            blocks=solution.blocks,
            fitted_images=self.fitted_images.count,
            held_out_images=self.held_out_images.count,
            reason=_reason(found, best, solution, self.held_out_images.count),
        )

    def _solved(self, indices: Sequence[int], steps: Sequence[float] | None = None) -> _Solution:
        """Fit all blocks that a set changes, and evaluate each step."""
        fits: list[LayerFit] = []
        with torch.inference_mode():
            places = self._sites.of(indices)
            start = min((site.block for site in places), default=0)
            run = DroppedRun(self._full, self._twins, self._gates(indices), start)
            try:
                blocks = tuple(self._fit_once(site, run, indices, fits) for site in places)
                tried = {}
                for step in (0.0, *self.settings.steps) if steps is None else steps:
                    put_folded(self._work.model, fits, step)
                    outputs = self._outputs(self._full_held_out, indices, start)
                    tried[step] = divergence(outputs, self._full_held_out.outputs)
                    if not fits:
                        break
            finally:
                put_folded(self._work.model, fits, 0.0)
        return _Solution(tuple(fits), tried, blocks, start)

    def _fit_once(self, site: Site, run: DroppedRun, indices: Sequence[int], fits: list[LayerFit]) -> BlockFit:
        """Fit one block, or take the fit of an earlier set that was the same up to here; add its layers to `fits`."""
        key = site.block, tuple(sorted(index for index in indices if index <= site.target))
        if key not in self._known:
            self._known[key] = self._fit(site, run)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        new, block = self._known[key]
        fits += new
        put_folded(self._work.model, new, 1.0)
        return block

    def _fit(self, site: Site, run: DroppedRun) -> tuple[list[LayerFit], BlockFit]:
        """Fit one block in the working network, whose blocks before it are fitted already."""
        name, target = self.net[site.block].name, self.net[site.target].name
        generator = seeded(self.settings.seed + site.block)
        problem = BlockProblem(
            self._work.segments, site, self.settings.rows_per_feature, self.fitted_images.count, generator
        )
        reason = site.reason
        for number, x in self._full.batches() if not reason else ():
            values = self._work.inside(run.state(number, x, site.block), branch=not site.dropped)
            if not problem.add(values, self._full.sum_at(number, x, site.target)):
                reason = problem.reason
                break
        if reason:
            return [], BlockFit(name, target, "", math.nan, math.nan, reason)
        new, before, after = problem.solve(self.settings.ridge)
        new = [replace(fit, norm=self._norms.get(fit.layer)) for fit in new]
        return new, BlockFit(name, target, ", ".join(fit.layer for fit in new), before, after)

    def _batches(self, inputs: Inputs) -> Iterator[Any]:
        """Inputs in batches, as the model itself is called."""
        for x in inputs.batches(self.settings.batch_size):
            x = placed_input(x, self.net.model)
            yield named(self.net.model, self._arguments, x) if isinstance(x, tuple) else x

    def _gates(self, indices: Sequence[int]) -> list[float]:
        return [0.0 if index in set(indices) else 1.0 for index in range(len(self.net))]

    def _outputs(self, full: FullRun, indices: Sequence[int], start: int) -> torch.Tensor:
        """What the working network as it is makes of the images on which the full one ran."""
        run = DroppedRun(full, self._twins, self._gates(indices), start)
        return torch.cat([run.state(number, x, len(self.net)).value for number, x in full.batches()])

    def _of_model(self, model: nn.Module) -> float:
        outputs = [self.net.followed(call_model(model, x)) for x in self._batches(self.held_out_images)]
        goal = self._full_held_out.outputs
        return divergence(torch.cat(outputs).to(goal), goal)


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
    """Drop blocks and repair what is left in closed form, without labels or training.

    Each kept block i that the drop changes, in order, gets the last layer W (and a projection in its shortcut, if it
    has one) that solves

        min over W, b of  mean over images and positions |S y + W h + b - s_j|^2 + ridge m |(W, b) - (W_i, b_i)|^2

    on the network that is dropped and repaired so far: y its input, S its shortcut, h what the layer reads, s_j the sum
    that the full network has after the last of the dropped blocks that directly follow i (i itself where none does),
    and m the mean square of a feature. Norms with fixed statistics and learned scales behind the layer are part of W.
    The model then goes a step of 0 to 1 from the old weights to the fitted ones. The step, and whether the plain or the
    recalibrated drop is better still, is chosen on images held out by the divergence from the full network's outputs
    (Kullback-Leibler for logits, else the squared error as a share of the mean square).

    Args:
        model: any residual model in eval mode, or its network.
        blocks: indices or names of the blocks to drop.
        images: calibration images such as the model saw in training, with or without labels; a few hundred.
        groups: a number for each image; images of a group (crops of one photo) stay on one side of the split.
        settings: default :class:`RefitSettings`.
        example_input: see :func:`resnet_paths.unroll`.
        inplace: change the model itself.

    Returns:
        The repaired model, in :attr:`RefitResult.model`, and what was chosen and why.

    Raises:
        BlockIndexError: there is no such block.
        NotDroppableError: a block cannot be taken out.
        ValueError: fewer than two groups of images.

    Cost: about four forward passes over the images, and for each fitted layer of F features the solution of F
    equations. Memory: the images, and up to ``settings.memory`` bytes.

    Source: the least squares of ThiNet (Luo, Wu and Lin 2017, section 3.3) for channels, here for blocks.

    Example:
        >>> from resnet_paths import load_data, load_model
        >>> result = refit_blocks(load_model("embedded"), [3, 7], load_data("digits", "train").sample(80))
        >>> result.dropped, result.repair in ("plain", "recalibrated", "refitted")
        (('layer1.3', 'layer1.7'), True)
    """
    net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
    return Refitter(net, images, groups=groups, settings=settings)(blocks, inplace=inplace)


def divergence(outputs: torch.Tensor, goal: torch.Tensor) -> float:
    """How far outputs are from the full network's: KL(goal || outputs) per image for logits, else a squared error.

    The squared error is a share of the goal's mean square.

    Example:
        >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        0.0
    """
    outputs, goal = outputs.cpu().double(), goal.cpu().double()
    if goal.ndim == 2 and goal.shape[1] > 1:
        return float(divergence_of(outputs, goal).mean())
    return float((outputs - goal).square().mean() / goal.square().mean().clamp_min(1e-300))


def _exact_type(model: nn.Module) -> torch.dtype | None:
    """Half precision is fitted in single; other types as they are."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    return torch.float32 if kinds & {torch.float16, torch.bfloat16} else None


Key = TypeVar("Key", float, Repair)


def _least(values: Mapping[Key, float]) -> Key:
    """The key of the least number, the first of several; NaN is more than any."""
    return min(values, key=lambda key: (math.isnan(values[key]), values[key]))


def _reason(found: dict[Repair, float], best: Repair, solution: _Solution, images: int) -> str:
    """The choice in one line."""
    said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    words = {"plain": "left as dropped", "refitted": f"refitted by a step of {solution.step:g}"}
    chosen = words.get(best, best)
    if not solution.fits:
        why = "no block could be refitted" if solution.blocks else "nothing changes"
        return f"{chosen}: {why}; divergence from the full network on {images} images held out: {said}"
    return f"{chosen}: the least divergence from the full network on {images} images held out ({said})"
