"""Decodes image files to tensors: cropped to squares and converted to 8-bit grey or colour."""

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
from kdexp.data.findings import Finding, library_messages, refuse, warnings_of
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
"""Formats that Pillow may try, whatever the suffix. Others can start programs, such as Ghostscript for EPS."""


def decode(*groups: ImageFiles) -> list[RawImages]:
    """Reads the images of each group into memory, in several threads, with a progress bar on a terminal.

    Raises `DataUnavailable`, which counts and names the files that can't be read.
    """
    return decode_with_findings(*groups)[0]


def decode_with_findings(*groups: ImageFiles) -> tuple[list[RawImages], list[Finding]]:
    """Returns the result of `decode`, and findings about images that were read although they are damaged."""
    images = [torch.empty(files.shape, dtype=torch.uint8) for files in groups]
    chunks = [
        (pixels[first : first + CHUNK], files.paths[first : first + CHUNK])
        for pixels, files in zip(images, groups, strict=True)
        for first in range(0, len(files.paths), CHUNK)
    ]
    with library_messages() as unplaced, ThreadPoolExecutor() as threads:
        done = progress_bar(threads.map(lambda chunk: fill(*chunk), chunks), "reading images", len(chunks))
        found = [finding for findings in done for finding in findings]
    refuse(found)
    return [RawImages(pixels, files.labels) for pixels, files in zip(images, groups, strict=True)], found + unplaced


def progress_bar(steps: Iterable[T], text: str, total: int) -> Iterable[T]:
    """Passes the steps through, with a progress bar on a terminal."""
    return track(steps, text, total, transient=True, disable=not get_console().is_terminal)


def fill(images: Tensor, paths: Sequence[str]) -> list[Finding]:
    """Decodes the files into `images` [n, C, H, W]; returns findings about unreadable and damaged ones."""
    pixels, found = images.permute(0, 2, 3, 1).numpy(), []
    for row, path in enumerate(paths):
        with warnings_of(path) as warned:
            try:
                pixels[row] = read_square(path, channels=images.shape[1], size=images.shape[2])
            except Exception as error:  # Pillow raises anything on a damaged file
                found.append(Finding(path, why_unreadable(Path(path), error), lost=True))
        found += warned
    return found


def why_unreadable(path: Path, error: Exception) -> str:
    """Returns the reason for an error of `read_square`."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return content_kind(path) or "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError) and len(numbers := re.findall(r"\d+", str(error))) == 2:
        return "{:,} pixels, more than {:,}; make it smaller".format(*map(int, numbers))
    return reason(error) if isinstance(error, OSError) and error.strerror else first_line(error)


def read_square(path: str | Path, channels: int, size: int) -> np.ndarray:
    """Reads one image as `square_of` makes it, the first frame if there are several.

    Raises whatever Pillow raises, and `ValueError` for a path that is not a regular file, which is not opened.
    """
    from PIL import Image

    if why := irregular(Path(path)):
        raise ValueError(why)
    with Image.open(path, formats=FORMATS) as opened:
        return square_of(opened, channels, size)


def square_of(image: Image.Image, channels: int, size: int) -> np.ndarray:
    """Returns a Pillow image as uint8 [size, size, channels], where `channels` is 1 or 3.

    It is turned as its Exif data say, its shorter side is resized to `size` (bilinear, antialiased), and the centre cropped:
    the same pixels as `Resize` and `CenterCrop` of torchvision. Raises whatever Pillow raises on damaged images.
    """
    upright = eight_bits(_upright(image), image.format)
    converted = upright.convert("L" if channels == 1 else "RGB")
    return np.asarray(resized_square(converted, size)).reshape(size, size, channels)


def resized_square(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side to `size` and crops the centre, in one step."""
    from PIL import Image

    (left, width), (top, height) = (_middle(side, min(image.size), size) for side in image.size)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


def _upright(image: Image.Image) -> Image.Image:
    """Turns the image as its Exif data say; warns and leaves it as it is if these are damaged."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises anything on damaged data
        warnings.warn(f"damaged Exif data ({first_line(error)})", stacklevel=1)
        return image


def _middle(side: int, shorter: int, size: int) -> tuple[float, float]:
    """Returns start and length of the central crop along a side, in pixels of the file, if the shorter side becomes `size`."""
    resized = size * side // shorter
    scale = side / resized
    return round((resized - size) / 2) * scale, size * scale


def eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Converts the image to 8 bits per channel, with transparency composited on white.

    16-bit grey keeps its whole range (65535 becomes 255); Pillow's own conversion clips everything above 255. Raises
    `ValueError` for 32-bit pixels, whose range is unknown.
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
