"""Elements of HTML and SVG, which escape every text that is put into them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_WITHOUT_END = {"img", "input", "br", "wbr"}
_SHAPES = {"path", "line", "circle", "rect"}


class Html(str):
    """Finished HTML. Every other text is escaped where it becomes part of some."""


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element. Underscores in names of attributes are hyphens, except at the end; None and False leave an attribute out."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _WITHOUT_END:
        return Html(f"<{name}{given}>")
    if name in _SHAPES and not content:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    """Parts one after another, escaped unless they are HTML."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def breakable(text: str) -> Html:
    """The text, which may be wrapped after an underscore."""
    first, *rest = text.split("_")
    return joined([first, *(part for word in rest for part in ("_", tag("wbr"), word))])


def command_line(command: str) -> Html:
    """A command that a click copies."""
    return tag("code", command, class_="command")


def figure(caption: str, *content: Html, class_: str = "") -> Html:
    """Content with its caption below."""
    return tag("figure", *content, tag("figcaption", caption), class_=class_ or None)
