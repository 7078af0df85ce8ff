"""Errors of a sweep itself; errors at single points are recorded with the point."""

from __future__ import annotations


class SweepError(Exception):
    """The sweep cannot continue because of its workers, its points or its function."""


class JournalError(SweepError):
    """The journal cannot be read or written; its content was left unchanged."""


class FingerprintError(SweepError, TypeError):
    """A value affects the results but has no fingerprint, so that changes of it would go unnoticed."""


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C: the finished points are in the journal, and the message says how to resume."""
