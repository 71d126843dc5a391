"""The differences of a table with their intervals, for a page and for a picture, and the caption of both."""

from __future__ import annotations

from collections.abc import Iterator

from kdexp.page.differences import Estimate
from kdexp.report.origin import ONE_SEED
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.difference import Difference
from kdexp.sweep.page_rows import seeds_of
from kdexp.sweep.remarks import families, level_of, span
from kdexp.sweep.shown import marks_of, name_of
from kdexp.text.numbers import signed


def estimates(table: DataTable) -> list[Estimate]:
    """One for every row with an interval."""
    marks, found = marks_of(table), []
    for row in table.compared:
        difference = row.difference
        assert difference is not None
        both, inner = difference.over_seeds_and_images, difference.over_seeds
        outer = both or inner
        found.append(
            Estimate(
                name_of(row, table),
                marks[row.drawn_as],
                difference.mean,
                signed(difference.mean),
                span(outer) if outer else "",
                seeds_of(row)["vs base"],
                difference.points,
                (outer.low, outer.high) if outer else None,
                (inner.low, inner.high) if inner else None,
            )
        )
    return found


def explained(table: DataTable) -> str:
    """The caption: what is compared, what dots and bars are, how to judge them."""
    found = [row.difference for row in table.compared if row.difference]
    parts = ["Test accuracy minus that of the baseline with the same seed"]
    if any(len(each.points) > 1 for each in found):
        parts[0] += ": mean"
        parts.append("single seeds as small dots below it")
    if intervals := _intervals(found):
        parts.append(intervals)
    return " ".join([f"{', '.join(parts)}.", *_judged(found), *_together(table), *_marked(table)])


def _intervals(found: list[Difference]) -> str:
    levels = " and ".join(dict.fromkeys(level_of(each) for each in sorted(found, key=lambda each: each.level or 0)))
    if any(each.over_seeds and each.over_seeds_and_images for each in found):
        return f"{levels} intervals over seeds and test images (thin) and over seeds alone (thick)"
    kinds = ["seeds"] if any(each.over_seeds for each in found) else []
    kinds += ["test images"] if any(each.over_seeds_and_images for each in found) else []
    plural = "s" if len(found) > 1 else ""
    return f"{levels} interval{plural} over {' or '.join(kinds)}" if kinds else ""


def _judged(found: list[Difference]) -> Iterator[str]:
    if any(each.over_seeds for each in found):
        yield "A difference is within noise if one of its intervals holds 0, else it stands out."
    if not all(each.over_seeds for each in found):
        yield f"{ONE_SEED}."


def _together(table: DataTable) -> Iterator[str]:
    found = {kind: len(family) for kind, family in families(table).items() if family}
    several = {kind: number for kind, number in found.items() if number > 1}
    if len(several) == 1:
        ((kind, number),) = several.items()
        which = kind if len(found) > 1 else "differences"
        yield f"The intervals of the {number} {which} hold together with 95 % (Bonferroni)."
    elif several:
        each = " and ".join(f"those of the {number} {kind}" for kind, number in several.items())
        yield f"Intervals hold together with 95 %, {each} for themselves (Bonferroni)."


def _marked(table: DataTable) -> Iterator[str]:
    if marks := sorted({row.mark for row in table.compared if row.mark}):
        yield f"{' and '.join(marks)}: chosen on validation data."
