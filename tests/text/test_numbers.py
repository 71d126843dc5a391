"""Numbers in tables: one minus sign, no negative zero, thousands separated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexp.text.numbers import MISSING, count, duration, percent, plus_minus, signed, written

PATTERNS = st.sampled_from(["+.2f", "+,.2f", ",.3f", ".1f", "+,.1f", ",.0f"])


@given(st.floats(-1e9, 1e9), PATTERNS)
def test_a_number_keeps_its_value_has_one_minus_sign_and_no_negative_zero(value, pattern):
    text = written(value, pattern)
    plain = float(text.replace("−", "-").replace(",", ""))
    assert plain == float(format(value, pattern).replace(",", "")) and "-" not in text
    assert ("−" in text) == (plain < 0)


@given(st.integers(-(10**9), 10**9))
def test_integers_are_separated_by_thousands(value):
    assert written(value, ",d") == f"{value:,}".replace("-", "−")


def test_what_is_unknown_is_a_dash():
    assert {written(None, ".2f"), percent(None), signed(None), duration(None), plus_minus(None, None)} == {MISSING}


@pytest.mark.parametrize(("value", "text"), [(-0.004, "+0.00"), (-0.005001, "−0.01"), (1234.5, "+1,234.50"), (0.0, "+0.00")])
def test_differences_have_a_sign(value, text):
    assert signed(value) == text


def test_counts_have_their_singular():
    assert [count(1, "epoch"), count(2, "epoch"), count(1280, "batch", "batches")] == ["1 epoch", "2 epochs", "1,280 batches"]
