"""Codes of pictures as text."""

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack_codes(codes: Sequence[int]) -> str:
    """Codes as base64 of unsigned 16-bit numbers, little-endian."""
    return base64.b64encode(np.array(codes, dtype="<u2").tobytes()).decode()


def unpack_codes(packed: str) -> NDArray[np.uint16]:
    """Codes that `pack_codes` packed."""
    return np.frombuffer(base64.b64decode(packed), dtype="<u2")
