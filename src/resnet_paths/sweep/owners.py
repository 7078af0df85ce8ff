"""Which sweeps are alive: each locks one byte of a file beside the journal, and the system unlocks it at its end.

Leases that expire would need synchronised clocks, and would take points away from a process that is merely slow.
Process ids are reused, and mean nothing in another container or on another machine. A lock held by the system has
neither problem. One byte per owner rather than one file, because every kill would leave a file behind.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from .errors import JournalError

# A process loses its POSIX locks on a file when it closes any descriptor of that file, so each file is opened once and
# kept open. A process cannot query its own locks, so it remembers them (a forked child inherits none).
_descriptors: dict[tuple[int, str], int] = {}
_held: set[tuple[int, str, int]] = set()


class Owners:
    """The owners of a journal's claims: each has a number, and is alive while the byte at that offset is locked."""

    def __init__(self, path: Path) -> None:
        self.path = str(path.resolve())

    def hold(self, owner: int) -> None:
        """Mark an owner as alive until `release`, or until this process ends in any way."""
        self._forget_deleted()
        if not self._lock(owner):
            raise JournalError(f"owner {owner} of {self.path} is another process: was the file copied while in use?")
        _held.add((os.getpid(), self.path, owner))

    def release(self, owner: int) -> None:
        """Mark an owner of this process as finished."""
        _held.discard((os.getpid(), self.path, owner))
        _unlock(self._descriptor(), owner)

    def alive(self, owner: int) -> bool:
        """Whether the owner's sweep is still running."""
        if (os.getpid(), self.path, owner) in _held:
            return True
        # A lock that can be taken belongs to no living process.
        if self._lock(owner):
            _unlock(self._descriptor(), owner)
            return False
        return True

    def _lock(self, owner: int) -> bool:
        try:
            return _try_lock(self._descriptor(), owner)
        except OSError as error:
            raise JournalError(
                f"cannot lock {self.path} ({error.strerror}): "
                "put the journal on a file system that supports locks, such as a local disk"
            ) from error

    def _forget_deleted(self) -> None:
        """Drop the descriptor of a file that the user deleted, which other processes no longer see."""
        key = os.getpid(), self.path
        if key in _descriptors and not (
            os.path.exists(self.path) and os.path.samestat(os.stat(self.path), os.fstat(_descriptors[key]))
        ):
            # Not closed: that would release the locks that this process's other sweeps hold on the deleted file.
            del _descriptors[key]

    def _descriptor(self) -> int:
        key = os.getpid(), self.path
        if key not in _descriptors:
            try:
                _descriptors[key] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise JournalError(
                    f"cannot open {self.path}, which tracks the users of the journal ({error.strerror}): "
                    "its folder must be writable"
                ) from error
        return _descriptors[key]


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, byte: int) -> bool:
        os.lseek(descriptor, byte, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def _unlock(descriptor: int, byte: int) -> None:
        os.lseek(descriptor, byte, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int, byte: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _unlock(descriptor: int, byte: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, byte)
