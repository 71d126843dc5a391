"""Texts as LaTeX: special characters escaped, and everything else as ASCII commands that need no package."""

from __future__ import annotations

import unicodedata

from kdexp.text.characters import encodable, one_line

_SPECIAL = {character: f"\\{character}" for character in "#$%&_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}
_SYMBOLS = {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "√": r"$\surd$", "∞": r"$\infty$", "·": r"$\cdot$", "‖": r"$\|$"}
_SYMBOLS |= {"★": r"$\star$", "☆": r"$\ast$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "≤": r"$\le$", "≥": r"$\ge$", "²": "$^2$"}
_SYMBOLS |= {"…": r"\ldots{}", "–": "--", "—": "---", "’": "'", "‘": "`", "“": "``", "”": "''", "→": r"$\to$"}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}


def escape(text: object) -> str:
    """The text on one line; characters that LaTeX can't print without packages become similar ones."""
    return "".join(map(_escaped, one_line(text)))


def _escaped(character: str) -> str:
    if known := _SPECIAL.get(character) or _SYMBOLS.get(character):
        return known
    if character.isascii():
        return character
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and letter.isascii() and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    return "".join(_SPECIAL.get(plain, plain) for plain in encodable(character, "ascii"))
