"""A recorder of path statistics that any training loop can call, and that changes nothing of the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..arguments import Range, checked
from ..graph.preserve import preserved
from ..network import UnrolledNetwork, unroll
from ..tables import data_frame, stacked
from .loggers import Logger
from .statistics import Loss, PathStatistics, path_statistics

if TYPE_CHECKING:
    import pandas as pd


@checked(draws=Range(0))
class PathRecorder:
    """Records :class:`PathStatistics` of a model while it trains, always on the same batch.

    The training is the same bit for bit as without it: parameters, their gradients, buffers (running statistics),
    train flags, hooks and random states are as before after each recording, also after an error.

    Three ways to use it: call :meth:`record` where you like; :meth:`attach` it to an optimiser, which it then
    follows; pass it as ``after_epoch`` of :func:`resnet_paths.training.train`.

    Attributes:
        history: what was recorded, in order.

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
        >>> [found.step for found in recorder.history]
        [2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        target: Any,
        *,
        every: int = 100,
        loss: Loss = "cross_entropy",
        draws: int = 2,
        seed: int = 0,
        loggers: Sequence[Logger] = (),
    ) -> None:
        """See the class.

        Args:
            model: the model that trains (wrappers are looked through).
            x: the model's input on which to record, batch first; 8 to 32 examples are enough for curves.
            target: their class indices, or what the loss takes.
            every: record after this many steps of the optimiser (for :meth:`attach`).
            loss: as in :func:`resnet_paths.paths.gradient_by_length`.
            draws: estimates of the paths' energy for the effective length, at least 2; 0 leaves it out.
            seed: of the signs.
            loggers: called with each record's numbers and step; see :func:`to_tensorboard`, :func:`to_wandb`.

        Raises:
            ValueError: `every` is not at least 1.
            NoBlocksError: the model has no residual blocks.

        Cost: see :func:`path_statistics`, for each recording; and one copy of the buffers.
        """
        if every < 1:
            raise ValueError(f"expected to record every 1 or more steps, got every={every}")
        self.every = every
        self.history: list[PathStatistics] = []
        self._model, self._x, self._target = model, x, target
        self._options: dict[str, Any] = {"loss": loss, "draws": draws, "seed": seed}
        self._loggers = tuple(loggers)
        with _as_for_inference(model):
            self._net: UnrolledNetwork = unroll(model, _moved(x, model))

    def record(self, step: int | None = None) -> PathStatistics:
        """Record now.

        Args:
            step: the moment; None: one more than the last.
        """
        if step is None:
            step = self.history[-1].step + 1 if self.history else 0
        with _as_for_inference(self._model):
            x, target = _moved(self._x, self._model), _moved(self._target, self._model, keep_type=True)
            found = path_statistics(self._net, x, target, step=step, **self._options)
        self.history.append(found)
        for logger in self._loggers:
            logger(found.scalars(), step)
        return found

    @contextmanager
    def attach(self, optimiser: torch.optim.Optimizer) -> Iterator[PathRecorder]:
        """Within the block, record after every `every`-th step of an optimiser."""
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
        """Record after an epoch, as ``train(..., after_epoch=recorder)`` calls it."""
        if model is not self._model:
            raise ValueError("expected the model that the recorder was made with, got another; make one for each")
        self.record(epoch)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each recorded number: step, name, value."""
        if not self.history:
            return data_frame({"step": [], "name": [], "value": []})
        return stacked([found.to_pandas() for found in self.history])


@contextmanager
def _as_for_inference(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without autocast or inference mode around it; all put back afterwards."""
    parameter = next(model.parameters())
    with preserved(model), torch.inference_mode(False), torch.autocast(parameter.device.type, enabled=False):
        model.eval()
        yield


def _moved(value: Any, model: nn.Module, keep_type: bool = False) -> Any:
    """Tensors on the model's device; floating ones of its type."""
    parameter = next(model.parameters())
    if isinstance(value, torch.Tensor):
        floats = value.is_floating_point() and not keep_type
        return value.to(parameter.device, parameter.dtype if floats else None)
    if isinstance(value, dict):
        return {name: _moved(item, model, keep_type) for name, item in value.items()}
    return tuple(_moved(item, model, keep_type) for item in value) if isinstance(value, tuple) else value
