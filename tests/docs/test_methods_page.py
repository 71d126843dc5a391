"""docs/methods.md agrees with the code and the YAML files."""

import json
import runpy
from pathlib import Path

import pytest
from shipped import options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(ROOT / "docs" / "make_methods.py"))


@pytest.mark.slow
def test_the_page_is_current(maker):
    assert (ROOT / "docs" / "methods.md").read_text() == maker["page"](), "run python docs/make_methods.py"


def test_every_method_was_measured(maker):
    """Of those that read unlabelled images all or none: the page says which."""
    measured = set(json.loads((ROOT / "benchmarks" / "methods.json").read_text())["ratios"])
    few_labels = {method for method in options("distillation") if maker["reads_unlabelled"](method)}
    assert measured | few_labels == set(options("distillation")) and measured & few_labels in (set(), few_labels)
    said = maker["unmeasured"]
    assert said(dict.fromkeys(options("distillation"), 1.0)) == "" and said({"kd": 1.0}) == "; – was not measured"


def test_every_method_states_its_source_and_objective(maker):
    for method in options("distillation"):
        source, objective = maker["source_and_objective"]((ROOT / "conf" / "distillation" / f"{method}.yaml").read_text())
        assert any(digit in source for digit in "12") or method in ("none", "sum")
        assert "CE" in objective or method == "none"
