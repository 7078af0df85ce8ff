"""Files that are written atomically, and checks of files to read.

An analysis of hours must not leave half a file that looks complete, nor destroy the previous one when the disk is full.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .partials import partial_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@contextmanager
def whole_file(path: str | Path, *, locks_itself: bool = False) -> Iterator[Path]:
    """Write a file atomically: yields a temporary name, which replaces the file when the block ends without an error.

    Until then the old file stays: a full disk, an error or an interruption leaves it unchanged. The new file has the
    permissions of the umask, whatever the writer set. A symbolic link stays and its target is replaced; a device or a
    pipe is written to directly. Temporary files that killed processes left for the same target are deleted.

    Args:
        path: the file; its folder is created if it is missing.
        locks_itself: the writer locks the file, as HDF5 does, which a lock of ours would block.

    Yields:
        The name to write to.

    Raises:
        ValueError: the name is empty or a folder.
        OSError: the folder is not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(folder + "/a.txt") as partial:
        ...         _ = partial.write_text("all of it")
        ...     Path(folder, "a.txt").read_text(), len(os.listdir(folder))
        ('all of it', 1)
    """
    if not str(path).strip():
        raise ValueError(f"expected a file name to write to, got {str(path)!r}")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if target.is_dir():
        raise ValueError(f"expected a file to write, got the folder {str(path)!r}; pass a file in it")
    if target.exists() and not target.is_file():
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(target, locks_itself) as (partial, descriptor):
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        yield partial
        os.chmod(partial, mode)  # safetensors gives access to the owner only
        os.replace(partial, target)


def made_folder(path: str | Path) -> Path:
    """A folder to write to, created if it is missing.

    Raises:
        ValueError: the name is empty or a file.
    """
    folder = Path(path)
    if not str(path).strip() or (folder.exists() and not folder.is_dir()):
        got = f"the file {str(path)!r}" if str(path).strip() else repr(str(path))
        raise ValueError(f"expected a folder to write to, got {got}; pass another name")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(path: str | Path, text: str) -> Path:
    """Write a text atomically; see :func:`whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def write_table(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write a table as csv without its index, atomically."""
    return write_text(path, frame.to_csv(index=False))


def existing_file(path: str | Path, what: str) -> Path:
    """The path of a file to read.

    Args:
        path: the file.
        what: its content, for error messages, such as "a plan".

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is empty or a folder.
    """
    source = Path(path)
    if not str(path).strip() or source.is_dir():
        raise ValueError(f"expected the file of {what}, got {'a folder: ' if str(path).strip() else ''}{str(path)!r}")
    if not source.exists():
        raise FileNotFoundError(f"expected the file of {what}, got {str(path)!r}, which does not exist; check the path")
    return source


def read_arrays(source: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; no code from the file is run.

    Raises:
        ValueError: the file is damaged or of another kind.
        MemoryError: the arrays do not fit in memory.
    """
    import numpy as np

    try:
        with np.load(source, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it contains a single array")
            return {name: file[name] for name in file.files}
    except MemoryError:
        raise
    except Exception as error:  # whatever numpy, zipfile and zlib raise on a damaged file
        reason = str(error) or type(error).__name__
        raise ValueError(f"expected {what} in {source.name}, which cannot be read: {reason}") from error
