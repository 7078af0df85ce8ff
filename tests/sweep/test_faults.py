"""Kills, full disks, read-only folders, shared journals, clocks that go backwards: nothing lost, nothing twice."""

import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_paths.sweep import JournalError, SweepInterrupted, SweepProgress, SweepResult, devices, run, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
FORK = multiprocessing.get_context("fork")


def logged(point: dict, context: dict, seed: int) -> dict[str, Any]:
    """Values of every kind, a line in a log for each computation, and a failure now and then."""
    n = point["n"]
    descriptor = os.open(context["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"%d\n" % n)
    os.close(descriptor)
    time.sleep(context["pause"])
    if n % 97 == 5:
        raise ValueError(f"no value at {n}")
    special = {0: 0.0, 1: math.nan, 2: math.inf}
    return {"x": special.get(n % 10, n / 7), "row": np.random.default_rng(seed).normal(size=3), "n": n}


def points(n: int) -> list[dict[str, int]]:
    return [{"n": i} for i in range(n)]


def computed(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def finished(journal: Path) -> set[int]:
    connection = sqlite3.connect(journal)
    try:
        return {json.loads(row[0])["n"] for row in connection.execute("SELECT point FROM results")}
    finally:
        connection.close()


def same(a: SweepResult, b: SweepResult) -> None:
    """Equal bit by bit, but for the time it took."""
    assert a.points == b.points
    assert a.values.keys() == b.values.keys()
    for name in a.values:
        np.testing.assert_array_equal(a.values[name], b.values[name])
    assert (a.finished == b.finished).all()
    assert a.errors.keys() == b.errors.keys()


def in_child(work: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
    child = FORK.Process(target=work)
    child.start()
    return child


def wait_for(condition: Callable[[], bool], child: multiprocessing.process.BaseProcess) -> None:
    while not condition():
        assert child.is_alive(), "the child ended too early"
        time.sleep(0.01)


def undisturbed(tmp_path: Path, n: int) -> SweepResult:
    return sweep(logged, points(n), context={"log": str(tmp_path / "other.log"), "pause": 0}, progress=False)


# The context holds where to log and how long to wait, which decide no values: the key is said to be the same.
class Context(dict):
    def __sweep_fingerprint__(self) -> str:
        return "logged"


def killed_at_random(
    tmp_path: Path, n: int, kills: int, longest: float, executor: Callable[[], ProcessPoolExecutor | None]
) -> None:
    journal, log = tmp_path / "journal.db", tmp_path / "log"
    context = Context(log=str(log), pause=0.002)
    rng = random.Random(1)
    before: set[int] = set()
    position = 0
    for kill in range(kills):
        reported = FORK.Value("i", 0)

        def child(reported: Any = reported) -> None:
            run.FLUSH_SECONDS = 0.01  # more commits for kills to meet

            def report(state: SweepProgress) -> None:
                reported.value = state.finished + state.failed

            sweep(logged, points(n), context=context, journal=journal, progress=report, executor=executor())

        process = in_child(child)
        time.sleep(rng.uniform(0, longest))
        while kill + 1 == kills and not before and not (journal.exists() and finished(journal)):
            time.sleep(0.02)  # on a busy machine no kill but this one may have left a pool the time to begin
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the sweep was over before the last kill"
        now = finished(journal) if journal.exists() else set()
        assert now >= before, "a finished point was lost"
        assert len(now) >= reported.value, "a point was reported as finished and lost"
        again = computed(log)[position:]
        assert not before & set(again), "a finished point was computed again"
        position += len(again)
        before = now
    assert 0 < len(before) < n

    context["pause"] = 0
    result = sweep(logged, points(n), context=context, journal=journal, progress=False)
    assert not before & set(computed(log)[position:])
    same(result, undisturbed(tmp_path, n))
    assert len(finished(journal)) == n
    connection = sqlite3.connect(journal)
    assert connection.execute("SELECT count(*), count(DISTINCT key) FROM results").fetchone() == (n, n)
    connection.close()


@pytest.mark.timeout(120)
def test_fifty_kills_over_one_sweep_lose_nothing_and_compute_nothing_twice(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 2000, 50, 0.1, lambda: None)


def test_kills_of_the_parent_of_a_pool(tmp_path: Path) -> None:
    """The workers end with their parent, and what they had computed and not handed over is computed again."""

    def pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(2, FORK, devices._watch_parent)

    killed_at_random(tmp_path, 2000, 8, 0.4, pool)


def test_two_processes_share_a_journal_and_its_points(tmp_path: Path) -> None:
    journal, log, n = tmp_path / "j", tmp_path / "log", 600
    context = Context(log=str(log), pause=0.002)

    def work() -> None:
        result = sweep(logged, points(n), context=context, journal=journal, progress=False)
        result.save(tmp_path / f"{os.getpid()}.npz")

    children = [in_child(work), in_child(work)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(computed(log)) == list(range(n)), "every point exactly once between the two"
    expected = undisturbed(tmp_path, n)
    for child in children:
        same(SweepResult.load(tmp_path / f"{child.pid}.npz"), expected)


def test_the_points_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    journal, log, n = tmp_path / "j", tmp_path / "log", 600
    context = Context(log=str(log), pause=0.002)

    def work() -> None:
        sweep(logged, points(n), context=context, journal=journal, progress=False)

    first, second = in_child(work), in_child(work)
    wait_for(lambda: len(computed(log)) >= n // 3, second)
    os.kill(first.pid or 0, signal.SIGKILL)
    second.join()
    assert second.exitcode == 0
    assert finished(journal) == set(range(n))
    same(sweep(logged, points(n), context=context, journal=journal, progress=False), undisturbed(tmp_path, n))


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_clock_that_goes_backwards_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    journal, log, n = tmp_path / "j", tmp_path / "log", 200
    context = Context(log=str(log), pause=0)
    if when == "between":
        sweep(logged, points(n // 2), context=context, journal=journal, progress=False)
    clock = iter(range(10**9, 0, -1000))
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: next(clock))
    result = sweep(logged, points(n), context=context, journal=journal, progress=False)
    assert sorted(computed(log)) == list(range(n))
    monkeypatch.undo()
    same(result, undisturbed(tmp_path, n))
    assert (result.seconds >= 0).all()


def test_no_time_of_day_in_the_sweep() -> None:
    for file in Path(run.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert "time.time" not in text, file
        assert "datetime" not in text, file


# Disks


def big(point: int, context: object, seed: int) -> np.ndarray:
    return np.full(2000, float(point))


def goes_on_after_space_is_made(journal: Path) -> None:
    """After the disk was full: what was finished is there, the rest is computed, everything is right."""
    kept = len(connection_rows(journal))
    assert 0 < kept < 400
    states: list[SweepProgress] = []
    result = sweep(big, range(400), journal=journal, progress=states.append)
    assert states[-1].computed == 400 - kept
    assert (result.values["value"] == np.arange(400.0)[:, None]).all()


def connection_rows(journal: Path) -> list[Any]:
    connection = sqlite3.connect(journal)
    rows = connection.execute("SELECT key FROM results").fetchall()
    connection.close()
    return rows


def fills_up(journal: Path, reported: Any) -> None:
    run.FLUSH_BYTES = 1 << 18

    def report(state: SweepProgress) -> None:
        reported.value = state.finished

    with pytest.raises(JournalError, match=r"(?s)reported as finished is kept.* points were computed and could not"):
        sweep(big, range(400), journal=journal, progress=report)


def test_a_limit_on_the_size_of_files_loses_nothing_reported(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    reported = FORK.Value("i", 0)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        fills_up(journal, reported)

    child = in_child(work)
    child.join()
    assert child.exitcode == 0
    assert len(connection_rows(journal)) >= reported.value > 0
    goes_on_after_space_is_made(journal)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this system does not let its root mount file systems")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_reported(small_disk: Path) -> None:
    journal = small_disk / "j"
    reported = FORK.Value("i", 0)
    fills_up(journal, reported)
    assert len(connection_rows(journal)) >= reported.value > 0
    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    goes_on_after_space_is_made(journal)


def as_nobody(work: Callable[[], None]) -> None:
    """Does the work in a child without root's rights, to which permissions apply."""

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()

    process = in_child(child)
    process.join()
    assert process.exitcode == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_reported_before_anything_is_computed(open_folder: Path) -> None:
    folder = open_folder / "in"
    folder.mkdir()
    folder.chmod(0o555)
    log = open_folder / "log"

    def work() -> None:
        with pytest.raises(JournalError, match=r"cannot create.*writable"):
            sweep(logged, points(3), context={"log": str(log), "pause": 0}, journal=folder / "j", progress=False)

    as_nobody(work)
    assert computed(log) == []


def test_a_journal_that_became_read_only_is_told_and_kept(open_folder: Path) -> None:
    folder = open_folder / "in"
    folder.mkdir()
    journal = folder / "j"
    context = Context(log=str(open_folder / "log"), pause=0)
    sweep(logged, points(20), context=context, journal=journal, progress=False)
    content = journal.read_bytes()
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)

    def work() -> None:
        with pytest.raises(JournalError, match="writable"):
            sweep(logged, points(40), context=context, journal=journal, progress=False)

    as_nobody(work)
    assert journal.read_bytes() == content
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    same(sweep(logged, points(40), context=context, journal=journal, progress=False), undisturbed(open_folder, 40))


def test_a_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="folder must exist"):
        sweep(big, range(2), journal=tmp_path / "nowhere" / "j", progress=False)


# Ctrl-C


@pytest.mark.parametrize("pooled", [False, True])
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, pooled: bool) -> None:
    journal, log, n = tmp_path / "j", tmp_path / "log", 300
    context = Context(log=str(log), pause=0.005)

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pool = ProcessPoolExecutor(2, FORK, signal.signal, (signal.SIGINT, signal.SIG_IGN)) if pooled else None
        with pool or nullcontext() as executor:
            with pytest.raises(SweepInterrupted, match=rf"of {n} points .* run the same call again") as caught:
                sweep(logged, points(n), context=context, journal=journal, progress=False, executor=executor)
        assert str(journal) in str(caught.value)
        assert isinstance(caught.value, KeyboardInterrupt)
        said = int(str(caught.value).split()[2])
        assert said == len(finished(journal)) > 0
        connection = sqlite3.connect(journal)
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
        connection.close()

    child = in_child(work)
    wait_for(lambda: len(computed(log)) >= 60, child)
    os.kill(child.pid or 0, signal.SIGINT)
    child.join()
    assert child.exitcode == 0
    same(sweep(logged, points(n), context=context, journal=journal, progress=False), undisturbed(tmp_path, n))


def test_ctrl_c_without_a_journal_says_what_is_lost() -> None:
    def stopped(point: int, context: object, seed: int) -> int:
        if point == 3:
            raise KeyboardInterrupt
        return point

    with pytest.raises(SweepInterrupted, match=r"stopped with 3 of 5 .*journal='FILE'"):
        sweep(stopped, range(5), progress=False)
