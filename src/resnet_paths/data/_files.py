"""Images of folders and zip files, one folder for each class.

torchvision's ``ImageFolder`` reads the same files with the same labels, which a test compares; it is not used, because
what differs is most of the work. It knows no zip files and no folders for parts around the classes, and it numbers each
part on its own, so that a class missing from ``val`` shifts all labels after it. It opens whatever Pillow opens, among
that formats that start other programs, and pictures of any size; from a zip, a file of a few kilobytes may inflate to
gigabytes. It turns 16-bit pictures into white ones. And it stops at the first damaged file with Pillow's message, which
names no file.

Images are decoded at once into one array: analyses pass over the same few hundred or thousand images again and again.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ..arguments import checked, few
from ..choices import Split
from ..warned import warn
from ._normalisation import existing, normalisation
from ._pictures import Damaged, pixels
from .images import ImageData
from .layout import SUFFIXES, Layout, held_out, layout_of, part_of_name

MOST_BYTES = 64 << 30
"""Of all images together, decoded."""
_MOST_MEMBER, _MOST_RATIO = 512 << 20, 100  # bytes of a file in a zip; inflated to packed, from 64 MiB on


@checked
def folder(
    path: str | Path,
    split: Split | None = None,
    *,
    size: int | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    white: float | None = None,
    seed: int = 0,
) -> ImageData:
    """Images of a folder with one folder for each class: ``<class>/<name>.jpg``, as torchvision's ``ImageFolder``.

    All files are read that ``ImageFolder`` reads, in folders within a class's folder too. There may be folders for
    training and other images around the classes: ``train``, ``val`` (or ``valid``, ``validation``) and ``test``.
    Classes are numbered as in ``train`` in all of them. Without such folders all images are of one part; asked for a
    split, a fifth of each class, drawn by `seed`, is the test part and the rest the training part, and a warning says
    so.

    Args:
        path: the folder.
        split: ``train``, ``val`` or ``test``; ``val`` serves as test images where there are no others. None: test
            images, or all where there are no parts.
        size: resize the shorter side to this and crop the middle; None: all images must be of one size.
        limit: at most this many, spread evenly over all; the classes and their numbers stay those of the folder.
        classes: the names in the order of their numbers, such as those of a checkpoint.
        white: the value of a white pixel, of images of more than 8 bits (default: 65,535, of floats 1).
        seed: of a split that is drawn.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, images that cannot be read, or of several sizes without `size`; a class that the training
            images (or `classes`) do not have.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         (Path(root) / name).mkdir()
        ...         Image.new("RGB", (4, 4)).save(Path(root) / name / "1.png")
        ...     folder(root).classes
        ('cat', 'dog')
    """
    root, found = folder_layout(existing(path), split)
    tree = _Tree(found, str(path) if root == Path(path) else str(root), lambda name: _opened(root / name))
    return tree.images(split, size, limit, classes, white, seed)


def folder_layout(path: Path, split: Split | None = None) -> tuple[Path, Layout]:
    """The folder that holds the parts, and its layout: the one around where another part is asked for.

    ``photos/val`` is numbered as ``photos/train`` is, and its training images are those of ``photos/train``.
    """
    own = layout_of(_names(path))
    here = path if path.name and path.name != ".." else path.resolve()
    part, around = part_of_name(here.name), here.parent
    if part is None or own.is_parted or not own.parts[""]:
        return path, own
    siblings = [entry for entry in around.iterdir() if entry.is_dir() and part_of_name(entry.name)]
    if len(siblings) < 2:
        return path, own
    whole = layout_of(f"{entry.name}/{name}" for entry in siblings for name in _names(entry))
    if not whole.is_parted or part not in whole.parts:
        return path, own
    if split is None:  # this part itself, numbered with the others
        kept = {name: images for name, images in whole.parts.items() if name in ("train", part)}
        whole.parts = {**kept, "test": whole.parts[part]}
        whole.folders["test"] = whole.folders[part]
    return around, whole


@checked
def zipped(
    path: str | Path,
    split: Split | None = None,
    *,
    size: int | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    white: float | None = None,
    seed: int = 0,
) -> ImageData:
    """Images of a zip file laid out as a :func:`folder`; a folder around everything does not count.

    Args:
        path: the file.
        split: see :func:`folder`; so are the others.
        size: likewise.
        limit: likewise.
        classes: likewise.
        white: likewise.
        seed: likewise.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no zip file, a member that inflates beyond reason, or as :func:`folder`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> picture = io.BytesIO()
        >>> Image.new("RGB", (4, 4)).save(picture, "png")
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with zipfile.ZipFile(Path(root) / "one.zip", "w") as file:
        ...         file.writestr("test/cat/1.png", picture.getvalue())
        ...     zipped(Path(root) / "one.zip").images.shape
        torch.Size([1, 3, 4, 4])
    """
    source = existing(path)
    with zip_file(source) as file:
        tree = _Tree(zip_layout(file), source.name, lambda name: _member(file, name))
        return tree.images(split, size, limit, classes, white, seed)


def zip_layout(file: zipfile.ZipFile) -> Layout:
    """How an open zip file is laid out."""
    return layout_of((name for name in file.namelist() if not name.endswith("/")), packed=True)


def zip_file(source: Path) -> zipfile.ZipFile:
    """The file, open.

    Raises:
        ValueError: it is no zip file.
    """
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"expected a zip file, got {source.name}, which cannot be read: {error}") from error


class SeveralSizes(ValueError):
    """Images that differ in size, and no size to make them."""


@dataclass(frozen=True)
class _Tree:
    """Images of a layout, and how each is opened."""

    layout: Layout
    name: str
    opened: Callable[[str], AbstractContextManager[IO[bytes]]]

    def images(
        self,
        split: Split | None,
        size: int | None,
        limit: int | None,
        given: Sequence[str] | None,
        white: float | None,
        seed: int,
    ) -> ImageData:
        """Those of a split, decoded."""
        part = self.layout.part(split)
        entries = [] if part is None else self.layout.parts[part]
        if not entries or part is None:
            raise ValueError(self._none(split))
        self._say_what_is_left_out()
        classes = tuple(given) if given is not None else self.layout.classes
        self._check_classes(entries, classes, given is not None)
        name = f"{self.name} ({self.layout.folders[part]})" if part else self.name
        if not part and split is not None:
            places, name = drawn_part([label for label, _ in entries], split, self.name, seed)
            entries = [entries[place] for place in places]
        if limit is not None and limit < len(entries):
            entries = [entries[place] for place in spread(len(entries), limit)]
        images = self._decoded([file for _, file in entries], size, white, name)
        number = {label: classes.index(label) for label in {label for label, _ in entries}}
        labels = torch.tensor([number[label] for label, _ in entries], device="cpu")
        return ImageData(images, labels, classes, *normalisation(3, name), name)

    def _none(self, split: Split | None) -> str:
        if self.layout.is_parted:
            have = " and ".join(sorted(self.layout.folders.values()))
            return f"expected {split or 'test'} images in {self.name}, got none beside {have}; pass split='train'"
        others = sum(map(len, self.layout.left_out.values()))
        return (
            f"expected images as <class>/<name>.jpg (or {', '.join(SUFFIXES[1:])}) in {self.name}, got none"
            + (f" but {others} other files" if others else "")
            + "; give the folder that holds the classes' folders, or train and test around these"
        )

    def _say_what_is_left_out(self) -> None:
        for reason, names in self.layout.left_out.items():
            warn(f"{len(names)} images of {self.name} {reason} are left out, such as {names[0]}")
        labels = {label for part in self.layout.parts.values() for label, _ in part}
        inner = {file.split("/")[-2] for part in self.layout.parts.values() for _, file in part}
        if len(labels) == 1 and len(inner) > 1 and not inner & labels:
            warn(
                f"all images of {self.name} are of one class, {labels.pop()!r}, in {len(inner)} folders inside it, "
                f"such as {min(inner)!r}: if these are the classes, give the folder that holds them",
            )

    def _check_classes(self, entries: list[tuple[str, str]], classes: tuple[str, ...], given: bool) -> None:
        unknown = sorted({label for label, _ in entries} - set(classes))
        if unknown:
            whose = "the given classes" if given else f"the classes of {self.layout.folders.get('train', 'train')}"
            raise ValueError(
                f"expected in {self.name} {whose} ({few(classes)}), got also {few(unknown)}; take these folders out, "
                "rename them, or give classes="
            )

    def _decoded(self, files: list[str], size: int | None, white: float | None, name: str) -> torch.Tensor:
        arrays: list[np.ndarray] = []
        brightest = 0.0
        for file in files:
            try:
                with self.opened(file) as stream:
                    arrays.append(pixels(stream, size, white))
            except Damaged as error:
                raise ValueError(
                    f"expected an image in {self.name}, got {file}, which cannot be read: {error}; remove it"
                ) from error
            if arrays[-1].shape != arrays[0].shape:
                raise SeveralSizes(
                    f"expected images of one size in {name}, got {arrays[0].shape[:2]} and {arrays[-1].shape[:2]} "
                    f"({file}); pass size="
                )
            if len(arrays) == 1 and arrays[0].nbytes * len(files) > MOST_BYTES:
                raise ValueError(
                    f"expected images that fit in memory, got {len(files)} of {arrays[0].nbytes:,} bytes in {name}; "
                    "pass limit= or size="
                )
            if arrays[-1].dtype != np.uint8:
                brightest = max(brightest, float(arrays[-1].max()))
        if white is None and 0 < brightest < 4095.5 / 65535:
            warn(
                f"the brightest pixel of {name} is {brightest * 65535:.0f} of 65535: if white is less, as in images of "
                "12 bits, pass white=4095",
            )
        return torch.from_numpy(_stacked(arrays)).permute(0, 3, 1, 2).contiguous()


def drawn_part(labels: Sequence[str] | Sequence[int], split: Split, name: str, seed: int) -> tuple[list[int], str]:
    """The places of the images of a part that is drawn, and what it is called; a warning says so.

    Raises:
        ValueError: no class has two images.
    """
    apart = held_out(labels, seed)
    places = [place for place, out in enumerate(apart) if out == (split != "train")]
    if not places:
        raise ValueError(f"expected at least two images of a class in {name} to split, got one of each")
    part, count = "training" if split == "train" else "test", sum(apart)
    warn(
        f"{name} has no folders or arrays of its own for training and test images: {count} of its {len(apart)} images, "
        f"a fifth of each class drawn with seed {seed}, are the test part and {len(apart) - count} the training part; "
        f"these are the {part} part"
    )
    return places, f"{name} ({part} part, seed {seed})"


def spread(length: int, count: int) -> list[int]:
    """So many places, evenly from the first to the last."""
    return [int(place) for place in np.linspace(0, length - 1, count).round()]


def check_inflated(info: zipfile.ZipInfo, most: int, ratio: int, free: int) -> None:
    """Refuse a member before it is inflated.

    Raises:
        Damaged: it would be larger than `most`, or than `free` and `ratio` times what is packed.
    """
    if info.file_size > most or (info.file_size > free and info.file_size > ratio * max(1, info.compress_size)):
        raise Damaged(f"it inflates from {info.compress_size:,} to {info.file_size:,} bytes")


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """In one array; of floats where one has more than 256 levels."""
    if any(array.dtype != np.uint8 for array in arrays):
        arrays = [array.astype(np.float32) / 255 if array.dtype == np.uint8 else array for array in arrays]
    return np.stack(arrays)


def _names(root: Path) -> Iterator[str]:
    """All files below a folder, through links too, each folder once."""
    seen = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        base = Path(place).relative_to(root)
        yield from ((base / file).as_posix() for file in files)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise Damaged("it is a link to nothing" if path.is_symlink() else "it is no file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise Damaged(f"{error.strerror}") from error
    with file:
        yield file


@contextmanager
def _member(file: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    check_inflated(file.getinfo(name), _MOST_MEMBER, _MOST_RATIO, 64 << 20)
    try:
        content = file.read(name)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise Damaged(str(error)) from error
    yield io.BytesIO(content)
