"""Evaluating a function at many points: points -> executor -> journal -> table."""

from .devices import available_devices, local_workers, worker_device
from .errors import FingerprintError, JournalError, SweepError, SweepInterrupted
from .fingerprints import fingerprint
from .grids import Grid, grid
from .memory import BatchHalvedWarning, adaptive_batches, is_out_of_memory
from .options import RunOptions
from .progress import SweepProgress
from .result import SweepResult
from .run import sweep, unfinished
from .threads import on_each_core, operation_threads

__all__ = [
    "BatchHalvedWarning",
    "FingerprintError",
    "Grid",
    "JournalError",
    "RunOptions",
    "SweepError",
    "SweepInterrupted",
    "SweepProgress",
    "SweepResult",
    "adaptive_batches",
    "available_devices",
    "fingerprint",
    "grid",
    "is_out_of_memory",
    "local_workers",
    "on_each_core",
    "operation_threads",
    "sweep",
    "unfinished",
    "worker_device",
]
