"""Escapes characters that terminals obey, and replaces characters that an encoding lacks."""

from __future__ import annotations

import codecs
import re
import unicodedata

_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters except tab and line feed, marks of writing direction, line separators, and lone surrogates."""
_IN_TEXT, _IN_LINE = re.compile(f"[{_HIDDEN}]"), re.compile(f"[{_HIDDEN}\t\n]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_ALIKE = (
    dict.fromkeys("–−‐‑‒‾", "-")
    | dict.fromkeys("‘’‚′", "'")
    | dict.fromkeys("“”„«»″", '"')
    | dict.fromkeys("·•●★", "*")
    | dict(zip("—…→←×÷±☆‖⁄", ("--", "...", "->", "<-", "x", "/", "+-", "+", "||", "/"), strict=True))
    | dict(zip("≤≥≈≠✓✗", ("<=", ">=", "~", "!=", "ok", "x"), strict=True))
    | dict(zip("∞√ΔΣαπμ°ßæø€", ("inf", "sqrt", "diff", "sum", "alpha", "pi", "u", "deg", "ss", "ae", "o", "EUR"), strict=True))
)
"""Replacements for characters that an encoding lacks; others lose their accents, and box drawings become - | +."""
_HANDLER = "kdexp.alike"


def visible(text: str) -> str:
    """A text of several lines that is safe to print: hidden characters become escapes such as `\\x1b`."""
    return _IN_TEXT.sub(_escape, _decoded(text))


def one_line(text: object) -> str:
    """A name or sentence that is safe to print on one line: hidden characters and breaks become escapes such as `\\n`."""
    return _IN_LINE.sub(_escape, _decoded(str(text)))


def encodable(text: str, encoding: str) -> str:
    """The text in the characters of an encoding: `×` becomes `x` in ASCII, and characters that resemble none become `?`."""
    return text.encode(encoding, _HANDLER).decode(encoding)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


def _decoded(text: str) -> str:
    """The text with bytes that a C locale did not decode (PEP 383) decoded as UTF-8; invalid ones become `\\xff`."""
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte
        return text


def _alike(error: UnicodeError) -> tuple[str, int]:
    """Error handler for `codecs.register_error`: replaces characters that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_replacement, error.object[error.start : error.end])), error.end


def _replacement(character: str) -> str:
    if character in _ALIKE:
        return _ALIKE[character]
    name = unicodedata.name(character, "")
    if name.startswith("BOX DRAWINGS"):
        vertical, horizontal = "VERTICAL" in name or "UP" in name or "DOWN" in name, "HORIZONTAL" in name
        return "|" if vertical and "LEFT" not in name and "RIGHT" not in name and not horizontal else "+" if vertical else "-"
    if "BLOCK" in name or name.endswith("SHADE"):
        return "#"
    plain = "".join(
        _ALIKE.get(part, part) for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)
    )
    return plain if plain.isascii() and plain else "?"


codecs.register_error(_HANDLER, _alike)
