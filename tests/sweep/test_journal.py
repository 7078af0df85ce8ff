import multiprocessing
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from resnet_paths.sweep import JournalError, SweepProgress, database, sweep
from resnet_paths.sweep.journal import Journal, Outcome, State
from resnet_paths.sweep.owners import Owners
from resnet_paths.sweep.points import point_key
from resnet_paths.sweep.values import encode_values

KEYS = [point_key(i) for i in range(6)]


def opened(path: Path | None, fingerprint: str = "f") -> Journal:
    return Journal(path, fingerprint, {})


def outcome(key: bytes, value: float | None = 1.0) -> Outcome:
    content = None if value is None else encode_values({"value": value})
    return Outcome(key, "0", content, "ValueError: no" if value is None else None, ("note",), 0.5)


def in_child(work: object) -> int:
    """The exit status of a forked process that does the work; 0 unless it raises."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def test_points_are_claimed_once_and_finished_for_good(tmp_path: Path) -> None:
    path = tmp_path / "j"
    a, b = opened(path), opened(path)
    assert a.claim(KEYS, 2) == [State.MINE, State.MINE]
    assert b.claim(KEYS, 2) == [State.TAKEN, State.TAKEN, State.MINE, State.MINE]
    a.finish([outcome(KEYS[0], 0.0), outcome(KEYS[1], None)])
    assert b.claim(KEYS, 9) == [State.DONE, State.FAILED, State.TAKEN, State.TAKEN, State.MINE, State.MINE]
    assert b.read(KEYS[0]) == ({"value": 0.0}, None, 0.5, ("note",))
    assert b.read(KEYS[1]) == (None, "ValueError: no", 0.5, ("note",))
    assert b.read(KEYS[2]) is None
    a.finish([outcome(KEYS[0], 7.0)])
    assert b.read(KEYS[0]) == ({"value": 0.0}, None, 0.5, ("note",))
    assert b.forget_failures() == 1
    assert b.claim(KEYS[:2], 9) == [State.DONE, State.MINE]
    a.close()
    b.close()


def test_claims_end_with_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "j"
    a, b = opened(path), opened(path)
    a.claim(KEYS[:3], 9)
    a.close()
    assert b.claim(KEYS, 9) == [State.MINE] * 6
    b.close()


def test_claims_of_a_killed_process_are_free_and_those_of_a_live_one_are_not(tmp_path: Path) -> None:
    path = tmp_path / "j"
    opened(path).close()
    said, heard = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = opened(path)
        mine.claim(KEYS[:3], 9)
        os.write(said[1], b"x")
        os.read(heard[0], 1)  # until killed
        os._exit(0)
    os.read(said[0], 1)
    journal = opened(path)
    assert journal.claim(KEYS, 9)[:3] == [State.TAKEN] * 3
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert journal.claim(KEYS[:3], 9) == [State.MINE] * 3
    journal.close()


def test_sweeps_share_a_file_and_not_their_points(tmp_path: Path) -> None:
    a, b = opened(tmp_path / "j", "one"), opened(tmp_path / "j", "two")
    a.claim(KEYS, 9)
    a.finish([outcome(KEYS[0], 1.0)])
    assert b.claim(KEYS[:1], 9) == [State.MINE]
    b.finish([outcome(KEYS[0], 2.0)])
    assert (a.read(KEYS[0]) or ())[0] == {"value": 1.0}
    assert (b.read(KEYS[0]) or ())[0] == {"value": 2.0}
    a.close()
    b.close()


def test_a_deleted_lock_file_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    opened(path).close()
    for file in tmp_path.iterdir():
        file.unlink()
    journal = opened(path)
    journal.claim(KEYS, 9)

    def other() -> None:
        assert opened(path).claim(KEYS, 9) == [State.TAKEN] * 6

    assert in_child(other) == 0
    journal.close()


@pytest.mark.slow
def test_two_processes_that_create_a_journal_at_once_have_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"j{i}" for i in range(10)]
    together = multiprocessing.get_context("fork").Barrier(4)

    def create() -> None:
        for path in paths:
            together.wait(60)
            journal = opened(path)
            journal.claim([point_key(os.getpid())], 1)
            journal.finish([outcome(point_key(os.getpid()))])
            journal.close()

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                create()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    for path in paths:
        journal = opened(path)
        assert all(journal.read(point_key(pid)) for pid in children)
        journal.close()


def test_without_hard_links_the_journal_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    journal = opened(tmp_path / "j")
    assert journal.claim(KEYS, 9) == [State.MINE] * 6
    journal.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j", "j-owners"]


def test_without_shared_memory_the_rollback_journal_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    opened(path).close()
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    monkeypatch.setattr(database, "_on_network", lambda path: True)
    other = tmp_path / "k"
    journal = opened(other)
    journal.claim(KEYS, 9)
    journal.finish([outcome(key) for key in KEYS])
    assert sqlite3.connect(other).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    journal.close()
    assert opened(other).claim(KEYS, 9) == [State.DONE] * 6


def test_network_file_systems_are_known_by_the_deepest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw shared:1 - nfs4 server:/x rw\n"
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: table)
    assert database._on_network(tmp_path / "j")
    assert not database._on_network(tmp_path.parent / "j")


def test_owners_without_locks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(JournalError, match=r"No locks available.*local disk"):
        Owners(tmp_path / "x").hold(1)


# Damage: always an error that says so, never a changed file, never a wrong value.


def square(point: int, context: object, seed: int) -> int:
    return point**2


POINTS = range(175)  # as few as give every kind of page: tables and indexes, of one page and of several


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A journal of finished points, all in its one file."""
    path = tmp_path / "journal.db"
    sweep(square, POINTS, journal=path, progress=False)
    content = path.read_bytes()
    assert {content[start or 100] for start in range(0, len(content), 4096)} == {2, 5, 10, 13}  # SQLite's four kinds
    assert [f.name for f in tmp_path.iterdir() if f.name.endswith("-wal")] == []
    return path


def refused(path: Path, match: str = "left unchanged|damaged") -> None:
    before = path.read_bytes()
    with pytest.raises(JournalError, match=match):
        sweep(square, POINTS, journal=path, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_journal_is_refused_and_left_alone(full: Path, share: float) -> None:
    with full.open("r+b") as file:
        file.truncate(int(share * full.stat().st_size))
    refused(full)


@pytest.mark.parametrize("content", [b"", b"results,\n" * 500, b"SQLite format 3\0" + b"\1" * 5000])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    refused(path)


def test_other_databases_folders_and_formats_are_refused(tmp_path: Path, full: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE results(a)")
    connection.close()
    refused(other, "not a journal")
    connection = sqlite3.connect(full)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    refused(full, "format 1, got format 99")
    with pytest.raises(JournalError, match="folder"):
        sweep(square, range(3), journal=tmp_path, progress=False)


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_or_harmless(full: Path, tmp_path: Path) -> None:
    """200 places, free space among them: an error that leaves the file alone, or every value as it was."""
    rng = random.Random(0)
    content = full.read_bytes()
    noticed = 0
    for i in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"damaged{i}"
        path.write_bytes(damaged)
        states: list[SweepProgress] = []
        try:
            result = sweep(square, POINTS, journal=path, progress=states.append)
        except JournalError:
            noticed += 1
            assert path.read_bytes() == bytes(damaged)
        else:
            assert result.values["value"].tolist() == [n**2 for n in POINTS]
            assert states[-1].computed == 0
    assert 50 < noticed < 200


def test_a_damaged_file_with_a_write_ahead_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"

    def killed() -> None:
        journal = opened(path)
        journal.claim(KEYS, 9)
        journal.finish([outcome(key) for key in KEYS])
        os.kill(os.getpid(), 9)

    assert in_child(killed) == 9
    log = Path(f"{path}-wal")
    assert log.stat().st_size > 0
    copies = {file: file.read_bytes() for file in (path, log)}
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    damaged = path.read_bytes()
    with pytest.raises(JournalError, match="damaged"):
        opened(path)
    assert path.read_bytes() == damaged
    assert log.read_bytes() == copies[log]
    for file, content in copies.items():
        file.write_bytes(content)
    assert opened(path).claim(KEYS, 9) == [State.DONE] * 6


def test_a_truncated_write_ahead_log_loses_no_more_than_its_end(tmp_path: Path) -> None:
    path = tmp_path / "j"

    def killed() -> None:
        journal = opened(path)
        journal.claim(KEYS, 9)
        for key in KEYS:
            journal.finish([outcome(key)])
        os.kill(os.getpid(), 9)

    assert in_child(killed) == 9
    log = Path(f"{path}-wal")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 1)
    states = opened(path).claim(KEYS, 9)
    assert states == [State.DONE] * 5 + [State.MINE]


def test_a_copied_journal_is_a_journal(full: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(full, copy)
    result = sweep(square, POINTS, journal=copy, progress=False)
    assert result.values["value"][-1] == POINTS[-1] ** 2
    assert (tmp_path / "copy.db-owners").exists()


def test_names_that_cannot_be_a_journals_are_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "j")
    wrong = [tmp_path / "loop", tmp_path / "nowhere", "a\0b", tmp_path, "", tmp_path / "missing" / "j", b"j", 5]
    for name in wrong:
        with pytest.raises((JournalError, TypeError), match=r"expected|cannot create the journal") as caught:
            sweep(lambda point, context, seed: point, [1.0], version="1", journal=name, progress=False)
        assert len(str(caught.value).splitlines()) == 1
        assert type(caught.value) is (TypeError if isinstance(name, bytes | int) else JournalError)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["loop", "nowhere"]


def test_a_link_to_a_file_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "j")
    assert opened(tmp_path / "link").claim(KEYS, 9) == [State.MINE] * 6
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "j").is_file()


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_kill_while_a_journal_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the moment before the file, which is whole, gets its name."""
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("os.link", lambda *args, **kwargs: os.kill(os.getpid(), 9))
    assert in_child(lambda: opened(tmp_path / "j")) == 9
    assert sorted(tmp_path.iterdir()) == before
