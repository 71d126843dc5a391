"""Image files as tensors: any format that Pillow reads, cut to squares, converted to 8-bit grey or colour."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from rich import get_console
from rich.progress import track
from torch import Tensor

from kdexp.data.content import content_kind
from kdexp.data.findings import Finding, heard_from_libraries, refuse, warnings_of
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.listing import irregular
from kdexp.errors import first_line
from kdexp.files import reason

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
CHUNK = 32
"""Images that a thread decodes before the progress bar moves."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What Pillow may take a file for, whatever its suffix; for others it starts programs, such as Ghostscript for EPS."""


def decode(*groups: ImageFiles) -> list[RawImages]:
    """The images of each group in memory, read by several threads with a bar on a terminal.

    Raises `DataUnavailable`, which counts and names the files that can't be read.
    """
    return decode_with_findings(*groups)[0]


def decode_with_findings(*groups: ImageFiles) -> tuple[list[RawImages], list[Finding]]:
    """What `decode` returns, and the findings about images that were read although they are damaged."""
    images = [torch.empty(files.shape, dtype=torch.uint8) for files in groups]
    chunks = [
        (place[first : first + CHUNK], files.paths[first : first + CHUNK])
        for place, files in zip(images, groups, strict=True)
        for first in range(0, len(files.paths), CHUNK)
    ]
    with heard_from_libraries() as unplaced, ThreadPoolExecutor() as threads:
        done = bar(threads.map(lambda chunk: fill(*chunk), chunks), "reading images", len(chunks))
        found = [finding for findings in done for finding in findings]
    refuse(found)
    return [RawImages(place, files.labels) for place, files in zip(images, groups, strict=True)], found + unplaced


def bar(steps: Iterable[T], words: str, total: int) -> Iterable[T]:
    """The steps, followed by a progress bar on a terminal."""
    return track(steps, words, total, transient=True, disable=not get_console().is_terminal)


def fill(place: Tensor, paths: Sequence[str]) -> list[Finding]:
    """Decodes the files into their place [n, C, H, W]; returns findings about those that can't be, or are damaged."""
    pixels, found = place.permute(0, 2, 3, 1).numpy(), []
    for row, path in enumerate(paths):
        with warnings_of(path) as warned:
            try:
                pixels[row] = read_square(path, channels=place.shape[1], size=place.shape[2])
            except Exception as error:  # Pillow raises anything on a damaged file
                found.append(Finding(path, _reason(Path(path), error), lost=True))
        found += warned
    return found


def _reason(path: Path, error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return content_kind(path) or "no image that Pillow knows"
    if isinstance(error, Image.DecompressionBombError) and len(numbers := re.findall(r"\d+", str(error))) == 2:
        return "{:,} pixels, more than {:,}; make it smaller".format(*map(int, numbers))
    return reason(error) if isinstance(error, OSError) and error.strerror else first_line(error)


def read_square(path: str | Path, channels: int, size: int) -> np.ndarray:
    """One image, uint8 [size, size, channels]: turned as its Exif data say, its shorter side resized to `size` (bilinear,
    smoothed), its middle cut out; of several frames the first. Pillow's and torchvision's `Resize` and `CenterCrop` give
    the same pixels. Raises whatever Pillow does, and `ValueError` for what is no regular file, which is not opened.
    """
    from PIL import Image

    if why := irregular(Path(path)):
        raise ValueError(why)
    with Image.open(path, formats=FORMATS) as opened:
        image = eight_bits(_upright(opened), opened.format)
    image = image.convert("L" if channels == 1 else "RGB")
    (left, width), (top, height) = (_middle(side, min(image.size), size) for side in image.size)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(square).reshape(size, size, channels)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its Exif data say; where these are damaged, as it is, with a warning."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises anything on damaged data
        warnings.warn(f"damaged Exif data ({first_line(error)})", stacklevel=1)
        return image


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
