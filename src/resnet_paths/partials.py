"""Temporary files of writers, and cleaning up those of killed processes.

A writer holds a lock on its file, which the system releases however the process ends. Process ids are not used: another
process, or another container, may have the same one. The lock does not follow a writer that puts a new file under the
name (safetensors does), so only files that nobody has touched for a minute count as abandoned.
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
"""Part of every temporary name, after the name of the target."""
UNTOUCHED = 60.0
"""Seconds after which an unlocked file counts as abandoned; writers touch their file far more often."""


@contextmanager
def partial_file(target: Path, locks_itself: bool = False) -> Iterator[tuple[Path, int]]:
    """An empty file beside the target, locked inside the context and deleted afterwards.

    Abandoned files for the same target are deleted first.

    Yields:
        The file and its descriptor.
    """
    _delete_abandoned(target)
    partial = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{target.suffix}")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        if not locks_itself:
            _try_lock(descriptor)
        yield partial, descriptor
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    """The prefix of temporary names, shortened for long names so that the rest fits (255 bytes at most)."""
    name = target.name if len(target.name.encode()) <= 200 else target.name[:40]
    return f".{name}{MARK}"


def _delete_abandoned(target: Path) -> None:
    prefix = _prefix(target)
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix)]
    for name in names:
        with contextlib.suppress(OSError):  # another writer deleted it first, or we lack the permission
            _delete_if_abandoned(target.with_name(name))


def _delete_if_abandoned(partial: Path) -> None:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        if time.time() - os.fstat(descriptor).st_mtime > UNTOUCHED and _try_lock(descriptor):
            partial.unlink()
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool:
        """Always False: a lock would block the writer itself, so nothing is deleted on Windows."""
        return False

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        """Whether the file could be locked; False if a living process holds it, or without support for locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
