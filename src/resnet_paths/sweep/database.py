"""The file of a journal: created atomically, checked before it is written to, and never repaired by guessing.

SQLite could create the file itself, but a kill during creation would leave an empty file, which looks the same as a
journal that lost its content. So an empty journal is built in memory, written to an unnamed file and linked into place
in one step; file systems without unnamed files or links get the next best method. SQLite checks the structure of its
pages but not the content of its rows, so each row has a checksum, which detects bits flipped by a disk or a copy. All
rows are checked when the journal is opened, before anything is computed on top of them.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import JournalError

APPLICATION_ID = 0x52505357  # "RPSW"
FORMAT = 1
SCHEMA = f"""
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE sweeps(
    id INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE NOT NULL, about TEXT NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE owners(id INTEGER PRIMARY KEY AUTOINCREMENT, opened INTEGER);
CREATE TABLE claims(
    sweep INTEGER NOT NULL, key BLOB NOT NULL, owner INTEGER NOT NULL, PRIMARY KEY(sweep, key)
) WITHOUT ROWID;
CREATE TABLE results(
    sweep INTEGER NOT NULL, key BLOB NOT NULL, point TEXT NOT NULL, value BLOB, error TEXT, notes TEXT NOT NULL,
    seconds REAL NOT NULL, crc INTEGER NOT NULL, UNIQUE(sweep, key)
);
COMMIT;
"""
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "beegfs",
    "gpfs",
    "ceph",
    "afs",
    "9p",
    "glusterfs",
    "fuse.sshfs",
}
"""File systems shared between machines: SQLite's write-ahead log needs memory shared by all its users."""

_URI_OPTIONS = ""  # tests select another locking method here


def checksum(*fields: Any) -> int:
    """CRC-32 of a row, which SQLite does not store itself."""
    crc = 0
    for field in fields:
        content = field if isinstance(field, bytes) else repr(field).encode()
        crc = zlib.crc32(content, zlib.crc32(b"%d" % len(content), crc))
    return crc


@contextmanager
def explained(path: Path | str, doing: str) -> Iterator[None]:
    """Turn a database error into one that says what to do about it."""
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(f"{doing} the journal {path}: {error}. {_advice(str(error), path)}") from error


def _advice(message: str, path: Path | str) -> str:
    if "full" in message:
        return "The disk is full: what was reported as finished is kept; free some space and run the same call again."
    if "locked" in message or "busy" in message:
        return "Another process has locked it for a minute: end that process, or use another journal."
    if "readonly" in message or "unable to open" in message:
        return "The file and its folder must exist and be writable."
    if any(word in message for word in ("malformed", "not a database", "corrupt", "no such", "decode")):
        return damage(path)
    return "What was reported as finished is kept; check the disk, then run the same call again."


def damage(path: Path | str) -> str:
    """Advice on a damaged file, which this package leaves unchanged."""
    return (
        f"The file is damaged and was left unchanged. Move {Path(path).name} and its -wal file away to start afresh; "
        "`sqlite3 FILE .recover` may recover the rest of it."
    )


def connect(path: Path | None) -> sqlite3.Connection:
    """Open a journal: checked if it exists, created if not, in memory without a path."""
    if path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.executescript(SCHEMA)
        return connection
    path = _real(path)
    if not path.exists():
        _create(path)
    _wait_until_complete(path)
    with explained(path, "cannot check"):
        _check(path)
    with explained(path, "cannot open"):
        connection = _open(path, "rw")
        # A commit returns only once the data are on disk, so that a power failure loses nothing reported as finished.
        connection.execute("PRAGMA synchronous = FULL")
        _set_mode(connection, "DELETE" if _on_network(path) else "WAL")
        return connection


def _set_mode(connection: sqlite3.Connection, mode: str) -> None:
    """Set the journal mode; SQLite does not wait for others that are just setting it too, so this waits for them."""
    end = time.monotonic() + 60
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _real(path: Path) -> Path:
    """The target of a symbolic link, even if the target does not exist yet."""
    try:
        if "\0" in str(path) or not str(path).strip():
            raise ValueError("not a file name")
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a cycle of links
        reason = getattr(error, "strerror", None) or str(error)
        raise JournalError(f"expected a file name for the journal, got {str(path)!r}: {reason}") from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}{_URI_OPTIONS}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)


def _create(path: Path) -> None:
    """Create an empty journal atomically, so that no other process sees half a file."""
    content = _empty_journal()
    try:
        if not _publish_unnamed(content, path):
            _publish_named(content, path)
    except FileExistsError:
        return  # another process was first, and its file stays
    except OSError as error:
        raise JournalError(
            f"cannot create the journal {path}: {error.strerror}. "
            "Its folder must exist, be writable and have space left."
        ) from error


def _empty_journal() -> bytes:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.executescript(SCHEMA)
        return connection.serialize()
    finally:
        connection.close()


def _publish_unnamed(content: bytes, path: Path) -> bool:
    """Write an unnamed file, of which a kill leaves nothing, and link it; False if the system does not support that.

    Raises:
        FileExistsError: another process was first.
        OSError: the folder is not writable.
    """
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return False
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    finally:
        os.close(descriptor)
        os.close(folder)
    return True


def _publish_named(content: bytes, path: Path) -> None:
    """Do the same with a temporary file name, which is removed afterwards."""
    temporary = path.with_name(f".{path.name[:200]}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        _publish_without_links(content, path)
    finally:
        temporary.unlink(missing_ok=True)


_UNABLE = (
    errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EISDIR, errno.EINVAL,
    errno.ENOENT, errno.EXDEV,
)  # fmt: skip
"""Errors of file systems without links or without unnamed files."""


def _publish_without_links(content: bytes, path: Path) -> None:
    with path.open("xb") as file:  # readers wait until it is complete
        file.write(content)


def _wait_until_complete(path: Path) -> None:
    """Wait for another process that is just creating the file; refuse a file that stays incomplete."""
    for _ in range(20):
        if path.is_dir():
            raise JournalError(f"expected a file for the journal, got the folder {path}: pass a file in it")
        if path.stat().st_size >= 512:
            return
        time.sleep(0.05)
    raise JournalError(f"the journal {path} is truncated after {path.stat().st_size} bytes. {damage(path)}")


def _check(path: Path) -> None:
    """Refuse a file that is damaged or not a journal, before anything is written to it.

    The check is read-only, so that not even the write-ahead log is merged into a damaged file. Only after a crash
    without such a log must SQLite first roll back its last transaction.

    Raises:
        OperationalError: the file cannot be opened.
    """
    try:
        connection = _open(path, "ro")
        try:
            _check_contents(connection, path)
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error) and "unable to open" not in str(error):
            raise
        connection = _open(path, "rw")
        try:
            _check_contents(connection, path)
        finally:
            connection.close()


def _check_contents(connection: sqlite3.Connection, path: Path) -> None:
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    if identity != APPLICATION_ID:
        raise JournalError(
            f"{path} is a database, but not a journal of sweeps, or {damage(path)[:1].lower()}{damage(path)[1:]}"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise JournalError(
            f"expected a journal of format {FORMAT}, got format {version} in {path}: "
            "use the version of this package that wrote it"
        )
    integrity = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if integrity != "ok":
        raise JournalError(f"cannot use the journal {path}: {integrity.splitlines()[-1]}. {damage(path)}")
    _check_rows(connection, path)


def _check_rows(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN")  # a consistent view of both tables, even while others write
    sweep_ids = set()
    for row, fingerprint, about, crc in connection.execute("SELECT id, fingerprint, about, crc FROM sweeps"):
        if crc != checksum(row, fingerprint, about):
            raise JournalError(f"the list of sweeps in the journal {path} was altered. {damage(path)}")
        sweep_ids.add(row)
    for *fields, crc in connection.execute("SELECT sweep, key, point, value, error, notes, seconds, crc FROM results"):
        if crc != checksum(*fields) or fields[0] not in sweep_ids:
            raise JournalError(f"a finished point in the journal {path} was altered. {damage(path)}")
    last_owner = "(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'owners')"
    invalid_owner = f"typeof(owner) != 'integer' OR owner NOT BETWEEN 1 AND {last_owner}"
    if connection.execute(f"SELECT count(*) FROM claims WHERE {invalid_owner}").fetchone()[0]:
        raise JournalError(f"a claim in the journal {path} was altered. {damage(path)}")
    connection.execute("COMMIT")


def _on_network(path: Path) -> bool:
    """Whether the file is on a file system shared between machines, as far as Linux reports it."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return False
    longest, kind = -1, ""
    resolved = path.resolve()
    for line in mounts.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if resolved.is_relative_to(point) and len(point) > longest:
            longest, kind = len(point), source.split()[0]
    return kind in NETWORK_FILE_SYSTEMS
