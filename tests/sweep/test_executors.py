"""The same values over every executor, however many workers there are and whatever happens to them."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import run_by_mpi
from resnet_paths.sweep import SweepError, SweepProgress, SweepResult, executors, grid, local_workers, sweep, worker

pytestmark = pytest.mark.slow

POINTS = grid(alpha=[-1.0, 0.0, 0.5], beta=range(20))


def made() -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function and a context that are pickled by value, like those of a notebook."""

    def function(point: dict, context: dict, seed: int) -> dict[str, Any]:
        if point["beta"] == 13:
            raise ValueError("thirteen")
        with torch.no_grad():
            output = context["model"](context["data"] * point["alpha"] + point["beta"])
        return {"sum": output.sum(), "noise": torch.rand(3), "own": np.random.default_rng(seed).normal()}

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 1))
    return function, {"model": model.double(), "data": torch.randn(5, 4).double()}


@pytest.fixture(scope="module")
def expected() -> SweepResult:
    function, context = made()
    return sweep(function, POINTS, context=context, progress=False)


def equal(got: SweepResult, expected: SweepResult) -> None:
    for name in expected.values:
        np.testing.assert_array_equal(got.values[name], expected.values[name])
    assert got.errors.keys() == expected.errors.keys() == {13, 33, 53}
    assert got.provenance.fingerprint == expected.provenance.fingerprint


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Two new processes, in which strings have other hashes than in this one."""
    other = "0" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    with pytest.MonkeyPatch.context() as patch, local_workers(2, devices=["cpu", "meta"], threads=1) as executor:
        patch.setenv("PYTHONHASHSEED", other)
        yield executor


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_processes(pool: Executor, expected: SweepResult, chunk: int | None) -> None:
    function, context = made()
    equal(sweep(function, POINTS, context=context, executor=pool, chunk=chunk, progress=False), expected)


def test_threads_take_turns(expected: SweepResult) -> None:
    function, context = made()
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as executor:
        equal(sweep(function, POINTS, context=context, executor=executor, progress=False), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_journal_of_one_executor_serves_another(pool: Executor, expected: SweepResult, tmp_path: Path) -> None:
    function, context = made()
    half = POINTS[:30]
    sweep(function, half, context=context, executor=pool, journal=tmp_path / "j", progress=False)
    states: list[SweepProgress] = []
    equal(sweep(function, POINTS, context=context, journal=tmp_path / "j", progress=states.append), expected)
    assert states[-1].computed == 30


def test_the_default_type_travels(pool: Executor) -> None:
    try:
        torch.set_default_dtype(torch.float64)
        result = sweep(lambda p, c, s: torch.ones(1) / 3, [0], executor=pool, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.values["value"].dtype == np.float64


def test_every_worker_has_its_device_and_its_threads(pool: Executor, tmp_path: Path) -> None:
    def where(point: int, here: str, seed: int) -> dict[str, object]:
        import os
        import pathlib
        import time

        import torch

        from resnet_paths.sweep import worker_device

        pathlib.Path(here, str(os.getpid())).touch()
        for _ in range(1200):  # until both workers have come, of which one may start late
            if len(os.listdir(here)) == 2:
                break
            time.sleep(0.05)
        return {"device": str(worker_device()), "threads": torch.get_num_threads(), "worker": os.getpid()}

    result = sweep(where, range(20), context=str(tmp_path), executor=pool, progress=False, chunk=1)
    pairs = set(zip(result.values["worker"].tolist(), result.values["device"].tolist(), strict=True))
    assert sorted(device for _, device in pairs) == ["cpu", "meta"]
    assert set(result.values["threads"].tolist()) == {1}


def test_another_process_finds_the_same_fingerprint(pool: Executor) -> None:
    """Hash seeds, addresses and import order differ between processes."""

    def found(point: int, script: str, seed: int) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(script, names)
        return {"fingerprint": np.array(list(bytes.fromhex(names["found"]))), "hash": hash("a")}

    script = (
        "from torch import nn; import torch; torch.manual_seed(0)\n"
        "from resnet_paths.sweep import fingerprint\n"
        "def f(p, c, s): return {p in {'a', 'b', 'c'}, torch.relu(c), nn.functional.gelu(c)}\n"
        "found = fingerprint([f, nn.Linear(2, 2), {'x', 'y', 'z'}, frozenset('abc')])"
    )
    here, there = (sweep(found, [0], context=script, executor=where, progress=False).values for where in (None, pool))
    assert here["fingerprint"].shape == (1, 32)
    assert there["fingerprint"].tolist() == here["fingerprint"].tolist()
    assert there["hash"] != here["hash"]


def test_the_context_travels_once_to_each_worker(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class Counting(executors.Dispatcher):
        def run(self, tasks: Any) -> Iterator[Any]:
            yield from super().run(tasks)
            sent.append(self.payloads_sent)

    monkeypatch.setattr("resnet_paths.sweep.run.Dispatcher", Counting)
    context = torch.zeros(100_000)

    def slow(point: int, context: torch.Tensor, seed: int) -> int:
        time.sleep(0.005)
        return os.getpid()

    result = sweep(slow, range(300), context=context, executor=pool, chunk=1, progress=False)
    workers = len(set(result.values["value"].tolist()))
    assert workers == 2
    assert 2 <= sent[0] <= 4  # a worker that asked may find that another has taken its copy


class Recording(Executor):
    """Runs nothing, and lets a test answer."""

    def __init__(self, answer: Callable[[worker.Job], worker.Reply]) -> None:
        self.answer = answer
        self.most = 0
        self.jobs: list[worker.Job] = []

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future:  # type: ignore[override]
        future: Future = Future()
        self.jobs.append(arguments[0])
        try:
            future.set_result(self.answer(arguments[0]))
        except Exception as error:
            future.set_exception(error)
        return future


def answered(job: worker.Job) -> worker.Reply:
    return worker.Reply("here", tuple(worker.evaluate(lambda p, c, s: p, None, task) for task in job.tasks))


def test_a_worker_without_the_context_does_not_ask_all_the_time_that_another_computes() -> None:
    """Another takes what was sent to the first, and computes until the first has computed too."""
    taken: list[tuple[worker.Job, Future]] = []
    has_context = False

    class OfTwo(Recording):
        def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future:  # type: ignore[override]
            if arguments[0].payload is None or taken:
                return super().submit(function, *arguments, **named)
            taken.append((arguments[0], Future()))
            return taken[0][1]

    def first(job: worker.Job) -> worker.Reply:
        nonlocal has_context
        has_context |= job.payload is not None
        if taken and not taken[0][1].done() and (has_context or len(executor.jobs) > 100):
            taken[0][1].set_result(replace(answered(taken[0][0]), worker="another"))
        return answered(job) if has_context else worker.Reply("here", None)

    executor = OfTwo(first)
    result = sweep(lambda p, c, s: p, range(20), executor=executor, chunk=1, progress=False)
    assert result.values["value"].tolist() == list(range(20))
    assert len(executor.jobs) < 40


def test_quick_points_travel_together_and_few_jobs_are_on_their_way() -> None:
    executor = Recording(answered)
    result = sweep(lambda p, c, s: p, range(5000), executor=executor, progress=False)
    assert result.values["value"].tolist() == list(range(5000))
    assert len(executor.jobs) < 125
    assert len({job.serial for job in executor.jobs}) == len(executor.jobs)
    assert sum(len(job.tasks) for job in executor.jobs) == 5000


def test_the_point_that_takes_its_worker_down_is_recorded_and_the_others_are_not() -> None:
    def answer(job: worker.Job) -> worker.Reply:
        if any(task.point == 17 for task in job.tasks):
            raise OSError("the worker was lost")
        return answered(job)

    result = sweep(lambda p, c, s: p, range(40), executor=Recording(answer), chunk=10, progress=False)
    assert set(result.errors) == {17}
    assert "the worker was lost" in result.errors[17]


def test_a_broken_pool_ends_the_sweep_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def deadly(point: int, context: Any, seed: int) -> int:
        if point == 30 and not os.path.exists(context):
            open(context, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return point

    with local_workers(1, devices=["cpu"]) as executor:
        with pytest.raises(SweepError, match=r"executor broke.*run the same call again"):
            sweep(
                deadly, range(60), context=str(tmp_path / "died"), executor=executor, chunk=5, journal=tmp_path / "j",
                progress=False,
            )  # fmt: skip
    states: list[SweepProgress] = []
    result = sweep(deadly, range(60), context=str(tmp_path / "died"), journal=tmp_path / "j", progress=states.append)
    assert result.values["value"].tolist() == list(range(60))
    assert states[-1].computed < 60


def test_what_cannot_be_pickled_is_reported(pool: Executor) -> None:
    class Stays:
        def __sweep_fingerprint__(self) -> int:
            return 1

        def __reduce__(self) -> Any:
            raise TypeError("stays here")

    class Breaks:
        def __sweep_fingerprint__(self) -> int:
            return 1

        def __reduce__(self) -> Any:
            return __import__, ("a_module_that_is_nowhere",)

    with pytest.raises(SweepError, match=r"cannot send .*stays here"):
        sweep(lambda p, c, s: p, [0], context=Stays(), executor=pool, progress=False)
    with pytest.raises(SweepError, match=r"cannot load .*a_module_that_is_nowhere"):
        sweep(lambda p, c, s: p, [0], context=Breaks(), executor=pool, progress=False)


# Dask


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.integration
def test_dask(client: Any, expected: SweepResult) -> None:
    function, context = made()
    equal(sweep(function, POINTS, context=context, executor=client.get_executor(), progress=False), expected)


@pytest.mark.integration
def test_a_dask_worker_killed_in_mid_sweep(client: Any, expected: SweepResult, tmp_path: Path) -> None:
    plain, context = made()

    def function(point: dict, context: dict, seed: int) -> dict[str, Any]:
        time.sleep(0.03)
        return {**plain(point, context, seed), "worker": os.getpid()}

    killed: list[int] = []

    def report(state: SweepProgress) -> None:
        if state.computed > 10 and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    options: dict[str, Any] = {"context": context, "journal": tmp_path / "j", "chunk": 1}
    result = sweep(function, POINTS, executor=client.get_executor(), progress=report, **options)
    assert killed
    assert len(result.to_pandas()) == len(POINTS)
    for name in expected.values:
        np.testing.assert_array_equal(result.values[name], expected.values[name])
    assert result.errors.keys() == expected.errors.keys()
    assert len({worker for worker in result.values["worker"].tolist() if worker}) >= 2


# MPI

SCRIPT = """
import json, os
from mpi4py.futures import MPIPoolExecutor
from resnet_paths.sweep import grid, sweep

def function(point, context, seed):
    import torch
    return {"value": point["n"] * context, "noise": float(torch.rand(())), "worker": os.getpid()}

if __name__ == "__main__":
    points = grid(n=range(60))
    with MPIPoolExecutor() as executor:
        parallel = sweep(function, points, context=3, executor=executor, chunk=5, progress=False)
    serial = sweep(function, points, context=3, progress=False)
    same = all((parallel.values[name] == serial.values[name]).all() for name in ("value", "noise"))
    workers = len(set(parallel.values["worker"].tolist()))
    print(json.dumps({"same": bool(same), "workers": workers, "errors": len(parallel.errors)}))
"""


@pytest.mark.integration
def test_mpi(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    printed = run_by_mpi(script)
    assert json.loads(printed.splitlines()[-1]) == {"same": True, "workers": 2, "errors": 0}
