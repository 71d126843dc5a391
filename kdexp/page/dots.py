"""A few numbers side by side for each of many names, as dots on lines above one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kdexp.page.html import Html, figure, tag
from kdexp.page.marks import Mark
from kdexp.page.scale import Scale, plain
from kdexp.page.symbols import key, legend, symbol

HEIGHT = 30


class Dots(NamedTuple):
    """A line: its name, its numbers in the order of the legend (None is unknown), and a text at its end."""

    name: str
    values: Sequence[float | None]
    text: str
    tip: str


def draw_dots(lines: Sequence[Dots], keys: Sequence[tuple[Mark, str]], title: str, caption: str) -> Html:
    """The lines; dots of one line are one above the other, so that equal ones are seen."""
    scale = Scale.around(value for line in lines for value in line.values if value is not None)
    texts = [tag("text", plain(tick), x=_percent(tick, scale), y=14) for tick in scale.ticks()]
    texts.append(tag("text", title, x="50%", y=34, class_="title"))
    bottom = tag("li", tag("span"), tag("svg", *texts, height=40, class_="track ticks"), class_="axis", aria_hidden="true")
    drawn = tag("ul", *(_line(line, keys, scale) for line in lines), bottom, class_="differences dots")
    return figure(caption, legend([(key(mark), name) for mark, name in keys]), drawn)


def _line(line: Dots, keys: Sequence[tuple[Mark, str]], scale: Scale) -> Html:
    places = [(_percent(tick, scale)) for tick in scale.ticks()]
    parts = [tag("g", *(tag("line", x1=x, x2=x, y1=0, y2=HEIGHT) for x in places), class_="rules")]
    for number, (value, (mark, _)) in enumerate(zip(line.values, keys, strict=True), 1):
        if value is not None:
            height = f"{HEIGHT * number / (len(keys) + 1):.1f}"
            parts.append(tag("svg", symbol(mark), x=_percent(value, scale), y=height))
    track = tag("svg", *parts, height=HEIGHT, class_="track", aria_hidden="true")
    return tag("li", tag("span", line.name, class_="name"), track, tag("span", line.text, class_="number"), data_tip=line.tip)


def _percent(value: float, scale: Scale) -> str:
    return f"{100 * scale.at(value):.2f}%"
