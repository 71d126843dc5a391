"""The colour and mark of each method, the same in every picture and on every page."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A")
"""Okabe and Ito (2008), except yellow, which is faint on white; they differ in grey and for the colour-blind."""
ON_DARK = ("#4DA6E0", "#FF8A3D", "#2FC79A", "#E29CC4", "#F5B83D", "#8FD0F5", "#C98B4B")
"""The same hues for dark backgrounds."""
SHAPES = ("o", "D", "^", "v", "P", "X", "<", ">", "p", "*", "d")
"""By matplotlib's letters."""
DASHES: tuple[tuple[int, ...], ...] = (
    *((), (6, 3), (6, 2, 1, 2), (1, 2), (10, 2), (4, 2, 1, 2, 1, 2), (2, 2), (10, 4)),
    *((3, 1), (8, 2, 3, 2), (1, 1, 4, 1)),
)
"""Lengths of strokes and gaps in line widths; none is a solid line."""

NAMES = (
    *("kd", "dkd", "rkd", "hint", "vid", "at", "crd"),
    *("mse_logits", "sp", "srrl", "fitnet", "simkd", "semckd", "reviewkd"),
    *("cosine", "mutual", "sum", "label_smoothing", "none", "random_teacher", "self_teacher"),
    *("from_scratch", "frozen_backbone", "int8", "function_matching", "fixmatch", "strong_labels", "all_labels"),
    *("pi_model", "temporal_ensembling", "mean_teacher", "vat", "ict", "mixmatch", "remixmatch"),
    *("feature_cosine", "uda", "feature_pretraining", "mpl", "pretrained"),
)
"""Methods and controls, a column for each colour: append new ones, others keep their marks.

Those that are compared most often with each other and with `kd` stand in different columns.
"""
_ALL = len(COLOURS) * len(SHAPES)


@dataclass(frozen=True)
class Mark:
    """How a method is drawn.

    `name` is that of its colour on a page: `k` and a number, or `t` for the teacher and `b` for the baseline.
    """

    colour: str
    on_dark: str
    shape: str
    dashes: tuple[int, ...]
    name: str


TEACHER = Mark("#000000", "#FFFFFF", "s", (), "t")
BASELINE = Mark("#6E6E6E", "#A8A8A8", "o", (8, 2), "b")


def marks(names: Iterable[str]) -> dict[str, Mark]:
    """The marks of methods by name, or of `teacher`, `baseline` and the controls.

    Colour and shape together are unique among `NAMES` and on every page. Those of another method follow from its name, unless
    another method of the same page has them.
    """
    found = {"teacher": TEACHER, "baseline": BASELINE}
    taken: set[int] = set(range(len(NAMES)))
    for name in sorted(set(names) - set(found)):
        number = NAMES.index(name) if name in NAMES else _free(name, taken)
        taken.add(number)
        found[name] = _numbered(number)
    return found


def _free(name: str, taken: set[int]) -> int:
    room = _ALL - len(NAMES)
    start = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    numbers = [len(NAMES) + (start + step) % room for step in range(room)]
    return next((number for number in numbers if number not in taken), numbers[0])


def _numbered(number: int) -> Mark:
    """Seven colours and eleven shapes have no common divisor, so that all their pairs occur."""
    colour, shape = number % len(COLOURS), number % len(SHAPES)
    return Mark(COLOURS[colour], ON_DARK[colour], SHAPES[shape], DASHES[shape], f"k{colour}")


def palette(*, dark: bool) -> str:
    """CSS that gives the classes of all marks their colour."""
    every = {mark.name: mark for mark in (TEACHER, BASELINE, *map(_numbered, range(len(COLOURS))))}
    return " ".join(f".{name}{{color:{mark.on_dark if dark else mark.colour}}}" for name, mark in every.items())
