"""Names of models that are compared: the checkpoints of a run, and models that share a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..arguments import checked
from ..checkpoints.trajectory import epoch_files


@checked
def checkpoints_in(folder: str | Path) -> dict[str, Path]:
    """The files of ``train(..., folder=folder, keep="all")`` by name, in the order of their epochs.

    Args:
        folder: the run's folder.

    Raises:
        FileNotFoundError: the folder does not exist or has no weights of epochs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for epoch in (10, 0):
        ...         (Path(folder) / f"epoch-{epoch:04d}.safetensors").touch()
        ...     list(checkpoints_in(folder))
        ['epoch-0000', 'epoch-0010']
    """
    return {file.stem: file for file in epoch_files(folder)}


def told_apart(names: Iterable[str]) -> list[str]:
    """Unique names: one that was used before gets its position in brackets.

    Example:
        >>> told_apart(["a", "b", "a"])
        ['a', 'b', 'a (3)']
    """
    seen: list[str] = []
    for position, name in enumerate(names, 1):
        seen.append(name if name not in seen else f"{name} ({position})")
    return seen
