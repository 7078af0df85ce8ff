"""The recorder as a Lightning callback.

In its own module, because `PathRecorder` must import without Lightning. Lightning steps the optimiser itself, perhaps
several times per batch or once per several batches, so the callback follows `trainer.global_step` instead of a hook on
the optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import Range, checked
from ..imports import first_import
from ..network import BlockRef
from .recorder import PathRecorder
from .results import log_figure
from .statistics import Loss, PathStatistics

try:
    with first_import("lightning.pytorch"):
        import lightning.pytorch as pl
except ImportError as error:
    raise ImportError(
        "expected lightning to be installed; run: pip install 'resnet-paths[lightning]', or use PathRecorder, which "
        "needs no framework"
    ) from error


@checked(draws=Range(0))
class LightningPathRecorder(pl.Callback):
    """Records :class:`PathStatistics` while Lightning trains, into the trainer's loggers.

    Training is bit for bit the same as without it; see :class:`PathRecorder`.

    Example:
        >>> from resnet_paths import load_data
        >>> data = load_data("digits", "train", limit=8)
        >>> callback = LightningPathRecorder(data.x, data.labels, network="model", every=50)
        >>> callback.history
        []
    """

    def __init__(
        self,
        x: Any,
        target: Any,
        *,
        network: str = "",
        every: int = 100,
        at: BlockRef = "input",
        loss: Loss = "cross_entropy",
        draws: int = 2,
        seed: int = 0,
        figures: bool = False,
    ) -> None:
        """See the class.

        Args:
            x: the model input to record on, batch first.
            target: their class indices, or whatever the loss accepts.
            network: name of the LightningModule's attribute with the residual model, such as ``"model"``; ``""`` is the
                LightningModule itself.
            every: number of trainer steps between recordings (``trainer.global_step``).
            at: where the gradient is taken, see :func:`path_statistics`.
            loss: see :func:`resnet_paths.paths.gradient_by_length`.
            draws: number of draws of the path energy for the effective length, at least 2; 0 leaves it out.
            seed: seed of the random signs.
            figures: whether to log a figure of each recording too (to TensorBoard and W&B).

        Cost: that of :func:`path_statistics` per recording, on the process of rank 0 only.
        """
        super().__init__()
        self._batch = (x, target)
        self._network = network
        self._figures = figures
        self._options: dict[str, Any] = {"every": every, "at": at, "loss": loss, "draws": draws, "seed": seed}
        self._recorder: PathRecorder | None = None

    @property
    def history(self) -> list[PathStatistics]:
        """The recorded statistics, in order."""
        return self._recorder.history if self._recorder is not None else []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the blocks of the model.

        Raises:
            ValueError: the LightningModule has no attribute with that name.
        """
        if not trainer.is_global_zero:
            return
        try:
            model = pl_module.get_submodule(self._network)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(f"expected network to be a submodule's name ({names}), got {self._network!r}") from None

        def log(numbers: Mapping[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(numbers), step=step)

        x, target = self._batch
        self._recorder = PathRecorder(model, x, target, loggers=[log], **self._options)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        """Record if this step is due and not yet recorded (gradient accumulation repeats a step number)."""
        if self._recorder is None:
            return
        step = trainer.global_step
        last = self.history[-1].step if self.history else 0
        if step % self._recorder.every == 0 and step > last:
            statistics = self._recorder.record(step)
            for logger in trainer.loggers if self._figures else ():
                log_figure(logger, statistics, step=step, name="paths/gradient_by_length")
