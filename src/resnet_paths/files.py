"""Files that are written whole or not at all, and files that are there to be read."""

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
    """Lend a name to write to; the file gets its own when the block ends without an error, in one step.

    Until then, what was there stays: a full disk, an error or an interruption leaves it as it was. The file has the
    permissions that the umask gives, whatever the writer made of it. A symbolic link stays, and what it leads to is
    replaced; a device or a pipe is written to directly. What a process that was killed left of the same file goes.

    Args:
        path: the file; its folder is made where it is missing.
        locks_itself: the writer locks the file, as HDF5 does, which a lock of ours would keep out.

    Yields:
        The name to write to.

    Raises:
        ValueError: an empty name, or a folder.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(folder + "/a.txt") as partial:
        ...         _ = partial.write_text("all of it")
        ...     Path(folder, "a.txt").read_text(), len(os.listdir(folder))
        ('all of it', 1)
    """
    if not str(path).strip():
        raise ValueError(f"expected the name of a file to write, got {str(path)!r}")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if target.is_dir():
        raise ValueError(f"expected a file to write, got the folder {str(path)!r}; give the name of a file in it")
    if target.exists() and not target.is_file():
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(target, locks_itself) as (partial, descriptor):
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        yield partial
        os.chmod(partial, mode)  # safetensors writes for the owner alone
        os.replace(partial, target)


def made_folder(path: str | Path) -> Path:
    """A folder to write in, made where it is missing.

    Raises:
        ValueError: an empty name, or a file.
    """
    folder = Path(path)
    if not str(path).strip() or (folder.exists() and not folder.is_dir()):
        got = f"the file {str(path)!r}" if str(path).strip() else repr(str(path))
        raise ValueError(f"expected a folder to write in, got {got}; give another name")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(path: str | Path, text: str) -> Path:
    """Write a text, whole or not at all; see :func:`whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def write_table(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write a table as csv, without its index; likewise."""
    return write_text(path, frame.to_csv(index=False))


def existing_file(path: str | Path, what: str) -> Path:
    """The path of a file to read.

    Args:
        path: the file.
        what: what is to be in it, for the error: "a plan".

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder.
    """
    source = Path(path)
    if not str(path).strip() or source.is_dir():
        raise ValueError(f"expected the file of {what}, got {'a folder: ' if str(path).strip() else ''}{str(path)!r}")
    if not source.exists():
        raise FileNotFoundError(f"expected the file of {what}, got {str(path)!r}, which does not exist; check the path")
    return source


def read_arrays(source: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; runs no code from it.

    Raises:
        ValueError: a damaged file, or one of something else; the file is named.
        MemoryError: the arrays do not fit.
    """
    import numpy as np

    try:
        with np.load(source, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array alone")
            return {name: file[name] for name in file.files}
    except MemoryError:
        raise
    except Exception as error:  # whatever numpy, zipfile and zlib raise on a damaged file
        reason = str(error) or type(error).__name__
        raise ValueError(f"expected {what} in {source.name}, which cannot be read: {reason}") from error
