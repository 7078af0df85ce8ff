"""What can go wrong with a sweep as a whole; what goes wrong at one point is recorded with that point."""

from __future__ import annotations


class SweepError(Exception):
    """The sweep cannot go on: its workers, its points or its function are at fault."""


class JournalError(SweepError):
    """The journal cannot be read or written; what it holds was left as it was found."""


class FingerprintError(SweepError, TypeError):
    """A value decides the results, and nothing can tell whether it is the same the next time."""


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C: the finished points are in the journal, and the message says how to go on."""
