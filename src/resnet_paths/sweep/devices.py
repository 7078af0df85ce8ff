"""Devices: one worker for each GPU, or workers that share the processor's cores.

A plain `ProcessPoolExecutor` forks, which breaks CUDA; gives all its workers the same GPU; lets each of them use all
cores; and leaves them running when its parent is killed. `local_workers` is that class with these four put right.
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
"""Where torchrun, Open MPI, MPICH, Cray's launcher and Slurm say which worker of its machine a process is."""

_assigned: torch.device | None = None


@checked
def available_devices() -> list[torch.device]:
    """All CUDA devices; without one Apple's MPS; without that the CPU.

    Example:
        >>> len(available_devices()) >= 1
        True
    """
    if torch.cuda.is_available():
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]


@checked
def worker_device() -> torch.device:
    """The device that a swept function should use in the worker that calls this.

    It is the one that `local_workers` gave to this worker; elsewhere the GPU with the worker's rank on its machine,
    as its launcher tells it (modulo their number), or the first.

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

    The processes start afresh (no state of this one, no broken CUDA contexts), leave Ctrl-C to this process, and
    end with it, also when it is killed.

    Args:
        workers: their number; None: one a device, or one a core on CPUs.
        devices: dealt out in turn, see `worker_device`; None: `available_devices()`.
        threads: torch's threads in each worker; None: this process's threads shared equally.

    Raises:
        ValueError: for fewer than one worker or thread.

    Example:
        >>> with local_workers(2, devices=["cpu"]) as executor:
        ...     executor._max_workers
        2
    """
    dealt = [torch.device(device) for device in (available_devices() if devices is None else devices)]
    if not dealt:
        raise ValueError("expected at least one device, got none")
    if workers is None:
        workers = len(dealt) if dealt[0].type != "cpu" else _cores()
    threads = max(1, torch.get_num_threads() // max(workers, 1)) if threads is None else threads
    if workers < 1 or threads < 1:
        raise ValueError(f"expected at least one worker and one thread, got {workers} and {threads}")
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for i in range(workers):
        places.put(str(dealt[i % len(dealt)]))
    return ProcessPoolExecutor(workers, context, _start, (places, threads))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(places: Any, threads: int) -> None:
    """The first thing that a worker does."""
    global _assigned
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent_soon()
    torch.set_num_threads(threads)
    _assigned = torch.device(places.get())
    if _assigned.type == "cuda":
        torch.cuda.set_device(_assigned)


def _end_with_parent_soon() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
