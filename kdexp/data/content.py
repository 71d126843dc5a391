"""Recognises by its first bytes what an unreadable image file really is."""

from __future__ import annotations

import re
from pathlib import Path

KINDS = {
    rb"....ftyp(hei|hev|mif1|msf1)": "a HEIC image, which must be converted to PNG or JPEG",
    rb"....ftypavi": "an AVIF image, which must be converted to PNG or JPEG",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 image, which must be converted to PNG or JPEG",
    rb"8BPS": "a Photoshop file, which must be converted to PNG or JPEG",
    rb"%!PS|%PDF|\xc5\xd0\xd3\xc6": "an EPS or PDF file, which must be converted to PNG or JPEG",
    rb"(?i)\s*(<\?xml[^>]*>\s*)?<svg": "an SVG drawing, which must be converted to PNG or JPEG",
    rb"(?i)\s*<(!doctype )?html": "a web page, not an image",
    rb"version https://git-lfs": "a Git LFS pointer, not an image: git lfs pull fetches it",
    rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b": "an archive, not an image",
}
"""Patterns of the first bytes of formats that `decoding` does not read."""


def content_kind(path: Path) -> str:
    """Returns a description of a regular file that matches one of `KINDS`, or an empty string."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return ""
    if not start:
        return "the file is empty"
    return next((kind for pattern, kind in KINDS.items() if re.match(pattern, start, re.DOTALL)), "")
