"""docs/speed.md is what the benchmarks' files say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    maker = runpy.run_path(str(ROOT / "docs" / "make_speed.py"))
    assert (ROOT / "docs" / "speed.md").read_text() == maker["page"](), "python docs/make_speed.py writes it anew"
