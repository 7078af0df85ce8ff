"""What a report is about: a model, images or other examples, and a metric, with whatever stages share.

It is the context of the sweep whose points are the stages. What several stages need is computed once, on first use.
Everything that determines their numbers or their text is part of the fingerprint, including the numbers of threads, on
which the last bits of sums and all timings depend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

import resnet_paths

from ..choices import MetricName
from ..data import ExampleMetric, ImageData, InMemory
from ..data.constant_answers import constant_answer
from ..data.fitting import target_kinds
from ..data.metrics import METRICS, Metric, example_parts, metric_named
from ..graph.inputs import main_output, placed
from ..lesion import Exploration, explore
from ..network import UnrolledNetwork, for_inference, unroll
from ..network.fitting import output_on
from ..nouns import counted
from ..sweep.fingerprints import deciding
from .effort import Footprint, Prices, measured_prices, quickest_threads
from .losses import ExampleLoss, loss_for
from .measure import Measure

_OF_DATA = ("as_examples", "load_examples")  # that lines of code call
_USUAL, _CACHED = 100, 2e6  # images of a batch; bytes of its largest activation, if it has more
_TIMED_TOGETHER = 100  # images of a pass that is priced; fewer would overestimate the cost per image of a small network
_COMPARED_TOGETHER = 32  # images of a pass that is timed with one thread and with several


@dataclass(frozen=True)
class Expressions:
    """Python expressions that make what a report is about; the lines of code on its page are written with them.

    Attributes:
        model: makes the model.
        data: makes the images, or the other examples.
        training: makes the training images.
        metric: makes a metric of your own; one of the library's is written as its name.
    """

    model: str = "model"
    data: str = "data"
    training: str = "training"
    metric: str = "metric"


@dataclass(eq=False)
class Subject:
    """The model and the images, or other examples, of a report.

    Attributes:
        model: in eval mode; left as it is.
        data: the images or other examples on which numbers are reported.
        training: images to choose blocks and measure batch-norm statistics on, or None.
        expressions: Python expressions that make them, for the code shown in the report.
        accuracy_drop: fall of accuracy allowed when blocks are recommended for dropping.
        seed: of all random draws.
        batch_size: images per batch at most; fewer where they would need more memory, or fall out of the cache.
        memory: bytes that computations may hold in addition to the model and the images.
        threads: CPU threads per operation of the process at the start; a report uses one if that is quicker, also for
            what it times, so that what a stage costs is known from passes timed before.
        metric: what is measured on each example: a name or a function, see :func:`resnet_paths.lesion.metric_named`.
        rise: rise of the metric allowed when blocks are recommended for dropping; None: `accuracy_drop` for metrics
            of at most 1, otherwise a twentieth of the full network's value.
    """

    model: nn.Module
    data: InMemory
    training: InMemory | None = None
    expressions: Expressions = field(default_factory=Expressions)
    accuracy_drop: float = 0.02
    seed: int = 0
    batch_size: int = 500
    memory: float = 2e9
    threads: int = field(default_factory=torch.get_num_threads)
    metric: MetricName | Metric = "error"
    rise: float | None = None

    def __sweep_fingerprint__(self) -> Any:
        """Everything that determines the numbers."""
        data, training = (
            None if data is None else (data.fingerprint, str(getattr(data, "dtype", "")), data.name, data.noun)
            for data in (self.data, self.training)
        )
        return deciding(self, data=data, training=training), torch.get_num_threads()

    def check(self) -> None:
        """Refuse a model that no stage could report on.

        Raises:
            ValueError: the model does not take the examples, gives NaN or infinity for them, or has no blocks; or the
                metric does not take its outputs.
        """
        few, nouns = self.images(2), self.data.nouns
        output = output_on(self.model, placed(few.x, self.model), self.data.name, f"pass {nouns} that fit it", nouns)
        values = main_output(output)
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"expected a model with finite outputs, got NaN or infinity for {nouns} of {self.data.name}; check "
                f"its weights and the normalisation of the {nouns}"
            )
        values = self.net.followed(output).detach().cpu()  # without blocks it is refused here, with the reasons
        targets, mask = (None if tensor is None else tensor.cpu() for tensor in (few.targets, few.mask))
        if len(values) == len(few):
            example_parts(metric_named(self.metric)[1], values, targets, values, mask, len(few))

    @cached_property
    def net(self) -> UnrolledNetwork:
        """The unrolled network."""
        x, _ = self.batch(2)
        return unroll(self.model, x)

    @cached_property
    def fast(self) -> UnrolledNetwork:
        """The network with folded norms."""
        return for_inference(self.net)

    @cached_property
    def footprint(self) -> Footprint:
        """The memory of one image's pass."""
        return Footprint.of(self.net, self.batch(1)[0], 1)

    @property
    def study(self) -> dict[str, Any]:
        """How studies run on `fast`, which is prepared once for all of them."""
        return {"batch_size": self.at_once, "progress": False, "fast": False}

    @property
    def at_once(self) -> int:
        """The images of one batch of forward passes, see :meth:`together`."""
        return self.together(self.footprint.forward)

    def together(self, each: float) -> int:
        """How many images one batch has if each needs this many bytes: as many as fit in memory, at most `batch_size`.

        More than a hundred only if an activation of them all stays in the cache: where images are small, a pass costs
        something whatever their number, and where they are large, fewer are faster. It follows from shapes alone,
        since the last bits of all numbers depend on it.
        """
        cached = max(_USUAL, int(_CACHED / max(self.footprint.largest, 1)))
        return max(1, min(self.batch_size, cached, int(self.memory / max(each, 1))))

    def prices(self, longest: float = 0.5) -> Prices:
        """What passes cost on this machine, measured now; `longest`: seconds of what is timed at once, if possible."""
        count = min(self.at_once, _TIMED_TOGETHER, len(self.data))
        return measured_prices(self.net, self.fast, self.batch(count)[0], count, longest)

    def quickest_threads(self) -> int:
        """The faster number of CPU threads per operation for the stages: one or `threads`, measured now."""
        x, _ = self.batch(min(self.at_once, _COMPARED_TOGETHER, len(self.data)))
        return quickest_threads(self.fast, x, self.threads)

    def count(self, images: int | None) -> int:
        """How many images `images(count)` gives."""
        return len(self.data) if images is None else min(images, len(self.data))

    @property
    def noun(self) -> str:
        """What one example is called."""
        return self.data.noun

    def counted(self, examples: int) -> str:
        """A number of examples, in words."""
        return counted(examples, self.data.noun)

    @cached_property
    def measure(self) -> Measure:
        """The metric in words."""
        return Measure.of(self.metric, self.noun)

    @property
    def allowed(self) -> float | None:
        """The rise of the metric that is allowed; None: it follows from the full network's value."""
        known = metric_named(self.metric)[1]
        is_share = isinstance(known, ExampleMetric) and known.bound == 1
        return self.accuracy_drop if self.rise is None and is_share else self.rise

    @property
    def game(self) -> MetricName | Metric:
        """The metric of the block game: the loss in place of the error, which is flat where few answers change."""
        return "loss" if self.metric == "error" else self.metric

    @property
    def metric_code(self) -> str:
        """The argument of calls in the code shown; nothing for the default."""
        if self.metric == "error":
            return ""
        return f", metric={self.expressions.metric if self.measure.is_own else repr(self.measure.name)}"

    @cached_property
    def has_classes(self) -> bool:
        """Whether each example has one class, of which the metric speaks."""
        known = metric_named(self.metric)[1]
        return (
            self.data.labelled
            and "class" in target_kinds(self.data)
            and (not isinstance(known, ExampleMetric) or "class" in known.fits)
            and self._scores_classes
        )

    @cached_property
    def _scores_classes(self) -> bool:
        """Whether the outputs are a score for each class."""
        with torch.inference_mode():
            output = self.net(self.batch(1)[0])
        return output.ndim == 2 and self.data.targets is not None and output.shape[1] > int(self.data.targets.max())

    @property
    def has_pictures(self) -> bool:
        """Whether the examples are images with one class each, which the explorer needs."""
        return isinstance(self.data, ImageData) and self.data.labelled

    @property
    def chance(self) -> float:
        """The error of always guessing the most frequent class of the examples."""
        if self.data.targets is None:
            raise ValueError(f"expected {self.data.nouns} of one class each, got some without")
        counts = torch.bincount(self.data.targets.cpu())
        return 1 - float(counts.max()) / len(self.data)

    @cached_property
    def constant(self) -> float | None:
        """The metric of the best answer that is the same for all examples, None where that is unknown."""
        return constant_answer(self.metric, self.data)

    @cached_property
    def loss(self) -> ExampleLoss | None:
        """The loss of which gradients are taken; None where there is none, see :attr:`why_no_loss`."""
        loss = ExampleLoss("loss", METRICS["loss"]) if self.has_classes else loss_for(self.metric, self.data)
        return None if loss is None or not self._is_differentiable(loss) else loss

    @property
    def why_no_loss(self) -> str:
        """Why there are no gradients of a loss."""
        if self.measure.is_own:
            return f"the metric {self.measure.name} has no gradient"
        return f"the {self.measure.words} is zero for the network itself, and without targets there is no other loss"

    def _is_differentiable(self, loss: ExampleLoss) -> bool:
        x, targets, mask = next(self.batches(1, 1))
        with torch.inference_mode(False), torch.enable_grad():
            values = loss(self.net(x).detach().clone().requires_grad_(), targets, mask)
        return values.requires_grad

    @cached_property
    def start(self) -> Literal["input"] | int:
        """Where gradients are taken: at the input, or at the first block's entry where inputs cannot have gradients."""
        x, _ = self.batch(1)
        return "input" if isinstance(x, torch.Tensor) and x.is_floating_point() else 0

    @property
    def start_words(self) -> str:
        """The same in words."""
        return "at the input" if self.start == "input" else "at the entry of the first block"

    def exploration(self, **options: Any) -> Exploration:
        """The network without many sets of blocks, see :func:`resnet_paths.lesion.explore`; measured once.

        Args:
            **options: of that function, and `images`: how many.
        """
        key = tuple(sorted(options.items()))
        if key not in self._explorations:
            images = self.images(options.pop("images"))
            self._explorations[key] = explore(self.fast, images, seed=self.seed, **self.study, **options)
        return self._explorations[key]

    @property
    def all_sets(self) -> Exploration | None:
        """An exploration that has measured all sets of all blocks, if there was one."""
        every = (one for one in self._explorations.values() if one.exhaustive and len(one.blocks) == len(self.net))
        return next(every, None)

    @cached_property
    def _explorations(self) -> dict[Any, Exploration]:
        return {}

    def code(self, text: str) -> str:
        """Python lines, preceded by the import of the public names that they call.

        Example:
            >>> from resnet_paths.data import digits
            >>> print(Subject(nn.Identity(), digits()).code("unroll(load_model())"))
            from resnet_paths import load_model, unroll
            <BLANKLINE>
            unroll(load_model())
        """
        imports = ""
        for module, names in (("resnet_paths", resnet_paths.__all__), ("resnet_paths.data", _OF_DATA)):
            called = sorted((name for name in names if re.search(rf"\b{name}\(", text)), key=str.lower)
            imports += f"from {module} import {', '.join(called)}\n" if called else ""
        return (imports if text.startswith("from ") or not imports else f"{imports}\n") + text

    def images(self, count: int | None) -> InMemory:
        """`count` images, drawn at random with the seed (all, if there are no more)."""
        return self.data if count is None else self.data.sample(count, self.seed)

    def pictures(self, count: int | None) -> ImageData:
        """The same, of data that are images.

        Raises:
            TypeError: they are not.
        """
        images = self.images(count)
        if not isinstance(images, ImageData):
            raise TypeError(f"expected images with a class each, got {images!r}; check has_pictures first")
        return images

    def training_images(self, count: int | None) -> InMemory | None:
        """`count` training images, or None if there are none."""
        return self.training if self.training is None or count is None else self.training.sample(count, self.seed)

    def training_images_code(self, count: int | None) -> str:
        """The expression that makes the same images."""
        every = self.training is None or count is None or count >= len(self.training)
        code = self.expressions.training
        code = code if isinstance(self.training, ImageData) else f"as_examples({code}, net.model)"
        return code if every else f"{code}.sample({count}, seed={self.seed})"

    def batch(self, count: int) -> tuple[Any, Any]:
        """`count` images with their labels, or other inputs with their targets, on the model's device."""
        some = self.images(count)
        return placed(some.x, self.model), self._placed(some.targets)

    def batches(self, count: int, at_once: int) -> Iterator[tuple[Any, Any, torch.Tensor | None]]:
        """The same in parts: inputs, targets and the mask of positions that count.

        Args:
            count: number of examples.
            at_once: of one part, at most.

        Yields:
            The three of one part, on the model's device.
        """
        some = self.images(count)
        for start in range(0, len(some), at_once):
            part = some.subset(slice(start, min(start + at_once, len(some))))
            yield placed(part.x, self.model), self._placed(part.targets), self._placed(part.mask)

    def _placed(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(next(self.model.parameters()).device)

    @property
    def setup(self) -> str:
        """The lines of code that make ``net``, and ``data`` where it takes some to unroll the model."""
        made = self.expressions
        if isinstance(self.data, ImageData):
            return f"net = unroll({made.model})\n"
        model = "" if made.model == "model" else f"model = {made.model}\n"
        return f"{model}data = as_examples({made.data}, model)\nnet = unroll(model, data.subset([0, 1]).x)\n"

    @property
    def data_code(self) -> str:
        """The expression for the data after :attr:`setup`."""
        return self.expressions.data if isinstance(self.data, ImageData) else "data"
