import json
import os
import resource
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from resnet_paths.sweep import BatchHalvedWarning, adaptive_batches, is_out_of_memory, sweep

pytestmark = pytest.mark.slow

FULL = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "python": MemoryError(),
}


def halved(work: Callable[[int], Any], size: int) -> tuple[Any, int]:
    """What the first batch returned, and the size that fitted."""
    sized = adaptive_batches(lambda rows: (work(rows.stop - rows.start), rows.stop - rows.start), size or 1, size)
    return next(sized)


def allocator_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize("error", [*FULL.values(), allocator_error()], ids=[*FULL, "cpu"])
def test_a_batch_that_does_not_fit_is_halved_and_this_is_said(error: Exception) -> None:
    tried: list[int] = []

    def work(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise error
        return "done"

    assert is_out_of_memory(error)
    with pytest.warns(BatchHalvedWarning) as said:
        assert halved(work, 16) == ("done", 2)
    assert tried == [16, 8, 4, 2]
    assert "a batch of 16 does not fit in memory, continuing with 8" in str(said[0].message)


def test_other_errors_and_single_examples_are_raised() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def full(size: int) -> None:
        raise MemoryError

    with pytest.raises(RuntimeError, match="mat1"):
        halved(broken, 16)
    with pytest.warns(BatchHalvedWarning), pytest.raises(MemoryError):
        halved(full, 2)
    with pytest.raises(ValueError, match="at least 1"):
        halved(full, 0)


@pytest.mark.parametrize("length", [0, 1, 7, 64])
def test_batches_cover_every_example_once_and_stay_small(length: int) -> None:
    x = torch.arange(length)
    sizes: list[int] = []

    def work(rows: slice) -> torch.Tensor:
        if len(x[rows]) > 5 and len(sizes) > 2:
            raise MemoryError
        sizes.append(len(x[rows]))
        return x[rows]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = list(adaptive_batches(work, length, 8))
    assert torch.equal(torch.cat(parts) if parts else x, x)
    if length == 64:
        assert sizes == [8, 8, 8] + [4] * 10


def test_the_failed_attempt_is_freed_before_the_next() -> None:
    held: list[weakref.ref] = []

    def work(size: int) -> None:
        assert all(reference() is None for reference in held)
        tensor = torch.zeros(size)
        held.append(weakref.ref(tensor))
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.warns(BatchHalvedWarning):
        halved(work, 8)
    assert len(held) == 4


ROW = 1 << 26  # float32 values of one image: 256 MiB


def with_room_for_less_than_sixteen() -> tuple[list[int], list[bool]]:
    """In a separate process: address space for 3 GiB more, and 16 images at once, which would take 4 GiB.

    A failed allocation, and whatever else the allocator does, may reserve some of the room itself: it is wide.
    """
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), -1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parts = list(adaptive_batches(lambda rows: torch.empty(rows.stop - rows.start, ROW).shape[0], 16, 16))
    return parts, [issubclass(warning.category, BatchHalvedWarning) for warning in said]


def test_a_process_with_little_memory_finishes_with_smaller_batches() -> None:
    """A real limit of the operating system, not a raised exception."""
    reading, writing = os.pipe()
    child = os.fork()  # a new one would spend seconds on imports
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(with_room_for_less_than_sixteen()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    with open(reading) as pipe:
        parts, halved = json.load(pipe)
    assert sum(parts) == 16
    assert max(parts) <= 8
    assert any(halved)
    assert all(halved) or torch.cuda.is_available()  # whose driver may warn of the little room too


def test_a_sweep_says_it_and_keeps_it_with_the_point(capsys: pytest.CaptureFixture[str]) -> None:
    def function(point: int, context: None, seed: int) -> int:
        def work(rows: slice) -> int:
            if rows.stop - rows.start > 2:
                raise MemoryError("no room")
            return rows.stop - rows.start

        return sum(adaptive_batches(work, point, 4))

    with pytest.warns(BatchHalvedWarning):
        result = sweep(function, [1, 6, 7])
    assert result.values["value"].tolist() == [1, 6, 7]
    assert set(result.notes) == {1, 2}
    assert "a batch of 4 does not fit in memory, continuing with 2 (no room)" in result.notes[1][0]


def test_a_sweep_on_a_pipe_says_a_halving_once(capfd: pytest.CaptureFixture[str]) -> None:
    def function(point: int, context: None, seed: int) -> int:
        def work(size: int) -> int:
            if size > 1:
                raise MemoryError
            return point

        return halved(work, 2)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweep(function, range(5))
    assert capfd.readouterr().err.count("a batch of 2 does not fit in memory, continuing with 1") == 1
