"""The table of `kdexp-store list`: one line per item in any terminal, with more columns in wider ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from kdexp.report.table import HEAD_RULE, Column, fitting, percent, table_width
from kdexp.store.items import Item
from kdexp.store.size import MB

SHORTEST_KEY, SHORTEST_METHOD = 8, 6
"""Characters of a key and of a method that are shown at least."""


@dataclass(frozen=True)
class Line:
    """The cells of an item; empty where it has no such value."""

    key: str
    model: str
    method: str = ""
    data: str = ""
    seed: str = ""
    epochs: str = ""
    test: str = ""
    teaches: str = ""
    size: str = ""
    age: str = ""


def draw_items(items: Sequence[Item], width: int) -> Table:
    """The table for a terminal of that width.

    Keys and methods are shown in full if there is room. Otherwise keys are shortened as long as they tell the items apart, then
    the spaces of methods are left out, and at last the ends of long methods.
    """
    lines = _lines(items)
    columns = _columns(lines, width)
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for line in lines:
        table.add_row(*(column.cell(line) for column in columns))
    return table


def _columns(lines: Sequence[Line], width: int) -> list[Column[Line]]:
    """The columns that fit, in the fullest form of keys and methods for which those that are always shown do."""
    short = _telling({line.key for line in lines})
    for key_length, compact in ((None, False), (short, False), (short, True)):
        columns = _all_columns(key_length, compact)
        excess = table_width(lines, [column for column in columns if column.always]) - width if lines else 0
        if excess <= 0:
            return fitting(lines, width, columns) if lines else columns
    method = next(column for column in columns if column.heading == "method")
    return [column for column in _all_columns(short, True, method.width(lines) - excess) if column.always]


def _all_columns(key_length: int | None, compact: bool, method_length: int | None = None) -> list[Column[Line]]:
    def method(line: Line) -> str:
        text = line.method.replace(" ", "") if compact else line.method
        most = None if method_length is None else max(SHORTEST_METHOD, method_length)
        return text if most is None or len(text) <= most else f"{text[: most - 1]}…"

    return [
        Column("key", lambda line: line.key[:key_length], always=True, right=False),
        Column("model", lambda line: line.model, always=True, right=False),
        Column("method", method, always=True, right=False),
        Column("data", lambda line: line.data, always=True, right=False),
        Column("seed", lambda line: line.seed, always=True),
        Column("epochs", lambda line: line.epochs),
        Column("test %", lambda line: line.test, always=True),
        Column("teaches", lambda line: line.teaches),
        Column("MB", lambda line: line.size, always=True),
        Column("age", lambda line: line.age, always=True),
    ]


def _telling(keys: set[str]) -> int:
    """The number of characters with which all keys differ."""
    longest = max(map(len, keys), default=SHORTEST_KEY)
    lengths = range(SHORTEST_KEY, longest)
    return next((length for length in lengths if len({key[:length] for key in keys}) == len(keys)), longest)


def _lines(items: Sequence[Item]) -> list[Line]:
    students = Counter(item.result["spec"]["teacher"] for item in items if item.kind == "finished")
    return [_line(item, students[item.key]) for item in items]


def _line(item: Item, students: int) -> Line:
    size = item.size / MB
    written = {"size": f"{size:.0f}" if size >= 100 else f"{size:.2f}", "age": _age(item.days)}
    if not item.result:
        return Line(item.key, item.kind, **written)
    result, spec = item.result, item.result["spec"]
    if item.kind == "outputs":
        return Line(item.key, result["model"], f"outputs: {spec['layer'] or 'logits'}", result["dataset"], **written)
    return Line(
        item.key,
        result["model"],
        result["method"],
        result["dataset"],
        str(spec["seed"]),
        str(spec["epochs"]),
        percent(result["test"]["last"]["top1"]),
        str(students or ""),
        **written,
    )


def _age(days: float) -> str:
    hours = 24 * days
    return f"{days:.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"
