"""One picture file as an array, whatever its depth of colour, within bounds.

Pillow decodes. What is added are bounds, as pictures come from strangers, and the cases in which its conversion to RGB
loses what is there: pictures of 16 and 32 bits and of floats.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from ..imports import first_import

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What is opened, whatever a file is called: others may start programs (EPS) or read further files."""

MOST_PIXELS = 89_478_485
"""Of one picture: what Pillow warns of."""


class Damaged(ValueError):
    """A file that holds no picture that is read."""


def pixels(file: IO[bytes], size: int | None, white: float | None) -> np.ndarray:
    """The picture, (height, width, 3): uint8, or float32 in [0, 1] where it has more than 256 levels.

    Pictures of 16 bits are divided by 65,535, those of floats must be in [0, 1], unless `white` is given, which is then
    1. Colours are converted as Pillow does, transparency is dropped.

    Args:
        file: open for reading.
        size: resize the shorter side to this and crop the middle.
        white: the value of a white pixel, of pictures of more than 8 bits.

    Raises:
        Damaged: it cannot be read, or is too large.
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
        raise Damaged(_reason(error)) from error  # what Pillow raises on damaged files
    if size is not None:
        image = _resized(image, size)
    array = np.asarray(image)
    return array if image.mode == "RGB" else np.repeat(_scaled(array, opened.mode, white)[..., None], 3, -1)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _check_size(width: int, height: int, size: int | None) -> None:
    """Before anything is decoded."""
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
    """In [0, 1]; bicubic resizing may go beyond a little, which is cut."""
    most = white or (1.0 if mode == "F" else 65535.0)
    low, high = float(array.min()), float(array.max())
    if not (low >= -0.1 * most and high <= 1.1 * most):
        raise Damaged(
            f"its values go from {low:g} to {high:g}, and what is white is not known; pass white= with the value of a "
            "white pixel"
        )
    return (array / np.float32(most)).clip(0, 1)


def _reason(error: Exception) -> str:
    if "cannot identify image file" in str(error):
        return f"it is none of {', '.join(FORMATS)}"
    return f"{error}" or type(error).__name__
