"""Charts as SVG of fluid width: places along x are percentages, heights are pixels, so that texts and marks keep their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdexp.page.html import Html, tag
from kdexp.page.marks import Mark
from kdexp.page.scale import Scale, plain
from kdexp.page.symbols import stroke, symbol

HEIGHT = 240
GRID = 1000
"""Units along each side of the part that is stretched to the chart's size."""

Point = tuple[float, float]


class Plot:
    """Collects what is drawn between two axes. `name` describes it to readers who don't see it."""

    def __init__(self, x: Scale, y: Scale, name: str):
        self.x, self.y, self.name = x, y, name
        self._stretched: list[Html] = []
        self._drawn: list[Html] = []

    def line(self, points: Sequence[Point], **attributes: object) -> None:
        """Draws a line through these points; a single one gets none."""
        path = "".join(f"{'L' if number else 'M'}{self._stretch(*point)}" for number, point in enumerate(points))
        self._stretched.append(tag("path", d=path, **attributes))

    def curve(self, points: Sequence[Point], mark: Mark, dashes: tuple[int, ...] | None = None, every: int = 1) -> None:
        """Draws a line, and a mark at its end and at `every` so many points before."""
        self.line(points, **stroke(mark, dashes))
        for point in points[::-every]:
            self.mark(point, mark)

    def band(self, lower: Sequence[Point], upper: Sequence[Point], colour: str) -> None:
        """Fills the area between two lines."""
        path = "L".join(self._stretch(*point) for point in [*lower, *reversed(upper)])
        self._stretched.append(tag("path", d=f"M{path}Z", class_=f"band {colour}"))

    def mark(
        self, at: Point, mark: Mark, *, tip: str = "", spread: float = 0.0, aside: float = 0.0, framed: bool = False
    ) -> None:
        """Draws a mark, `aside` by so many pixels, with a bar of `spread` to both sides along y; `tip` appears on hover."""
        x, y = at
        parts = []
        if spread:
            top, bottom = self._height(y + spread), self._height(y - spread)
            ends = f"M{aside:g} {top - self._height(y):.1f}V{bottom - self._height(y):.1f}"
            caps = "".join(f"M{aside - 3:g} {end - self._height(y):.1f}h6" for end in (top, bottom))
            parts.append(tag("path", d=ends + caps, class_=f"bar {mark.name}"))
        if framed:
            parts.append(tag("circle", cx=f"{aside:g}", r=9, class_="frame"))
        parts.append(symbol(mark, transform=f"translate({aside:g})" if aside else None, data_tip=tip or None))
        self._drawn.append(tag("svg", *parts, x=self._percent(x), y=f"{self._height(y):.1f}"))

    def dot(self, at: Point, tip: str) -> None:
        """Draws a small dot in the background."""
        self._drawn.insert(
            0, tag("circle", cx=self._percent(at[0]), cy=f"{self._height(at[1]):.1f}", r=2.5, class_="dot", data_tip=tip)
        )

    def column(self, start: float, end: float, tip: str) -> None:
        """Shows a text on hover over everything between two places along x."""
        width = 100 * (self.x.at(self.x.clipped(end)) - self.x.at(self.x.clipped(start)))
        box = {"x": self._percent(self.x.clipped(start)), "width": f"{width:.2f}%", "height": HEIGHT}
        self._drawn.append(tag("rect", **box, class_="column", data_tip=tip))

    def html(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float] | None = None,
        written: Callable[[float], str] = plain,
    ) -> Html:
        """The chart with its axes; `written` gives the texts of ticks along x."""
        across = self.x.ticks() if x_ticks is None else x_ticks
        rules = [
            *(tag("line", x1=0, x2="100%", y1=f"{self._height(y):.1f}", y2=f"{self._height(y):.1f}") for y in self.y.ticks()),
            *(tag("line", x1=self._percent(x), x2=self._percent(x), y1=HEIGHT, y2=HEIGHT + 4) for x in across),
        ]
        texts = [
            *(tag("text", plain(y), x=-8, y=f"{self._height(y) + 4:.1f}", class_="end") for y in self.y.ticks()),
            *(tag("text", written(x), x=self._percent(x), y=HEIGHT + 18) for x in across),
            tag("text", x_label, x="50%", y=HEIGHT + 38, class_="title"),
        ]
        box = {"viewBox": f"0 0 {GRID} {GRID}", "preserveAspectRatio": "none", "width": "100%", "height": HEIGHT}
        inner = tag("svg", *self._stretched, **box) if self._stretched else Html("")
        parts = [tag("g", *rules, class_="rules"), tag("g", *texts, class_="ticks"), inner, *self._drawn]
        drawing = tag("svg", *parts, role="img", aria_label=self.name, height=HEIGHT)
        return tag("div", tag("div", y_label, class_="title"), drawing, class_="plot")

    def _percent(self, x: float) -> str:
        return f"{100 * self.x.at(x):.2f}%"

    def _height(self, y: float) -> float:
        return HEIGHT * (1 - self.y.at(y))

    def _stretch(self, x: float, y: float) -> str:
        return f"{GRID * self.x.at(x):.1f} {GRID * (1 - self.y.at(y)):.1f}"
