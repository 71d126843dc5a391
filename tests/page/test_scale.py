"""Axes and their ticks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexp.page.differences import Estimate, axis
from kdexp.page.marks import BASELINE
from kdexp.page.scale import Scale, plain

VALUES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
COSTS = st.floats(1e-3, 1e9)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_a_scale_holds_its_values_and_has_few_round_ticks(values):
    scale = Scale.around(values)
    assert all(0 < scale.at(value) < 1 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 6 and ticks == sorted(ticks) and all(-1e-9 <= scale.at(tick) <= 1 + 1e-9 for tick in ticks)


@given(st.lists(COSTS, min_size=1, max_size=5))
def test_a_logarithmic_scale_holds_its_values_and_has_few_ticks(values):
    scale = Scale.around(values, logarithmic=True)
    assert all(0 < scale.at(value) < 1 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 6 and ticks == sorted(ticks) and all(-1e-9 <= scale.at(tick) <= 1 + 1e-9 for tick in ticks)


def test_ticks_are_those_that_a_person_would_choose():
    assert Scale(90.2, 96.1).ticks() == [91, 92, 93, 94, 95, 96]
    assert Scale(-0.4, 2.2).ticks() == [0, 0.5, 1, 1.5, 2]
    assert Scale(900, 110_000, True).ticks() == [1000, 3000, 10_000, 30_000, 100_000]
    assert plain(-1500.0) == "−1,500"


def test_values_that_are_not_finite_do_not_stretch_a_scale():
    assert Scale.around([math.nan, 1.0, 2.0]) == Scale.around([1.0, 2.0])


def estimate(mean, low, high):
    return Estimate("", BASELINE, mean, "", "", "", interval=(low, high))


@pytest.mark.parametrize("long", [(-300.0, 310.0), (-20.0, 2.0)])
def test_a_long_interval_does_not_push_the_dots_together(long):
    scale = axis([estimate(1.0, -0.5, 2.5), estimate(2.0, *long)])
    assert scale.at(-0.5) > 0 and scale.at(2.5) < 1, "the shorter one is seen as a whole"
    assert scale.high - scale.low < 12


def test_a_single_interval_is_seen_as_a_whole():
    scale = axis([estimate(-0.1, -5.0, 4.8)])
    assert scale.low < -5.0 and scale.high > 4.8
