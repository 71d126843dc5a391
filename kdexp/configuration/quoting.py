"""Reads the words of a command line; explains those that can't be read, and puts texts in quotes so that they can."""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString

from kdexp.errors import first_cause, first_line
from kdexp.files import at_home

LONGEST = 4_000
"""Characters of one word at most; longer lists take Hydra's parser seconds."""

_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_QUOTED = "\ue000"
"""Stands for a quoted part of a word."""

_IN_BRACKETS = re.compile(r"(?<=[\[{(,:])( *)(~[^\[\]{}(),:]*)")
"""A path that begins with `~`, as an entry of a list, a node or a choice."""

_INTERVAL = re.compile(r"(tag|interval|(suggest_)?(q|log)?_?(uniform|normal|float|int|randint|log|interval))\(", re.IGNORECASE)
"""How a value begins that is meant as an interval, with the names that other programs have for it."""

_FREE = re.compile(r"[\w/\-\\+.$%*@?| ]", re.ASCII)
"""Characters that need no quotes."""


def parse(word: str) -> Override:
    """Parses one word of a command line; raises the errors of Hydra's parser, and `ValueError` for a word that is too long."""
    if len(word) > LONGEST:
        raise ValueError(f"has {len(word):,} characters; at most {LONGEST:,} are read")
    return _parse(word)


_parse = lru_cache(maxsize=100_000)(OverridesParser.create().parse_override)


def as_word(key: str, text: str) -> str:
    """`KEY=TEXT` with the text in quotes, ready to be typed into a shell."""
    single = f"{key}={QuotedString(text, Quote.single).with_quotes()}"
    if not re.search(r'["$`\\!]', single):
        return f'"{single}"'
    double = f"{key}={QuotedString(text, Quote.double).with_quotes()}"
    return shlex.quote(single if '"' in text else double)


def expand_home(word: str) -> str:
    """The word with each `~` or `~USER` at the start of a path replaced, which neither shells nor Hydra do in `KEY=~/data`.

    The value may be a path, several to sweep, or a list or node of them.
    """
    key, equals, value = word.partition("=")
    if equals and value[:1] == "~":
        return f"{key}={','.join(map(_quoted_home, re.split(',(?=~)', value)))}"
    if not equals or "~" not in value or re.search("['\"]", value):
        return word  # Hydra reads what is in quotes as it is, and `homes_within` replaces it later
    return f"{key}={_IN_BRACKETS.sub(lambda found: found[1] + _quoted_home(found[2]), value)}"


def _quoted_home(path: str) -> str:
    return QuotedString(str(at_home(path)), Quote.single).with_quotes()


def homes_within(value: Any) -> Any:
    """The value with each `~` or `~USER` at the start of a text replaced, also of texts in dictionaries and lists."""
    if isinstance(value, dict):
        return {name: homes_within(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [homes_within(inner) for inner in value]
    return str(at_home(value)) if isinstance(value, str) and value[:1] == "~" else value


def shortened(word: str) -> str:
    """The word; if it is long, without its middle."""
    return word if len(word) <= 80 else f"{word[:60]}…{word[-15:]}"


def unreadable(word: str, error: BaseException) -> str:
    """The sentence about a word that Hydra's parser can't read, given the error that it raised, with the right spelling."""
    key, _, value = word.partition("=")
    quoted = repr(shortened(word))
    if not re.fullmatch(r"\+{0,2}[\w./@$-]+|~[\w./@$-]+", key):
        return f"{quoted} can't be read: {key!r} is not a key; see kdexp --help"
    bare = key.lstrip("+~")
    if "while evaluating" in first_line(error):
        cause = first_line(first_cause(error))
        return f"{quoted} can't be read: {cause}{_call(bare, value, cause)}"
    return f"{quoted} can't be read: {_fault(bare, value)}"


def _call(key: str, value: str, cause: str) -> str:
    """What to write instead of a function that can't be called: an interval, which other programs name otherwise, or a text."""
    if _INTERVAL.match(value):
        ways = [
            shlex.quote(f"{key}={way}")
            for way in ("interval(LOW,HIGH)", "int(interval(LOW,HIGH))", "tag(log,interval(LOW,HIGH))")
        ]
        return f"; a search takes {ways[0]}, {ways[1]} or {ways[2]}"
    return f"; a text with brackets is written {as_word(key, value)}" if cause.startswith("Unknown function") else ""


def _fault(key: str, value: str) -> str:
    """The first thing that is wrong with a value, and how to fix it."""
    if not value:
        return f"{key!r} is not a key; see kdexp --help"
    text = value[0] not in _BRACKETS
    fix = f"; write {as_word(key, value)}" if text and len(value) <= 80 else ""
    bare, quote = _without_quoted(value)
    if quote:
        return f"the quote {quote} is not closed{'; add it at the end' if value[0] == quote else fix}"
    foreign = next((sign for sign in bare if not _FREE.match(sign) and sign not in f"[]{{}}(),:={_QUOTED}"), "")
    if foreign:
        return f"{foreign!r} must be inside quotes{fix}"
    if bracket := _unbalanced(bare):
        return bracket if value[0] in _BRACKETS else f"{bracket}{fix}"
    signs = "=" if value[0] in _BRACKETS else "=(){}[]"
    if sign := next((sign for sign in signs if sign in bare), ""):
        return f"{sign!r} is out of place, or must be inside quotes{fix}"
    return f"quotes are missing around a part of it{fix}" if _QUOTED in bare else f"',' or ':' is out of place{fix}"


def _without_quoted(value: str) -> tuple[str, str]:
    """The value with `_QUOTED` in place of each quoted part, and the quote that is not closed (or an empty string)."""
    bare = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", _QUOTED, value)
    return bare, next((sign for sign in bare if sign in "'\""), "")


def _unbalanced(bare: str) -> str:
    """The sentence about a bracket without a partner, or an empty string."""
    open_: list[str] = []
    for sign in bare:
        if sign in _BRACKETS:
            open_.append(sign)
        elif sign in _BRACKETS.values() and (not open_ or _BRACKETS[open_.pop()] != sign):
            return f"{sign!r} has no opening bracket before it"
    return f"{open_[-1]!r} is not closed; add {_BRACKETS[open_[-1]]!r}" if open_ else ""
