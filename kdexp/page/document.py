"""The document around a page's content: style and script inside, and a policy under which nothing else can run or load."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import date
from html import escape
from pathlib import Path
from string import Template

from kdexp.page.html import Html, joined
from kdexp.page.marks import palette
from kdexp.text.characters import visible

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def document(title: str, body: Iterable[Html]) -> str:
    """A whole page that makes no request."""
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = Template(_part("page.css")).substitute(light=palette(dark=False), dark=palette(dark=True))
    parts = {"title": escape(title), "digest": digest, "style": style, "script": script, "body": joined(body)}
    return visible(Template(_part("page.html")).substitute(parts))


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def days(times: Iterable[str]) -> str:
    """The days of some times as people write them, such as `25 to 26 November 2026`; times begin with `2026-11-25`.

    A time that does not is left as it is.
    """
    ends = sorted(times)
    if not ends:
        return ""
    try:
        first, last = (date.fromisoformat(time[:10]) for time in (ends[0], ends[-1]))
    except ValueError:
        return " to ".join(dict.fromkeys((ends[0], ends[-1])))
    end = f"{last.day} {MONTHS[last.month - 1]} {last.year}"
    if first == last:
        return end
    start = str(first.day)
    start += f" {MONTHS[first.month - 1]}" if (first.year, first.month) != (last.year, last.month) else ""
    start += f" {first.year}" if first.year != last.year else ""
    return f"{start} to {end}"
