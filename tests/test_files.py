"""Files appear whole or not at all, with the umask's permissions; errors name the file that is read."""

import errno
import os
import signal
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from resnet_paths import files, landscape, partials, path_lengths, plot
from resnet_paths.landscape import Direction, Surface
from resnet_paths.sweep import SweepResult, sweep
from resnet_paths.tradeoff import Clock, Count, DropPlan, Greedy, ImageSplit, NoRepair, PlanPoint, load_plan
from resnet_paths.tradeoff.plan import ImagesUsed


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def surface() -> Surface:
    import torch

    from resnet_paths.data import digits
    from resnet_paths.models import cifar_resnet

    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    direction = landscape.direction_from(model, {"linear.bias": torch.ones(10)})
    return landscape.loss_surface(
        model, digits("test").subset(slice(0, 4)), directions=direction, x=[0.0, 1.0], progress=False
    )


@pytest.fixture(scope="module")
def writers():
    import torch

    drawn = plot.plot_path_lengths(path_lengths(3))
    line = surface()
    swept = sweep(lambda point, context, seed: point, [1.0, 2.0], progress=False, version="1")
    point = PlanPoint(**{field.name: None for field in fields(PlanPoint)})
    images = {"certify": ImagesUsed("images", 4, "")}
    plan = DropPlan((point,), 0, Count(1), Greedy(), NoRepair(), ImageSplit(), Clock(), images, False, "", "")
    return {
        "plan.json": plan.save,
        "surface.npz": lambda path: line.save(path),
        "surface.vtk": lambda path: landscape.save_vtk(line, path),
        "direction.safetensors": lambda path: landscape.save_direction(Direction({"a": torch.ones(2)}), path),
        "picture.png": lambda path: plot.save(drawn, path),
        "sweep.npz": swept.save,
        "text.csv": lambda path: files.write_text(path, "a"),
    }


NAMES = (
    "plan.json", "surface.npz", "surface.vtk", "direction.safetensors", "picture.png", "sweep.npz", "text.csv",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_files_are_whole_or_not_at_all(name: str, writers, tmp_path: Path, umask, monkeypatch) -> None:
    path = tmp_path / "deeper" / name
    writers[name](path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    whole = path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [name]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resnet_paths.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        writers[name](path)
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == [name]


def killed_while_writing(path: Path) -> None:
    """A separate process is killed within `whole_file`."""
    process = os.fork()
    if not process:
        try:
            with files.whole_file(path) as partial:
                partial.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child only writes a file
@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
@pytest.mark.parametrize("name", ["plan.json", "no_ending", "n" * 250 + ".csv", "glob[*]?.png"])
def test_what_a_killed_writer_left_goes_with_the_next(name: str, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / name
    killed_while_writing(target)
    (left,) = tmp_path.iterdir()
    others = [tmp_path / f".other{partials.MARK}1234", tmp_path / "plan.json.part"]
    for other in others:
        other.write_text("of somebody else")
        os.utime(other, (0, 0))

    files.write_text(target, "new")
    assert left.exists()  # a minute has not gone by: it may have a writer who put a new file there
    monkeypatch.setattr(partials, "UNTOUCHED", -1.0)
    files.write_text(target, "whole")
    assert target.read_text() == "whole"
    assert set(tmp_path.iterdir()) == {target, *others}


def test_a_living_writers_file_stays(tmp_path: Path) -> None:
    """However long it takes, and also one that another thread of the same process writes."""
    target = tmp_path / "a.csv"
    with files.whole_file(target) as slow:
        slow.write_text("slow")
        os.utime(slow, (0, 0))
        with files.whole_file(target) as quick:
            assert slow.exists()
            quick.write_text("quick")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda text: files.write_text(target, text), "abcdefgh" * 4))
        assert target.read_text() in "abcdefgh"
    assert target.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    files.write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_folders_and_empty_names_are_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, "", "  "):
        with pytest.raises(ValueError, match="file"):
            files.write_text(wrong, "a")


READERS = {
    "a surface": landscape.Surface.load,
    "a direction": landscape.load_direction,
    "a plan": load_plan,
    "a result of a sweep": SweepResult.load,
}


@pytest.mark.parametrize("what", READERS)
def test_wrong_files_are_named(what: str, tmp_path: Path) -> None:
    missing, folder, text, empty = (tmp_path / name for name in ("missing.npz", "folder", "text.npz", "empty.npz"))
    folder.mkdir()
    text.write_text("not this")
    empty.write_bytes(b"")
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    for wrong in (missing, folder, text, empty, tmp_path / "other.npz"):
        with pytest.raises((ValueError, FileNotFoundError), match=wrong.name) as caught:
            READERS[what](wrong)
        assert len(str(caught.value).splitlines()) == 1
        assert "expected" in str(caught.value)
