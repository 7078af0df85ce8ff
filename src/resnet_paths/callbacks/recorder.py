"""A recorder of path statistics for any training loop, which leaves the training bit for bit as it was.

Beside `path_statistics`, which measures a network at rest. During training a measurement must not touch gradients,
running statistics, train flags or random states, and autocast may be on. The recorder takes care of that, and unrolls
the model once instead of at every recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..arguments import Range, checked
from ..graph.inputs import placed
from ..graph.preserve import preserved
from ..graph.trees import map_leaves
from ..network import BlockRef, UnrolledNetwork, unroll
from ..tables import data_frame, stacked
from .loggers import Logger
from .statistics import Loss, PathStatistics, path_statistics

if TYPE_CHECKING:
    import pandas as pd


@checked(draws=Range(0))
class PathRecorder:
    """Record :class:`PathStatistics` of a model while it trains, always on the same batch.

    Training is bit for bit the same as without it: parameters, gradients, buffers (running statistics), train flags,
    hooks and random states are restored after each recording, even after an error.

    There are three ways to use it: call :meth:`record` yourself; :meth:`attach` it to an optimiser, whose steps it then
    counts; or pass it as ``after_epoch`` of :func:`resnet_paths.training.train`.

    Attributes:
        history: the recorded statistics, in order.

    Example:
        >>> from resnet_paths import cifar_resnet, load_data
        >>> data = load_data("digits", "train", limit=8)
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        >>> recorder = PathRecorder(model, data.x, data.labels, every=2, draws=0)
        >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with recorder.attach(optimiser):
        ...     for _ in range(4):
        ...         torch.nn.functional.cross_entropy(model(data.x), data.labels).backward()
        ...         optimiser.step()
        >>> [statistics.step for statistics in recorder.history]
        [2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        target: Any,
        *,
        every: int = 100,
        at: BlockRef = "input",
        loss: Loss = "cross_entropy",
        draws: int = 2,
        seed: int = 0,
        loggers: Sequence[Logger] = (),
    ) -> None:
        """See the class.

        Args:
            model: the model in training (wrappers are unwrapped).
            x: the model input to record on, batch first; 8 to 32 examples are enough for curves.
            target: their class indices, or whatever the loss accepts.
            every: number of optimiser steps between recordings (for :meth:`attach`).
            at: where the gradient is taken, see :func:`path_statistics`.
            loss: see :func:`resnet_paths.paths.gradient_by_length`.
            draws: number of draws of the path energy for the effective length, at least 2; 0 leaves it out.
            seed: seed of the random signs.
            loggers: called with the numbers and the step of each recording; see :func:`to_tensorboard`,
                :func:`to_wandb`.

        Raises:
            ValueError: `every` is below 1, or as :func:`path_statistics`, which is tried once: an error must not
                come in the middle of a training.
            NoBlocksError: the model has no residual blocks.

        Cost: that of :func:`path_statistics` per recording, and one copy of the buffers.
        """
        if every < 1:
            raise ValueError(f"expected every to be at least 1 step, got {every}")
        self.every = every
        self.history: list[PathStatistics] = []
        self._model, self._x, self._target = model, x, target
        self._options: dict[str, Any] = {"at": at, "loss": loss, "draws": draws, "seed": seed}
        self._loggers = tuple(loggers)
        with _in_eval_mode(model):
            self._net: UnrolledNetwork = unroll(model, placed(x, model))
        self._measured(0)

    def record(self, step: int | None = None) -> PathStatistics:
        """Record the statistics of the model as it is now.

        Args:
            step: the step to record them under; None: one after the last recording.
        """
        if step is None:
            step = self.history[-1].step + 1 if self.history else 0
        statistics = self._measured(step)
        self.history.append(statistics)
        for logger in self._loggers:
            logger(statistics.scalars(), step)
        return statistics

    def _measured(self, step: int) -> PathStatistics:
        with _in_eval_mode(self._model):
            x, target = placed(self._x, self._model), _on_its_device(self._target, self._model)
            return path_statistics(self._net, x, target, step=step, **self._options)

    @contextmanager
    def attach(self, optimiser: torch.optim.Optimizer) -> Iterator[PathRecorder]:
        """Within the context, record after every `every`-th step of the optimiser."""
        steps = 0

        def after_step(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps % self.every == 0:
                self.record(steps)

        handle: RemovableHandle = optimiser.register_step_post_hook(after_step)
        try:
            yield self
        finally:
            handle.remove()

    def __call__(self, epoch: int, model: nn.Module) -> None:
        """Record after an epoch; called by ``train(..., after_epoch=recorder)``."""
        if model is not self._model:
            raise ValueError(
                "expected the model that this recorder was created with, got another; create one recorder per model"
            )
        self.record(epoch)

    def to_pandas(self) -> pd.DataFrame:
        """One row per recorded number: step, name, value."""
        if not self.history:
            return data_frame({"step": [], "name": [], "value": []})
        return stacked([statistics.to_pandas() for statistics in self.history])


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, outside autocast and inference mode; restore everything afterwards."""
    parameter = next(model.parameters())
    with preserved(model), torch.inference_mode(False), torch.autocast(parameter.device.type, enabled=False):
        model.eval()
        yield


def _on_its_device(target: Any, model: nn.Module) -> Any:
    """A target of any form on the model's device, in the dtype that it came in."""
    device = next(model.parameters()).device
    return map_leaves(target, lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf)
