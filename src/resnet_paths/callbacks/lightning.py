"""The recorder as a callback of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import Range, checked
from ..imports import first_import
from .recorder import PathRecorder
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
    """Records :class:`PathStatistics` while Lightning trains, into the trainer's own loggers.

    The training is the same bit for bit as without it; see :class:`PathRecorder`.

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
        loss: Loss = "cross_entropy",
        draws: int = 2,
        seed: int = 0,
    ) -> None:
        """See the class.

        Args:
            x: the model's input on which to record, batch first.
            target: their class indices, or what the loss takes.
            network: name of the LightningModule's attribute that holds the residual model, such as ``"model"``;
                ``""``: the LightningModule itself.
            every: record after this many steps of the trainer (``trainer.global_step``).
            loss: as in :func:`resnet_paths.paths.gradient_by_length`.
            draws: estimates of the paths' energy for the effective length, at least 2; 0 leaves it out.
            seed: of the signs.

        Cost: see :func:`path_statistics`, for each recording, on the process of rank 0 alone.
        """
        super().__init__()
        self._made_of = (x, target)
        self._network = network
        self._options: dict[str, Any] = {"every": every, "loss": loss, "draws": draws, "seed": seed}
        self._recorder: PathRecorder | None = None

    @property
    def history(self) -> list[PathStatistics]:
        """What was recorded, in order."""
        return self._recorder.history if self._recorder is not None else []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the blocks of the model.

        Raises:
            ValueError: the LightningModule has no attribute of that name.
        """
        if not trainer.is_global_zero:
            return
        try:
            model = pl_module.get_submodule(self._network)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"expected network to name a part of the module ({names}), got {self._network!r}"
            ) from None

        def log(numbers: Mapping[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(numbers), step=step)

        x, target = self._made_of
        self._recorder = PathRecorder(model, x, target, loggers=[log], **self._options)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        """Record, where the optimiser's step is one to be recorded and has not been yet."""
        if self._recorder is None:
            return
        step = trainer.global_step
        last = self.history[-1].step if self.history else 0
        if step % self._recorder.every == 0 and step > last:
            self._recorder.record(step)
