"""Shared fixtures: one thread per worker and its subprocesses, quick latencies, the reference data if present."""

import gc
import os
import time
import timeit
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # there is about one worker per core, so more threads would compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # in tests of several threads, waiting ones use no CPU

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("suite", deadline=None)  # a slow machine is not a failure: no assertion is timed
settings.load_profile("suite")

REFERENCE = Path(os.environ.get("RESNET_PATHS_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_xdist_auto_num_workers() -> int:
    """One more worker than cores, because tests that wait for processes, sockets or the disk leave a core idle."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slow tests first in each worker's share, file by file, so that only short ones are left to rebalance."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            files.setdefault(item.path, []).append(item)
    slow = [*reversed(files.values())]
    rest = iter([item for item in items if not item.get_closest_marker("slow")])
    shares = [[item for file in slow[worker::workers] for item in file] for worker in range(workers)]
    for share in shares:
        share += islice(rest, max(0, -(-len(items) // workers) - len(share)))
    items[:] = [*chain.from_iterable(shares), *rest]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude imported and collected objects, which live until the end, from garbage collection.

    There are millions of them. Scanning them takes a quarter of pytest's collection time, and half a second at each
    later garbage collection. Tests create and discard many objects: Python's default threshold of 700 costs them a
    twentieth of their time, 5,000 a fiftieth.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def garbage_of_one_module() -> Iterator[None]:
    """Exclude what a test module leaves behind, above all newly imported libraries, from later garbage collections.

    Otherwise they take a tenth of the suite's time.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def operations_of_onnx_read_once() -> Iterator[None]:
    """Cache what torch reads for each ONNX program: the source and the signatures of onnxscript's 500 functions."""
    try:
        from torch.onnx._internal._lazy_import import onnxscript_apis
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another torch release: no caching
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        read = cache(lambda: onnxscript_apis.__getattr__("get_torchlib_ops")())
        patch.setitem(vars(onnxscript_apis), "get_torchlib_ops", read)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with the reference CIFAR-10 sample and checkpoints; skips where absent."""
    if not (REFERENCE / "cifar10_sample.npz").exists():
        pytest.skip(f"reference data not found at {REFERENCE}; set RESNET_PATHS_REFERENCE to its folder")
    return REFERENCE


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network of six blocks with 80 % accuracy, trained in two seconds like the embedded one.

    It is for tests that do not depend on the network: the embedded one has 27 blocks, and takes ten times as long. The
    first worker that needs it trains it for all.
    """
    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "small.safetensors"
    if file.exists():
        return file
    from resnet_paths.data import digits
    from resnet_paths.models import cifar_resnet, save_checkpoint
    from resnet_paths.training import Recipe, train

    model = cifar_resnet(14, in_channels=1, widths=(8, 16, 16), seed=0)
    train(model, digits("train"), Recipe(epochs=3, shift=1, flip=False, batch_size=32), progress=False)
    return save_checkpoint(model, file)


@pytest.fixture(autouse=True, scope="module")
def quick_latencies() -> Iterator[None]:
    """Latencies in few rounds, by a clock that runs twenty times as fast, because most tests do not check the times.

    They use four images and a third of a Clock's default number of rounds; longer timings keep as many rounds as the
    requested confidence for the median needs. A timing is a single run without warm-up. Fixtures of a module are
    created under it too. Tests of the timing itself override it with a fixture of this name that does nothing.
    """
    from resnet_paths.graph.trees import map_leaves
    from resnet_paths.tradeoff import Clock, stopwatch

    in_turn, own = stopwatch.latencies_in_turn, Clock().rounds

    def in_fewer_rounds(models: Any, x: Any, *, rounds: int, **options: Any) -> Any:
        x = map_leaves(x, lambda leaf: leaf[:4])
        return in_turn(models, x, rounds=rounds if rounds < own else rounds // 3 + 1, **options)

    def of_one_call(call: Any, number: int) -> float:
        return timeit.timeit(call, number=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_paths.tradeoff.timing._seconds_a_call", of_one_call)
        patch.setattr("resnet_paths.tradeoff.timing.monotonic", lambda: 20 * time.monotonic())
        patch.setattr("resnet_paths.tradeoff.timing._ROUNDS", 2)
        patch.setattr(stopwatch, "latencies_in_turn", in_fewer_rounds)
        yield
