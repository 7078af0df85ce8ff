"""Images of folders and zip files with one folder per class.

torchvision's ``ImageFolder`` reads the same files with the same labels, which a test compares. It is not used because
the differences are most of the work:

- it knows neither zip files nor folders for the parts around the classes, and it numbers each part separately, so that
  a class missing from ``val`` shifts all labels after it;
- it opens whatever Pillow opens, including formats that start other programs, and pictures of any size; from a zip, a
  file of a few kilobytes may inflate to gigabytes;
- it converts 16-bit pictures to plain white, and stops at the first damaged file with Pillow's message, which does not
  name the file.

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
from .images import ImageData, check_told_apart
from .layout import SUFFIXES, Layout, held_out, layout_of, part_of_name

MOST_BYTES = 64 << 30
"""Limit of all decoded images together: beyond the memory of most machines, reached by forgetting `limit`."""
_MOST_MEMBER, _MOST_RATIO = (
    512 << 20,
    100,
)  # largest file in a zip, in bytes; largest inflation ratio of files above 64 MiB: pictures barely compress


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
    """Images of a folder with one folder per class: ``<class>/<name>.jpg``, like torchvision's ``ImageFolder``.

    It reads every file that ``ImageFolder`` reads, including those in folders inside a class folder. The class folders
    may be grouped into ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; all parts number their classes
    as ``train`` does. Without such folders there is one part. If you then request a split, a fifth of each class, drawn
    with `seed`, becomes the test part and the rest the training part, and a warning says so.

    Args:
        path: the folder.
        split: ``train``, ``val`` or ``test``; ``val`` serves as ``test`` if there is no other. None: the test images,
            or all images if there are no parts.
        size: resize the shorter side to this and crop the centre; None: all images must have one size.
        limit: maximum number of images, spread evenly over all; classes and their numbers stay those of the folder.
        classes: class names in the order of their numbers, such as those of a checkpoint.
        white: value of a white pixel in images of more than 8 bits (default 65,535, or 1 for floats).
        seed: seed of a split drawn at random.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are no images, images are unreadable or differ in size without `size`, or a class is missing
            from the training images (or from `classes`).

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
    root, layout = folder_layout(existing(path), split)
    tree = _Tree(layout, str(path) if root == Path(path) else str(root), lambda name: _opened(root / name))
    return tree.images(split, size, limit, classes, white, seed)


def folder_layout(path: Path, split: Split | None = None) -> tuple[Path, Layout]:
    """The folder that contains the parts, and its layout; for the path of one part, this is the parent folder.

    ``photos/val`` has the class numbers of ``photos/train``, and its training images are those of ``photos/train``.
    """
    own_layout = layout_of(_names(path))
    resolved = path if path.name and path.name != ".." else path.resolve()
    part, parent = part_of_name(resolved.name), resolved.parent
    if part is None or own_layout.is_parted or not own_layout.parts[""]:
        return path, own_layout
    siblings = [entry for entry in parent.iterdir() if entry.is_dir() and part_of_name(entry.name)]
    if len(siblings) < 2:
        return path, own_layout
    parent_layout = layout_of(f"{entry.name}/{name}" for entry in siblings for name in _names(entry))
    if not parent_layout.is_parted or part not in parent_layout.parts:
        return path, own_layout
    if split is None:  # the given part itself, numbered like its siblings
        parts = {name: images for name, images in parent_layout.parts.items() if name in ("train", part)}
        parent_layout.parts = {**parts, "test": parent_layout.parts[part]}
        parent_layout.folders["test"] = parent_layout.folders[part]
    return parent, parent_layout


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
    """Images of a zip file laid out like a :func:`folder`; a single folder around everything is ignored.

    Args:
        path: the zip file.
        split: see :func:`folder`.
        size: see :func:`folder`.
        limit: see :func:`folder`.
        classes: see :func:`folder`.
        white: see :func:`folder`.
        seed: see :func:`folder`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a zip file, a member inflates beyond reason, or see :func:`folder`.

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
    """The layout of an open zip file."""
    return layout_of((name for name in file.namelist() if not name.endswith("/")), packed=True)


def zip_file(source: Path) -> zipfile.ZipFile:
    """Open a zip file.

    Raises:
        ValueError: it is not a zip file.
    """
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"expected a zip file, got {source.name}, which cannot be read: {error}") from error


class SeveralSizes(ValueError):
    """Images differ in size, and no size was given to resize them to."""


@dataclass(frozen=True)
class _Tree:
    """The images of a layout, and how to open each of them."""

    layout: Layout
    name: str
    opened: Callable[[str], AbstractContextManager[IO[bytes]]]

    def images(
        self,
        split: Split | None,
        size: int | None,
        limit: int | None,
        given_classes: Sequence[str] | None,
        white: float | None,
        seed: int,
    ) -> ImageData:
        """The images of a split, decoded."""
        part = self.layout.part(split)
        entries = [] if part is None else self.layout.parts[part]
        if not entries or part is None:
            raise ValueError(self._no_images_message(split))
        self._warn_of_skipped_files()
        classes = tuple(given_classes) if given_classes is not None else self.layout.classes
        self._check_classes(entries, classes, given_classes is not None)
        name = f"{self.name} ({self.layout.folders[part]})" if part else self.name
        if not part and split is not None:
            indices, name = drawn_part([label for label, _ in entries], split, self.name, seed)
            entries = [entries[index] for index in indices]
        if limit is not None and limit < len(entries):
            entries = [entries[index] for index in spread(len(entries), limit)]
        images = self._decoded([file for _, file in entries], size, white, name)
        number = {label: classes.index(label) for label in {label for label, _ in entries}}
        labels = torch.tensor([number[label] for label, _ in entries], device="cpu")
        return ImageData(images, labels, classes, *normalisation(3, name), name)

    def _no_images_message(self, split: Split | None) -> str:
        if self.layout.is_parted:
            present = " and ".join(sorted(self.layout.folders.values()))
            return f"expected {split or 'test'} images in {self.name}, got only {present}; pass split='train'"
        other_files = sum(map(len, self.layout.left_out.values()))
        return (
            f"expected images as <class>/<name>.jpg (or {', '.join(SUFFIXES[1:])}) in {self.name}, got none"
            + (f" but {other_files} other files" if other_files else "")
            + "; pass the folder that contains the class folders, or the one with train and test around them"
        )

    def _warn_of_skipped_files(self) -> None:
        for reason, names in self.layout.left_out.items():
            warn(f"{len(names)} images of {self.name} {reason} are left out, such as {names[0]}")
        labels = {label for part in self.layout.parts.values() for label, _ in part}
        inner = {file.split("/")[-2] for part in self.layout.parts.values() for _, file in part}
        if len(labels) == 1 and len(inner) > 1 and not inner & labels:
            warn(
                f"all images of {self.name} are of one class, {labels.pop()!r}, in {len(inner)} folders inside it, "
                f"such as {min(inner)!r}: if these are the classes, pass the folder that contains them",
            )

    def _check_classes(self, entries: list[tuple[str, str]], classes: tuple[str, ...], given: bool) -> None:
        check_told_apart((label for label, _ in entries), classes, self.name)
        unknown = sorted({label for label, _ in entries} - set(classes))
        if unknown:
            whose = "the given classes" if given else f"the classes of {self.layout.folders.get('train', 'train')}"
            raise ValueError(
                f"expected in {self.name} {whose} ({few(classes)}), got also {few(unknown)}; remove these folders, "
                "rename them, or pass classes="
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
    """The indices of a part drawn at random, and its name; a warning says that it was drawn.

    Raises:
        ValueError: no class has two images.
    """
    is_test = held_out(labels, seed)
    indices = [index for index, is_test_image in enumerate(is_test) if is_test_image == (split != "train")]
    if not indices:
        raise ValueError(f"expected at least two images of a class in {name} to split, got one of each")
    part, count = "training" if split == "train" else "test", sum(is_test)
    warn(
        f"{name} has no folders or arrays of its own for training and test images: {count} of its {len(is_test)} "
        f"images, a fifth of each class drawn with seed {seed}, are the test part and {len(is_test) - count} the "
        f"training part; these are the {part} part"
    )
    return indices, f"{name} ({part} part, seed {seed})"


def spread(length: int, count: int) -> list[int]:
    """This many indices, evenly spaced from the first to the last."""
    return [int(position) for position in np.linspace(0, length - 1, count).round()]


def check_inflated(info: zipfile.ZipInfo, most: int, ratio: int, free: int) -> None:
    """Refuse an oversized member before it is inflated.

    Raises:
        Damaged: it would exceed `most` bytes, or both `free` bytes and `ratio` times its packed size.
    """
    if info.file_size > most or (info.file_size > free and info.file_size > ratio * max(1, info.compress_size)):
        raise Damaged(f"it inflates from {info.compress_size:,} to {info.file_size:,} bytes")


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """The images in one array, of floats if any has more than 256 levels."""
    if any(array.dtype != np.uint8 for array in arrays):
        arrays = [array.astype(np.float32) / 255 if array.dtype == np.uint8 else array for array in arrays]
    return np.stack(arrays)


def _names(root: Path) -> Iterator[str]:
    """All files below a folder, following links but visiting each folder once."""
    visited = set()
    for directory, folders, files in os.walk(root, followlinks=True):
        real_path = os.path.realpath(directory)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        folders.sort()
        relative = Path(directory).relative_to(root)
        yield from ((relative / file).as_posix() for file in files)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise Damaged("it is a broken link" if path.is_symlink() else "it is not a file")
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
