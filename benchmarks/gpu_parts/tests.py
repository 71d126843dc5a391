"""The tests marked `gpu`, counted per file."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpu_parts.context import Context, Item, Row, Skipped
from gpu_parts.process import CUT_OFF, ROOT, python, run

# The project's own options need pytest-xdist; pytest-benchmark, where it is installed, warns about that.
OPTIONS = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:benchmark", "-rfE", "--tb=short", "-v"]

FINE = ("", "exit code 1", "exit code 5")
"""How pytest may end: all passed, some failed, no tests."""


def items(context: Context) -> Iterator[Item]:
    """One per file with such tests."""
    if context.rehearse:
        raise Skipped("a rehearsal has no GPU for them")
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed; pip install pytest")
    paths = files(ROOT / "tests")
    for path in paths:
        yield Item({"tests": str(path.relative_to(ROOT))}, partial(counted, [path], "gpu and not slow", context))
    yield Item({"tests": "those marked slow"}, partial(counted, paths, "gpu and slow", context))


def files(tests: Path) -> list[Path]:
    """The files with tests that need a GPU."""
    return [path for path in sorted(tests.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]


def counted(paths: list[Path], marks: str, context: Context) -> Row:
    """How many tests of some files passed, failed and were skipped; raises `RuntimeError` if it can't be told."""
    report = context.folder / "parts" / "junit.xml"
    report.unlink(missing_ok=True)
    words = [*OPTIONS, "-m", marks, f"--junitxml={report}", f"--rootdir={ROOT}", *map(str, paths)]
    end = run(python("pytest", *words), context.left() - 5, grace=3)
    if not report.exists():
        raise RuntimeError(f"pytest left no report ({end or 'no tests'})")
    return judged(numbers(report), end)


def judged(row: Row, end: str) -> Row:
    """The row with an error if tests failed or pytest itself did, and with a note if it was cut off."""
    if row["failed"]:
        return row | {"error": f"{row['failed']} failed, see the log"}
    if end == CUT_OFF:
        return row | {"note": end}
    return row | {"error": f"pytest: {end}"} if end not in FINE else row


def numbers(report: Path) -> Row:
    """The counts of a report in JUnit's format."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = sum(any(case.find(kind) is not None for kind in ("failure", "error")) for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    seconds = sum(float(case.get("time", 0)) for case in cases)
    return {"passed": len(cases) - failed - skipped, "failed": failed, "skipped": skipped, "s": seconds}
