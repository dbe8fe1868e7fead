"""Pictures of noise, and chunks of PNG files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
COLOR = Image.fromarray(PIXELS)
GREY = Image.fromarray(PIXELS[..., 0])
DEEP = RNG.integers(0, 2**16, (30, 40)).astype(np.uint16)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk, with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
