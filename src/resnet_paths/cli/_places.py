"""Output paths, checked before the work starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .options import Place


def check_place(path: Path, place: Place, option: str) -> None:
    """Refuse a path that cannot be written; directories created for the check are removed.

    Raises:
        OSError: a file instead of a folder or vice versa, no permission, an invalid name.
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
        raise PermissionError(None, "no permission to write to it")
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
