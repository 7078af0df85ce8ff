"""One picture file as an array, whatever its colour depth, within bounds.

Pillow decodes. This adds limits, since picture files may come from strangers, and handles the pictures that Pillow's
conversion to RGB clips: those of 16 bits, 32 bits and floats.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from ..imports import first_import

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Formats that are opened, whatever the file name says: others may start programs (EPS) or read further files."""

MOST_PIXELS = 89_478_485
"""Largest picture: the size above which Pillow warns of a decompression bomb."""


class Damaged(ValueError):
    """A file without a readable picture."""


def pixels(file: IO[bytes], size: int | None, white: float | None) -> np.ndarray:
    """The picture, (height, width, 3): uint8, or float32 in [0, 1] where it has more than 256 levels.

    16-bit pictures are divided by 65,535 and floats must be in [0, 1], unless `white` is given as the value that
    becomes
    1. Colours are converted as Pillow does, and transparency is dropped.

    Args:
        file: the picture file, open for reading.
        size: resize the shorter side to this and crop the centre.
        white: value of a white pixel in pictures of more than 8 bits.

    Raises:
        Damaged: the file is unreadable or the picture too large.
    """
    with first_import("PIL.Image"):
        from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as opened:
            _check_size(*opened.size, size)
            image = opened.convert("F" if _is_deep(opened) else "RGB")
    except Damaged:
        raise
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, KeyError, OverflowError) as error:
        raise Damaged(_reason(error)) from error  # all that Pillow raises on damaged files
    if size is not None:
        image = _resized(image, size)
    array = np.asarray(image)
    return array if image.mode == "RGB" else np.repeat(_scaled(array, opened.mode, white)[..., None], 3, -1)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _check_size(width: int, height: int, size: int | None) -> None:
    """Refuse oversized pictures before anything is decoded."""
    if width * height > MOST_PIXELS:
        raise Damaged(f"it has {width} x {height} pixels, more than {MOST_PIXELS:,}")
    if size is not None:
        scale = size / max(1, min(width, height))
        if width * scale * height * scale > MOST_PIXELS:
            raise Damaged(f"of {width} x {height} pixels, it would have {width * scale:.0f} x {height * scale:.0f}")


def _resized(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _scaled(array: np.ndarray, mode: str, white: float | None) -> np.ndarray:
    """Pixels scaled to [0, 1], clipping the overshoot of bicubic resizing (at most a tenth)."""
    maximum = white or (1.0 if mode == "F" else 65535.0)
    low, high = float(array.min()), float(array.max())
    if not (low >= -0.1 * maximum and high <= 1.1 * maximum):
        raise Damaged(
            f"its values go from {low:g} to {high:g}, and the value of white is unknown; pass white= with the value "
            "of a white pixel"
        )
    return (array / np.float32(maximum)).clip(0, 1)


def _reason(error: Exception) -> str:
    if "cannot identify image file" in str(error):
        return f"it is not one of {', '.join(FORMATS)}"
    return f"{error}" or type(error).__name__
