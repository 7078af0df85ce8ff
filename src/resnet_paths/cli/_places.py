"""Where a command writes: looked at before the work, not after it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer


@dataclass(frozen=True)
class Place:
    """What an option that is written to names.

    Attributes:
        folder: a folder, or else a file.
    """

    folder: bool


def path_option(*names: str, help: str) -> Any:
    """An option that names a file or a folder; an empty name would be this folder to Python."""
    return typer.Option(*names, help=help, parser=_named, metavar="<path>")


def _named(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter(f"expected a name, got {str(text)!r}; leave the option out for the default")
    return Path(text)


def check_place(path: Path, place: Place, option: str) -> None:
    """Refuse a place that cannot be written; what is made for the trial is removed.

    Raises:
        OSError: a file where a folder is wanted, the other way round, no permission, an impossible name.
    """
    try:
        _try(path, place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        kind = "folder" if place.folder else "file"
        raise OSError(f"expected a {kind} to write to as {option}, got {str(path)!r}: {reason}") from None


def _try(path: Path, place: Place) -> None:
    if path.is_dir() and not place.folder:
        raise IsADirectoryError(None, f"a folder; give a name such as {path / 'NAME'}")
    if path.exists() and place.folder and not path.is_dir():
        raise NotADirectoryError(None, "a file; give another name, or remove it")
    if path.exists() and not place.folder and not os.access(path, os.W_OK):
        raise PermissionError(None, "no permission to write it")
    folder = path if place.folder else path.parent
    made: list[Path] = []
    try:
        for part in [*reversed(folder.parents), folder]:
            if not part.exists():
                part.mkdir()
                made.append(part)
        tempfile.TemporaryFile(dir=folder).close()
    finally:
        for part in reversed(made):
            part.rmdir()
