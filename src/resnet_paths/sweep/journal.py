"""The journal: finished points of any number of sweeps in one SQLite file, crash-safe and shared by processes.

SQLite is in Python's standard library, and its transactions solve the hard part of "nothing is lost and nothing is
computed twice". What it does not know is which processes are alive. So each claim names its owner, and `owners` tells
whether the owner still holds its lock. Points are stored under a hash of their values and the fingerprint of the sweep,
so that one file serves many sweeps, and a changed function does not find old values.

Without a file, the same tables are in memory. That takes a tenth of a sweep's overhead, and leaves one path from a
function to its result instead of two that could differ.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from . import database
from .errors import JournalError, SweepError
from .owners import Owners
from .values import Value, decode_values

_computed_around: ContextVar[frozenset[tuple[str, int, bytes]]] = ContextVar("computed_around", default=frozenset())
"""The points being computed in the enclosing calls, as (journal, sweep, key)."""


class State(Enum):
    """The state of a point in a journal."""

    MINE = "claimed for the caller"
    DONE = "finished"
    FAILED = "failed"
    TAKEN = "being computed by another sweep"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one point: the bytes of its values, or a traceback."""

    key: bytes
    point: str
    value: bytes | None
    error: str | None
    notes: tuple[str, ...]
    seconds: float


class Journal:
    """One sweep's view of a journal.

    Guarantees: a point is finished once `finish` has returned, and its bytes are then on disk, safe from kills, crashes
    and power failures. A point is claimed by one sweep at a time; the claims of a process become free however it ends.
    No clock is involved. A finished row is never rewritten.
    """

    def __init__(self, path: Path | None, fingerprint: str, about: dict[str, Any]) -> None:
        self.path = path
        self._db = database.connect(path)
        try:
            self._owners = None if path is None else Owners(path.with_name(path.name + "-owners"))
            with self._writing("cannot register with"):
                self._sweep = self._register(fingerprint, json.dumps(about, sort_keys=True))
                cursor = self._db.execute("INSERT INTO owners DEFAULT VALUES")
                self.owner = cursor.lastrowid or 0
                # Lock before the commit, so that no other process sees an owner without a lock.
                if self._owners is not None:
                    self._owners.hold(self.owner)
        except BaseException:
            self._db.close()
            raise

    def _register(self, fingerprint: str, about: str) -> int:
        existing = self._db.execute("SELECT id FROM sweeps WHERE fingerprint = ?", (fingerprint,)).fetchone()
        if existing:
            return int(existing[0])
        number = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM sweeps").fetchone()[0]
        row = (number, fingerprint, about)
        self._db.execute("INSERT INTO sweeps VALUES (?, ?, ?, ?)", (*row, database.checksum(*row)))
        return int(number)

    @contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        """Run one transaction, completely or not at all."""
        with database.explained(self.path or "in memory", doing):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After some errors, such as a full disk, SQLite has already rolled back.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def claim(self, keys: Sequence[bytes], limit: int) -> list[State]:
        """Claim up to `limit` of the points in order; returns the states of the points examined, perhaps not all."""
        states: list[State] = []
        claimed = 0
        alive: dict[int, bool] = {}
        with self._writing("cannot claim points in"):
            for key in keys:
                if claimed == limit:
                    break
                states.append(self._claim_one(key, alive))
                claimed += states[-1] is State.MINE
        return states

    def _claim_one(self, key: bytes, alive: dict[int, bool]) -> State:
        where = (self._sweep, key)
        result = self._db.execute("SELECT error IS NULL FROM results WHERE sweep = ? AND key = ?", where).fetchone()
        if result:
            return State.DONE if result[0] else State.FAILED
        claim = self._db.execute("SELECT owner FROM claims WHERE sweep = ? AND key = ?", where).fetchone()
        if claim:
            owner = claim[0]
            if owner not in alive:
                alive[owner] = owner == self.owner or (self._owners is not None and self._owners.alive(owner))
            if alive[owner]:
                return State.TAKEN
        self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (*where, self.owner))
        return State.MINE

    @contextmanager
    def computing(self, key: bytes) -> Iterator[None]:
        """Mark a point as being computed: a nested sweep that requests it would otherwise wait forever."""
        token = _computed_around.set(_computed_around.get() | {self._identity(key)})
        try:
            yield
        finally:
            with suppress(ValueError):  # the generator was closed in another context, as after an interruption
                _computed_around.reset(token)

    def check_not_within(self, key: bytes) -> None:
        """Refuse a point that an enclosing call is computing.

        Raises:
            SweepError: the point is being computed by an enclosing call.
        """
        if self.path is not None and self._identity(key) in _computed_around.get():
            raise SweepError(
                f"a point of the sweep in {self.path} requests its own value: the function calls the same sweep, with "
                "the same journal, for the point that it computes; use other points or no journal in the inner sweep"
            )

    def _identity(self, key: bytes) -> tuple[str, int, bytes]:
        return str(self.path), self._sweep, key

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Write outcomes durably, and release their claims."""
        with self._writing("cannot write finished points to"):
            for outcome in outcomes:
                row = (
                    self._sweep, outcome.key, outcome.point, outcome.value, outcome.error,
                    json.dumps(outcome.notes), outcome.seconds,
                )  # fmt: skip
                # The first result stays: if locks fail and two processes compute a point, both are equal.
                self._db.execute(
                    "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, database.checksum(*row))
                )
                self._db.execute("DELETE FROM claims WHERE sweep = ? AND key = ?", (self._sweep, outcome.key))

    def forget_failures(self) -> int:
        """Reopen this sweep's failed points; returns their number."""
        with self._writing("cannot reopen failed points in"):
            return self._db.execute(
                "DELETE FROM results WHERE sweep = ? AND error IS NOT NULL", (self._sweep,)
            ).rowcount

    def read(self, key: bytes) -> tuple[dict[str, Value] | None, str | None, float, tuple[str, ...]] | None:
        """Values, error, seconds and notes of a point; None if it is not finished."""
        with database.explained(self.path or "in memory", "cannot read"):
            row = self._db.execute(
                "SELECT sweep, key, point, value, error, notes, seconds, crc FROM results WHERE sweep = ? AND key = ?",
                (self._sweep, key),
            ).fetchone()
        if row is None:
            return None
        if row[-1] != database.checksum(*row[:-1]):
            raise JournalError(
                f"a finished point in the journal {self.path} was altered. {database.damage(str(self.path))}"
            )
        value = None if row[3] is None else decode_values(row[3])
        return value, row[4], row[6], tuple(json.loads(row[5]))

    def close(self) -> None:
        """Release the open claims and close the file; never raises, since all results are already written."""
        try:
            with self._writing("cannot leave"):
                self._db.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
                self._db.execute("DELETE FROM owners WHERE id = ?", (self.owner,))
        except JournalError:
            pass  # a full disk; the claims become free anyway with the lock released below
        finally:
            with suppress(sqlite3.Error):
                self._db.close()
            if self._owners is not None:
                self._owners.release(self.owner)
