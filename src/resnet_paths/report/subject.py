"""What a report is about: a model and images, with what stages share.

It is the context of the sweep whose points are the stages. What several stages need is made once, when the first asks
for it; what decides their numbers or what they write takes part in the fingerprint, and so do the numbers of threads,
on which the last bits of sums and every time measured depend.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

import resnet_paths

from ..data import ImageData
from ..graph.inputs import main_output, placed
from ..lesion import Exploration, explore
from ..network import UnrolledNetwork, for_inference, unroll
from ..network.fitting import output_on
from ..sweep.fingerprints import deciding
from .effort import Footprint, Prices, measured_prices, quickest_threads

_TIMED_TOGETHER = 32  # images of a pass that is timed; more cost time and hardly change the price of one


@dataclass(frozen=True)
class Expressions:
    """Python expressions that make what a report is about; the lines of code on its page are written with them.

    Attributes:
        model: makes the model.
        data: makes the images.
        training: makes the training images.
    """

    model: str = "model"
    data: str = "data"
    training: str = "training"


@dataclass(eq=False)
class Subject:
    """The model and the images of a report.

    Attributes:
        model: in eval mode; left as it is.
        data: the images on which numbers are reported.
        training: images to choose blocks and measure batch-norm statistics on, or None.
        expressions: Python expressions that make them, for the code shown in the report.
        accuracy_drop: fall of accuracy allowed when blocks are recommended for dropping.
        seed: of all random draws.
        batch_size: images per batch at most; fewer where they would need more memory.
        memory: bytes that computations may hold beside the model and the images.
        threads: CPU threads per operation wherever a latency is measured: those of the process at the start.
    """

    model: nn.Module
    data: ImageData
    training: ImageData | None = None
    expressions: Expressions = field(default_factory=Expressions)
    accuracy_drop: float = 0.02
    seed: int = 0
    batch_size: int = 100
    memory: float = 2e9
    threads: int = field(default_factory=torch.get_num_threads)

    def __sweep_fingerprint__(self) -> Any:
        """Everything that determines the numbers."""
        data, training = (
            None if data is None else (data.fingerprint, str(data.dtype), data.name)
            for data in (self.data, self.training)
        )
        return deciding(self, data=data, training=training), torch.get_num_threads()

    def check(self) -> None:
        """Refuse a model that no stage could report on.

        Raises:
            ValueError: the model does not take the images, gives NaN or infinity for them, or has no blocks.
        """
        x, _ = self.batch(2)
        output = main_output(output_on(self.model, x, self.data.name, "pass images that fit it"))
        if not bool(output.isfinite().all()):
            raise ValueError(
                f"expected a model with finite outputs, got NaN or infinity for images of {self.data.name}; check "
                "its weights and the normalisation of the images"
            )
        len(self.net)  # without blocks it is refused here, with the reasons

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
        return Footprint.of(self.net, self.batch(1)[0])

    @property
    def study(self) -> dict[str, Any]:
        """How studies run on `fast`, which is prepared once for all of them."""
        return {"batch_size": self.at_once, "progress": False, "fast": False}

    @property
    def at_once(self) -> int:
        """The images of one batch of forward passes: as many as the memory holds, at most `batch_size`."""
        return self.together(self.footprint.forward)

    def together(self, each: float) -> int:
        """How many images the memory holds, at most `batch_size`, if each needs this many bytes."""
        return max(1, min(self.batch_size, int(self.memory / max(each, 1))))

    def prices(self) -> Prices:
        """What passes cost on this machine, measured now."""
        x, labels = self.batch(min(self.at_once, _TIMED_TOGETHER, len(self.data)))
        return measured_prices(self.net, self.fast, x, labels)

    def quickest_threads(self) -> int:
        """The CPU threads per operation with which stages take less time: one or `threads`, measured now."""
        x, _ = self.batch(min(self.at_once, _TIMED_TOGETHER, len(self.data)))
        return quickest_threads(self.fast, x, self.threads)

    def count(self, images: int | None) -> int:
        """How many images `images(count)` gives."""
        return len(self.data) if images is None else min(images, len(self.data))

    @property
    def chance(self) -> float:
        """The error of always guessing the most frequent class of the images."""
        counts = torch.bincount(self.data.labels.cpu())
        return 1 - float(counts.max()) / len(self.data)

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
        names = [name for name in resnet_paths.__all__ if re.search(rf"\b{name}\(", text)]
        imports = f"from resnet_paths import {', '.join(sorted(names, key=str.lower))}\n"
        return (imports if text.startswith("from ") else f"{imports}\n") + text if names else text

    def images(self, count: int | None) -> ImageData:
        """`count` images, drawn at random with the seed (all, if there are no more)."""
        return self.data if count is None else self.data.sample(count, self.seed)

    def training_images(self, count: int | None) -> ImageData | None:
        """`count` training images, or None if there are none."""
        return self.training if self.training is None or count is None else self.training.sample(count, self.seed)

    def training_images_code(self, count: int | None) -> str:
        """The expression that makes the same images."""
        every = self.training is None or count is None or count >= len(self.training)
        code = self.expressions.training
        return code if every else f"{code}.sample({count}, seed={self.seed})"

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` images with their labels, on the model's device."""
        some = self.images(count)
        x = placed(some.x, self.model)
        return x, some.labels.to(x.device)
