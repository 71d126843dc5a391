"""Colours and marks: one for each method, the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped import options

from kdexp.configuration.roles import PARTS
from kdexp.page.marks import COLOURS, NAMES, ON_DARK, SHAPES, marks
from kdexp.page.symbols import PATHS

NOT_ROWS = ("distilled", "untrained_teacher", "pretraining")


def look(mark):
    return mark.colour, mark.shape


def test_every_method_and_every_row_of_a_table_has_its_own_look():
    names = [*options("distillation"), *(role for role in PARTS if role not in NOT_ROWS)]
    found = marks(names)
    assert set(names) <= set(NAMES) | {"teacher", "baseline"}, "append new methods to kdexp.page.marks.NAMES"
    assert len({look(mark) for mark in found.values()}) == len(found) == len(set(names))


OFTEN_COMPARED = (
    ("kd", "dkd", "hint", "at", "rkd", "crd", "simkd"),
    ("kd", "dkd", "fitnet", "at", "rkd", "crd", "simkd"),
    ("kd", "fixmatch", "uda", "mean_teacher", "mpl"),
)


@pytest.mark.parametrize("names", OFTEN_COMPARED)
def test_methods_that_are_often_compared_differ_in_colour(names):
    assert len({mark.colour for name, mark in marks(names).items() if name in names}) == len(names)


@given(st.sets(st.text(min_size=1), max_size=20), st.sets(st.sampled_from(NAMES)))
def test_own_methods_get_a_look_of_their_own(own, shipped):
    found = marks(own | shipped)
    assert len({look(mark) for mark in found.values()}) == len(found)
    assert all(found[name] == marks([name])[name] for name in shipped), "independent of what else is on the page"


def test_a_single_own_method_looks_the_same_on_every_page():
    assert marks(["mine"])["mine"] == marks(["kd", "mine", "at"])["mine"]


def luminance(colour):
    """The relative luminance of WCAG 2.1."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_are_seen_on_dark_pages():
    assert len(COLOURS) == len(ON_DARK)
    assert all((luminance(colour) + 0.05) / (luminance("#16181b") + 0.05) > 4.5 for colour in ON_DARK)


def test_every_shape_can_be_drawn_on_a_page():
    assert {"s", *SHAPES} == set(PATHS)
