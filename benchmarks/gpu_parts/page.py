"""The page of figures, as Markdown. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_parts.catalogue import PARTS

LEFT_OUT = 3
"""Names of what there was no time for that a sentence lists."""


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    machine = results["machine"]
    title = "# A rehearsal on a CPU: no figure below means anything" if results["rehearsal"] else f"# {machine['device']}"
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device")
    return "\n\n".join([title, facts + ".", *sections(results, "##")]) + "\n"


def sections(results: dict[str, Any], heading: str = "") -> list[str]:
    """The paragraphs and tables of every part that ran; `heading` is put before a part's title, which otherwise is bold."""
    found: list[str] = []
    for name, part in PARTS.items():
        if name in results["parts"]:
            result = results["parts"][name]
            found += [f"{heading} {part.title}", part.about] if heading else [f"**{part.title}.** {part.about}"]
            found += [text for text in (table(result["rows"]), remark(result)) if text]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table with the columns of all of them; an empty text without rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return ""
    numeric = {name for name in columns if all(is_number(row.get(name)) for row in rows)}
    marks = ["--:" if name in numeric else "---" for name in columns]
    return "\n".join(map(line, [columns, marks, *([cell(row.get(name)) for name in columns] for row in rows)]))


def is_number(value: Any) -> bool:
    """Whether a value is a number or missing."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def cell(value: Any) -> str:
    """A value with three or more significant digits."""
    if value is None:
        return "–"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.1e}" if 0 < size < 0.001 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def remark(result: dict[str, Any]) -> str:
    """What keeps a part from being complete, in sentences; an empty text if nothing does."""
    told = [f"{result['state'].capitalize()}: {result['reason']}."] if result["reason"] else []
    if left_out := result["left_out"]:
        shown = "; ".join(left_out[:LEFT_OUT]) + (f"; {len(left_out) - LEFT_OUT} more" if len(left_out) > LEFT_OUT else "")
        told.append(f"No time was left for {shown}.")
    return " ".join(told)
