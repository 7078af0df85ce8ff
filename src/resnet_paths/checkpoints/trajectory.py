"""The weights of every epoch of a run, in order.

Beside `read_checkpoint`, which reads one file: a picture of the path through weight space needs all of them with the
same keys, stacked in epoch order. The order comes from the file names, which `RunFolder` pads with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import checked
from ..records import Record
from ..tables import data_frame
from .reading import read_checkpoint

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Trajectory(Record):
    """A run's weights, from the initial (epoch 0) to the last.

    Attributes:
        epochs: number of epochs trained, for each state; 0 is before training.
        states: the state dicts, on the CPU.
        facts: metadata of the last state (data, recipe, versions).
        rows: the metrics of each epoch; {} for the initial weights.
    """

    epochs: tuple[int, ...]
    states: tuple[dict[str, torch.Tensor], ...]
    facts: dict[str, Any]
    rows: tuple[dict[str, float], ...]

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} states, epochs {self.epochs[0]} to {self.epochs[-1]})"

    def to_pandas(self) -> pd.DataFrame:
        """The metrics, one row per state."""
        return data_frame([{"trained": trained, **row} for trained, row in zip(self.epochs, self.rows, strict=True)])

    def matrix(self, names: list[str] | None = None) -> torch.Tensor:
        """The weights as a matrix (states, weights), in the order of `names`; by default all floating-point tensors."""
        unknown = sorted(set(names or ()) - set(self.states[0]))
        if unknown:
            raise ValueError(
                f"expected names among those of the checkpoints ({', '.join(list(self.states[0])[:3])}, ...), got "
                f"{', '.join(unknown)}"
            )
        selected = names or [name for name, value in self.states[0].items() if value.is_floating_point()]
        return torch.stack([torch.cat([state[name].flatten() for name in selected]) for state in self.states])


@checked
def read_trajectory(folder: str | Path) -> Trajectory:
    """The weights saved by ``train(..., folder=folder, keep="all")``.

    Raises:
        FileNotFoundError: the folder does not exist or has no weights of epochs.

    Example:
        >>> import tempfile
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.training import Recipe, train
        >>> model, data = cifar_resnet(8, in_channels=1, widths=(2, 2, 2)), digits("train").subset(slice(0, 64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = train(model, data, Recipe(epochs=2, shift=1), folder=folder, keep="all", progress=False)
        ...     read_trajectory(folder)
        Trajectory(3 states, epochs 0 to 2)
    """
    files = epoch_files(folder)
    states, facts = zip(*(read_checkpoint(file) for file in files), strict=True)
    epochs = tuple(int(file.stem.removeprefix("epoch-")) for file in files)
    rows = tuple(facts_of_epoch.get("figures", {}) for facts_of_epoch in facts)
    return Trajectory(epochs, states, {k: v for k, v in facts[-1].items() if k != "figures"}, rows)


def epoch_files(folder: str | Path) -> list[Path]:
    """The weights of each epoch in a run's folder, in order; see :func:`read_trajectory` for what it raises."""
    files = sorted(Path(folder).glob("epoch-*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"expected a folder with epoch-NNNN.safetensors, got {str(folder)!r} without any; train with keep='all'"
        )
    return files
