"""Small images as PNG files inside a page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

_TYPES = {1: 0, 3: 2}
"""PNG's number for grey and for colour images, by channels."""


def data_uri(pixels: np.ndarray) -> str:
    """An image uint8 [H, W, channels], grey or RGB, as the address of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of an image uint8 [H, W, channels] with one or three channels (W3C, PNG specification, 2003)."""
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, _TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
