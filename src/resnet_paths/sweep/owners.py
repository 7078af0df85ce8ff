"""Who is alive: every sweep holds a lock on one byte of a file beside the journal, and the system frees it at death.

Leases that expire need clocks that agree, and steal the points of a process that was only slow; process numbers are
reused, and mean nothing in another container or on another machine. A lock that the system keeps has neither fault. A
byte for each owner, because a file for each would be left behind by every kill.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from .errors import JournalError

# A process loses its POSIX locks on a file when it closes any descriptor of it, so each file is opened once and
# stays open; and a process cannot see its own locks, so it remembers them (a forked child has none of them).
_descriptors: dict[tuple[int, str], int] = {}
_held: set[tuple[int, str, int]] = set()


class Owners:
    """The owners of a journal's claims, each known by a number and alive as long as its byte is locked."""

    def __init__(self, path: Path) -> None:
        self.path = str(path.resolve())

    def hold(self, owner: int) -> None:
        """Declares an owner alive until `release`, or until this process ends in whatever way."""
        self._forget_deleted()
        if not self._lock(owner):
            raise JournalError(f"owner {owner} of {self.path} is another process: was the file copied while in use?")
        _held.add((os.getpid(), self.path, owner))

    def release(self, owner: int) -> None:
        """Ends an owner of this process."""
        _held.discard((os.getpid(), self.path, owner))
        _unlock(self._descriptor(), owner)

    def alive(self, owner: int) -> bool:
        """Whether the owner's process still runs its sweep."""
        if (os.getpid(), self.path, owner) in _held:
            return True
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
                "put the journal on a file system with locks, such as a local disk"
            ) from error

    def _forget_deleted(self) -> None:
        """After the user deleted the file, the descriptor kept open leads to one that no other process sees."""
        name = os.getpid(), self.path
        if name in _descriptors and not (
            os.path.exists(self.path) and os.path.samestat(os.stat(self.path), os.fstat(_descriptors[name]))
        ):
            del _descriptors[name]

    def _descriptor(self) -> int:
        name = os.getpid(), self.path
        if name not in _descriptors:
            try:
                _descriptors[name] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise JournalError(
                    f"cannot open {self.path}, which shows who uses the journal ({error.strerror}): "
                    "its folder must be writable"
                ) from error
        return _descriptors[name]


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
