"""Images of folders and zip files, one folder for each class."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from ._normalisation import Split, existing, normalisation
from .images import ImageData

Entry = tuple[str, str, Callable[[], bytes]]  # class, name, its bytes

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def folder(path: str | Path, size: int | None = None, limit: int | None = None) -> ImageData:
    """Images of a folder with one folder for each class: ``<class>/<name>.jpg``.

    Args:
        path: the folder.
        size: resize the shorter side to this and crop the middle; None: all images must be of one size.
        limit: at most so many, spread evenly over all; the classes and their numbers stay those of the folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, images that cannot be read, or of several sizes without `size`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         (Path(root) / name).mkdir()
        ...         Image.new("RGB", (4, 4)).save(Path(root) / name / "1.png")
        ...     folder(root).classes
        ('cat', 'dog')
    """
    root = existing(path)
    found = sorted(entry for entry in root.glob("*/*") if _is_image(entry.relative_to(root).as_posix()))
    entries = [(entry.parent.name, str(entry.relative_to(root)), entry.read_bytes) for entry in found]
    return _decoded(entries, str(path), size, limit)


def zipped(path: str | Path, split: Split = "test", size: int | None = None, limit: int | None = None) -> ImageData:
    """Images of a zip file with ``<split>/<class>/<name>.jpg`` (or ``<class>/<name>.jpg``).

    Args:
        path: the file.
        split: which folder; a file without folders ``train`` and ``test`` is the same for both.
        size: see :func:`folder`.
        limit: see :func:`folder`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no zip file, or as :func:`folder`.

    Example:
        >>> import tempfile
        >>> picture = io.BytesIO()
        >>> Image.new("RGB", (4, 4)).save(picture, "png")
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with zipfile.ZipFile(Path(root) / "one.zip", "w") as file:
        ...         file.writestr("test/cat/1.png", picture.getvalue())
        ...     zipped(Path(root) / "one.zip").images.shape
        torch.Size([1, 3, 4, 4])
    """
    source = existing(path)
    try:
        file = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ValueError(f"expected a zip file, got {source.name}, which cannot be read: {error}") from error
    with file:
        names = [name for name in sorted(file.namelist()) if _is_image(name)]
        parted = any(PurePosixPath(name).parts[0] in ("train", "test") for name in names)
        chosen = [name for name in names if PurePosixPath(name).parts[0] == split] if parted else names
        entries = [_member(file, name) for name in chosen if len(PurePosixPath(name).parts) == 2 + parted]
        return _decoded(entries, f"{source.name} ({split})", size, limit)


def _member(file: zipfile.ZipFile, name: str) -> Entry:
    return PurePosixPath(name).parts[-2], name, lambda: file.read(name)


def _is_image(name: str) -> bool:
    """By its suffix; neither hidden nor in the folder that macOS adds to zip files."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _decoded(entries: list[Entry], name: str, size: int | None, limit: int | None) -> ImageData:
    if not entries:
        raise ValueError(
            f"expected images as <class>/<name>.jpg (or {', '.join(sorted(_SUFFIXES - {'.jpg'}))}) in {name}, got "
            "none; give the folder that holds the classes' folders"
        )
    classes = sorted({label for label, _, _ in entries})
    if limit is not None and limit < len(entries):
        places = np.linspace(0, len(entries) - 1, limit).round().astype(int)
        entries = [entries[place] for place in places]
    arrays = [_pixels(read(), size, file) for _, file, read in entries]
    labels = [classes.index(label) for label, _, _ in entries]

    shapes = sorted({array.shape[:2] for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"expected images of one size, got {len(shapes)} sizes (from {shapes[0]} to {shapes[-1]}) in {name}; "
            "pass size="
        )
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    mean, std = normalisation(3, name)
    return ImageData(images, torch.tensor(labels), tuple(classes), mean, std, name)


def _pixels(content: bytes, size: int | None, name: str) -> np.ndarray:
    """(height, width, 3) uint8."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what pillow raises on damaged files
        raise ValueError(f"expected an image, got {name}, which cannot be read: {error}; remove it") from error
    if size is not None:
        scale = size / min(image.size)
        image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)
