"""Numbers as text that can be embedded in a page."""

from __future__ import annotations

import base64
import zlib

import numpy as np


def deflated(values: np.ndarray) -> str:
    r"""Numbers as text: little-endian, deflated, base64.

    Example:
        >>> zlib.decompress(base64.b64decode(deflated(np.array([1, 2], np.uint8))))
        b'\x01\x02'
    """
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode()
