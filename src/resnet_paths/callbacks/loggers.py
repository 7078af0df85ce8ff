"""Adapters that write recorded numbers to TensorBoard and Weights & Biases.

Plain functions of (numbers, step), so that any other logger is one lambda; neither package is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import checked

Logger = Callable[[Mapping[str, float], int], None]
"""A function of the numbers by name, and the step."""


@checked
def to_tensorboard(writer: Any) -> Logger:
    """A logger that writes each number as a TensorBoard scalar.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or anything with its ``add_scalar``.

    Raises:
        TypeError: it has no ``add_scalar``.

    Example:
        >>> class Writer:
        ...     def add_scalar(self, tag, value, global_step):
        ...         print(tag, value, global_step)
        >>> to_tensorboard(Writer())({"paths/mean_length": 3.5}, 10)
        paths/mean_length 3.5 10
    """
    if not callable(getattr(writer, "add_scalar", None)):
        raise TypeError(f"expected a SummaryWriter, got {type(writer).__name__} without add_scalar")

    def log(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, global_step=step)

    return log


@checked
def to_wandb(run: Any) -> Logger:
    """A logger that writes to a run of Weights & Biases, with its own step axis (``paths/step``).

    The step of a run only grows, and numbers logged for an earlier step are lost. The statistics therefore carry their
    own step and are plotted over it, whatever else the run logs.

    Args:
        run: the result of ``wandb.init``, or anything with its ``define_metric`` and ``log``.

    Raises:
        TypeError: it lacks one of them.

    Example:
        >>> class Run:
        ...     def define_metric(self, name, step_metric=None): ...
        ...     def log(self, data):
        ...         print(data)
        >>> to_wandb(Run())({"paths/mean_length": 3.5}, 10)
        {'paths/mean_length': 3.5, 'paths/step': 10}
    """
    if not callable(getattr(run, "log", None)) or not callable(getattr(run, "define_metric", None)):
        raise TypeError(f"expected a run of wandb.init, got {type(run).__name__} without log and define_metric")
    run.define_metric("paths/step")
    run.define_metric("paths/*", step_metric="paths/step")

    def log(numbers: Mapping[str, float], step: int) -> None:
        run.log({**numbers, "paths/step": step})

    return log
