"""docs/speed.md is what the benchmarks' files say."""

import json
import runpy
from pathlib import Path

import pytest

from kdexp.device.precision import BF16_SPEED_UPS

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    maker = runpy.run_path(str(ROOT / "docs" / "make_speed.py"))
    assert (ROOT / "docs" / "speed.md").read_text() == maker["page"](), "python docs/make_speed.py writes it anew"


def test_what_a_run_promises_of_bf16_was_measured():
    measured = [json.loads(path.read_text()).values() for path in (ROOT / "benchmarks").glob("bench*_cpu.json")]
    rows = [results["rows"] for phases in measured for results in phases if "kdexp bf16 fast" in results["rows"]]
    gains = [min(found["kdexp"]["seconds"]) / min(found["kdexp bf16 fast"]["seconds"]) for found in rows]
    assert (round(min(gains), 1), round(max(gains), 1)) == BF16_SPEED_UPS


@pytest.fixture
def facts():
    return runpy.run_path(str(ROOT / "docs" / "speed_facts.py"))


def phases_with(facts, **ratios):
    return {
        phase: {who.replace("_", " "): {"ratio_of_minima": value} for who, value in ratios.items()} for phase in facts["PHASES"]
    }


def test_the_page_says_where_a_stronger_loop_is_ahead_as_far_as_it_is(facts):
    peaks = {"fp32": 100, "bf16": 250}
    rows = phases_with(facts, kdexp=3.0, kdexp_bf16_fast=4.0, strong=2.0)
    assert facts["behind"](rows, peaks) == "Plain kdexp is ahead of the strong loop in every row."
    rows["main"]["kdexp"]["ratio_of_minima"] = 1.5
    told = facts["behind"](rows, peaks)
    assert "the whole job (1.5× against 2.0×)" in told and "computes 2.5 times as much" in told
    assert "ahead of it in every row, by 2.0× or more" in told
    rows["kd"]["kdexp bf16 fast"]["ratio_of_minima"] = 1.9
    assert "kdexp is behind it too in distilling" in facts["behind"](rows, peaks)


def test_load_and_start_are_told_where_they_were_measured(facts):
    rows = {"kd": {"kdexp": {"others": [0.02, None]}, "strong": {"others": [0.11]}}}
    assert "between 2 % and 11 %" in facts["load"](rows)
    assert "was not recorded" in facts["load"]({"kd": {"kdexp": {}}})
    assert facts["startup"]({}) == ""
    told = facts["startup"]({"startup": {"rows": {"kdexp": {"seconds": [4.0, 3.0]}, "imports": {"seconds": [2.5]}}}})
    assert "takes 3.0 s; importing" in told and "takes 2.5 s" in told
