"""A comparison as one text, in the formats that `kdexp-report` prints."""

from __future__ import annotations

from kdexp.sweep.comparison import Comparison
from kdexp.sweep.latex import latex
from kdexp.sweep.origins import Origins
from kdexp.sweep.table import text
from kdexp.sweep.write import csv_of

FORMATS = ("latex", "csv", "md")


def formatted(comparison: Comparison, origins: Origins, form: str) -> str:
    """The tables in one of `FORMATS`."""
    if form == "latex":
        return latex(comparison, origins)
    return csv_of(comparison).replace("\r\n", "\n") if form == "csv" else text(comparison)
