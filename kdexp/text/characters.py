"""Characters that must not reach a reader raw, and those that an encoding lacks."""

from __future__ import annotations

import codecs
import re
import unicodedata

_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters but for tab and line feed, what changes the direction of writing, line separators, lone surrogates."""
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
"""What stands for a character where the encoding has none such; accents are taken off, lines drawn with - | +."""
_HANDLER = "kdexp.alike"


def visible(text: str) -> str:
    """A text of several lines as it may be shown: what is hidden in it becomes an escape such as `\\x1b`."""
    return _IN_TEXT.sub(_escape, _decoded(text))


def one_line(text: object) -> str:
    """A name or a sentence as it may be shown: on one line, what is hidden in it becomes an escape such as `\\n`."""
    return _IN_LINE.sub(_escape, _decoded(str(text)))


def encodable(text: str, encoding: str) -> str:
    """The text in characters that the encoding has: `×` is `x` in ASCII, and what nothing resembles is `?`."""
    return text.encode(encoding, _HANDLER).decode(encoding)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


def _decoded(text: str) -> str:
    """The text with the bytes of UTF-8 that a C locale left in it (PEP 383) read as such; other bytes become `\\xff`."""
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text


def _alike(error: UnicodeError) -> tuple[str, int]:
    """What stands for the characters of an encoding error, as `codecs.register_error` wants it."""
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
