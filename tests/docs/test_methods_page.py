"""docs/methods.md is what the code and the YAML files say."""

import json
import runpy
from pathlib import Path

import pytest
from shipped import options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(ROOT / "docs" / "make_methods.py"))


def test_the_page_is_current(maker):
    assert (ROOT / "docs" / "methods.md").read_text() == maker["page"](), "python docs/make_methods.py writes it anew"


def test_every_method_was_measured():
    told = json.loads((ROOT / "benchmarks" / "methods.json").read_text())
    assert sorted(told["ratios"]) == options("distillation")


def test_every_method_says_whose_it_is_and_what_it_minimises(maker):
    for method in options("distillation"):
        source, objective = maker["said"]((ROOT / "conf" / "distillation" / f"{method}.yaml").read_text())
        assert any(digit in source for digit in "12") or method in ("none", "sum")
        assert "CE" in objective or method == "none"
