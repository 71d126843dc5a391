"""docs/speed.md is what the benchmarks' files say."""

import json
import runpy
from pathlib import Path

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
