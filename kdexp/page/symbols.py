"""Marks as SVG, and legends made of them."""

from __future__ import annotations

from collections.abc import Iterable

from kdexp.page.html import Html, tag
from kdexp.page.marks import Mark

PATHS = {
    "o": "M4.5 0A4.5 4.5 0 1 1-4.5 0 4.5 4.5 0 1 1 4.5 0Z",
    "s": "M-4-4H4V4H-4Z",
    "D": "M0-5.5 5.5 0 0 5.5-5.5 0Z",
    "^": "M0-5.5 5.5 4.5H-5.5Z",
    "v": "M0 5.5 5.5-4.5H-5.5Z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "X": "M-5-2.5-2.5-5 0-2.5 2.5-5 5-2.5 2.5 0 5 2.5 2.5 5 0 2.5-2.5 5-5 2.5-2.5 0Z",
    "<": "M-5.5 0 4.5-5.5V5.5Z",
    ">": "M5.5 0-4.5-5.5V5.5Z",
    "p": "M0-5.5 5.2-1.7 3.2 4.4H-3.2L-5.2-1.7Z",
    "*": "M0-6.5 1.5-2.1 6.2-2 2.5.8 3.8 5.3 0 2.6-3.8 5.3-2.5.8-6.2-2-1.5-2.1Z",
    "d": "M0-6.5 3.2 0 0 6.5-3.2 0Z",
}
"""Outlines around the origin by matplotlib's letters, in pixels."""


def symbol(mark: Mark, **attributes: object) -> Html:
    """The mark around the origin of an SVG element."""
    return tag("path", class_=f"mark {mark.name}", d=PATHS[mark.shape], **attributes)


def stroke(mark: Mark, dashes: tuple[int, ...] | None = None) -> dict[str, object]:
    """Attributes of a line in the mark's colour and dashes, or other `dashes`."""
    pattern = " ".join(str(2 * length) for length in (mark.dashes if dashes is None else dashes))
    return {"class_": f"curve {mark.name}", "stroke_dasharray": pattern or None}


def key(mark: Mark, *, line: bool = False, dashes: tuple[int, ...] | None = None) -> Html:
    """The mark as a small picture within a text; with a piece of line if it stands for a curve."""
    half = 16 if line else 8
    drawn = [tag("path", d=f"M{-half} 0H{half}", **stroke(mark, dashes))] if line else []
    box = f"{-half} -8 {2 * half} 16"
    return tag("svg", *drawn, symbol(mark), class_="key", viewBox=box, width=2 * half, height=16, aria_hidden="true")


def legend(entries: Iterable[tuple[Html, str]]) -> Html:
    """A list of keys with their names."""
    return tag("ul", *(tag("li", picture, " ", name) for picture, name in entries), class_="legend")
