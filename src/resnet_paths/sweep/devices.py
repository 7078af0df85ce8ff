"""Worker processes: one per GPU, or several that share the CPU cores.

A plain `ProcessPoolExecutor` forks, which breaks CUDA; gives the same GPU to all its workers; lets each of them use all
cores; and leaves them running when its parent is killed. `local_workers` is that class with these four problems fixed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any

import torch

from ..arguments import checked

_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "SLURM_LOCALID")
"""Variables with the local rank, set by torchrun, Open MPI, MPICH, Cray's launcher and Slurm."""

_assigned: torch.device | None = None


@checked
def available_devices() -> list[torch.device]:
    """All CUDA devices, or else Apple's MPS, or else the CPU.

    Example:
        >>> len(available_devices()) >= 1
        True
    """
    if torch.cuda.is_available():
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]


@checked
def worker_device() -> torch.device:
    """The device that a swept function should use in the current worker.

    In a worker of `local_workers` it is the assigned device. Elsewhere it is the GPU with the local rank that the
    launcher set (modulo the number of GPUs), or the first device.

    Example:
        >>> worker_device() in available_devices()
        True
    """
    if _assigned is not None:
        return _assigned
    devices = available_devices()
    rank = next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdecimal()), 0)
    return devices[rank % len(devices)]


@checked
def local_workers(
    workers: int | None = None, *, devices: Sequence[torch.device | str] | None = None, threads: int | None = None
) -> ProcessPoolExecutor:
    """An executor of processes on this machine for `sweep(..., executor=...)`.

    The processes are spawned (without this one's state or broken CUDA contexts), leave Ctrl-C to this process, and end
    with it, even if it is killed.

    Args:
        workers: number of processes; None: one per device, or one per core on CPUs.
        devices: devices assigned in turn, see `worker_device`; None: `available_devices()`.
        threads: number of torch threads per worker; None: this process's threads, divided equally.

    Raises:
        ValueError: there are no workers, threads or devices.

    Example:
        >>> with local_workers(2, devices=["cpu"]) as executor:
        ...     executor._max_workers
        2
    """
    assigned = [torch.device(device) for device in (available_devices() if devices is None else devices)]
    if not assigned:
        raise ValueError("expected at least one device, got none")
    if workers is None:
        workers = len(assigned) if assigned[0].type != "cpu" else _cores()
    threads = max(1, torch.get_num_threads() // max(workers, 1)) if threads is None else threads
    if workers < 1 or threads < 1:
        raise ValueError(f"expected at least one worker and one thread, got {workers} and {threads}")
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for i in range(workers):
        queue.put(str(assigned[i % len(assigned)]))
    return ProcessPoolExecutor(workers, context, _start, (queue, threads))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(devices: Any, threads: int) -> None:
    """Set up a worker process."""
    global _assigned
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_parent()
    torch.set_num_threads(threads)
    _assigned = torch.device(devices.get())
    if _assigned.type == "cuda":
        torch.cuda.set_device(_assigned)


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
