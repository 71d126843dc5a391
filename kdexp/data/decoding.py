"""Image files as tensors: any format that Pillow reads, cut to squares, converted to 8-bit grey or colour."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich import get_console
from rich.progress import track
from torch import Tensor

from kdexp.arguments import a_few, first_line
from kdexp.data.dataset import DataUnavailable

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 32
"""Images that a thread decodes before the progress bar moves."""


def decode(groups: Sequence[Sequence[Path]], channels: int, size: int) -> list[Tensor]:
    """The images of each group, uint8 [N, channels, size, size], read by several threads with a bar on a terminal.

    Raises `DataUnavailable`, which counts and names the files that can't be read.
    """
    images = [torch.empty(len(paths), channels, size, size, dtype=torch.uint8) for paths in groups]
    chunks = [
        (place[first : first + CHUNK], paths[first : first + CHUNK])
        for place, paths in zip(images, groups, strict=True)
        for first in range(0, len(paths), CHUNK)
    ]
    with ThreadPoolExecutor() as threads:
        hidden = not get_console().is_terminal
        done = track(threads.map(_fill, chunks), "reading images", len(chunks), transient=True, disable=hidden)
        unreadable = [complaint for complaints in done for complaint in complaints]
    if unreadable:
        count, them = ("1 image", "it") if len(unreadable) == 1 else (f"{len(unreadable)} images", "them")
        raise DataUnavailable(f"{count} can't be read: {a_few(unreadable)}, repair or remove {them}")
    return images


def _fill(chunk: tuple[Tensor, Sequence[Path]]) -> list[str]:
    """Decodes the files into their place [n, C, H, W]; returns a complaint for each that can't be."""
    place, paths = chunk
    pixels, complaints = place.permute(0, 2, 3, 1).numpy(), []
    for row, path in enumerate(paths):
        try:
            pixels[row] = read_square(path, channels=place.shape[1], size=place.shape[2])
        except Exception as error:  # Pillow raises anything on a damaged file
            complaints.append(f"{path} ({_reason(path, error)})")
    return complaints


def _reason(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if path.is_file() and not path.stat().st_size:
        return "the file is empty"
    return "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else first_line(error)


def read_square(path: Path, channels: int, size: int) -> np.ndarray:
    """One image, uint8 [size, size, channels]: turned as its Exif data say, its shorter side resized to `size` (bilinear,
    smoothed), its middle cut out; of several frames the first. Pillow's and torchvision's `Resize` and `CenterCrop` give
    the same pixels. Raises whatever Pillow does.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = eight_bits(ImageOps.exif_transpose(opened), opened.format)
    image = image.convert("L" if channels == 1 else "RGB")
    (left, width), (top, height) = (_middle(side, min(image.size), size) for side in image.size)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(square).reshape(size, size, channels)


def _middle(side: int, shorter: int, size: int) -> tuple[float, float]:
    """Start and length, in pixels of the file, of what is left of a side when the shorter one becomes `size`."""
    resized = size * side // shorter
    scale = side / resized
    return round((resized - size) / 2) * scale, size * scale


def eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """The image with 8 bits per channel and nothing transparent.

    Of 16-bit grey the whole range is kept (65535 becomes 255), where Pillow's own conversion cuts off everything above 255.
    What is transparent is laid on white. 32-bit pixels have no known range: raises `ValueError`.
    """
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise ValueError("32-bit pixels, whose range is unknown, convert it to 8 or 16 bit")
    if sixteen:
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque
    return image


def available_memory() -> int:
    """Bytes that new arrays may take: what Linux calls available, elsewhere all physical memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
