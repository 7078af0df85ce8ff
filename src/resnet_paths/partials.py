"""Files under a name of their own while they are written, and those that a killed process left.

A writer holds a lock on its file, which the system frees however the process ends. No process number is asked, which
another process may have by now, or in another container. The lock does not follow a writer that puts a new file under
the name (safetensors does); hence only files that nobody has touched for a minute are taken for left ones.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".part"
"""What these names hold, after that of the file they are to become."""
UNTOUCHED = 60.0
"""Seconds after which a file that nobody holds has been left by its writer."""


@contextmanager
def partial_file(target: Path, locks_itself: bool = False) -> Iterator[tuple[Path, int]]:
    """An empty file beside the target, held as long as the block lasts, with its descriptor; then deleted.

    Those that processes which are no more left of the same target are deleted first.

    Yields:
        The file and its descriptor.
    """
    _delete_left(target)
    partial = target.with_name(f"{_beginning(target)}{secrets.token_hex(4)}{target.suffix}")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        if not locks_itself:
            _held(descriptor)
        yield partial, descriptor
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def _beginning(target: Path) -> str:
    """Of the names, with room for the rest where the target's has the greatest length."""
    name = target.name if len(target.name.encode()) <= 200 else target.name[:40]
    return f".{name}{MARK}"


def _delete_left(target: Path) -> None:
    beginning = _beginning(target)
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(beginning)]
    for name in names:
        with contextlib.suppress(OSError):  # another writer was faster, or it is not ours to delete
            _delete_if_left(target.with_name(name))


def _delete_if_left(partial: Path) -> None:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        if time.time() - os.fstat(descriptor).st_mtime > UNTOUCHED and _held(descriptor):
            partial.unlink()
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _held(descriptor: int) -> bool:
        """Never: a lock would keep the writer itself out; so nothing is deleted."""
        return False

else:
    import fcntl

    def _held(descriptor: int) -> bool:
        """Whether the file could be locked; not where a living process has it, nor on a file system without locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
