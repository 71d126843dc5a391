"""`kdexp` run by the parts."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from gpu_parts.process import ROOT

NOISE = ["--config-dir", str(ROOT / "benchmarks" / "conf")]
"""Words that make `dataset=noise` known."""
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended."""


def kdexp(words: list[str], outputs: Path) -> Path:
    """Runs a single job in this process; returns its run folder. Raises `RuntimeError` if it fails."""
    from kdexp.commands import main as cli

    with mock.patch.object(sys, "argv", ["kdexp", *words, f"output_dir={outputs}"]):
        try:
            cli.main()
        except SystemExit as end:
            if end.code == INTERRUPTED:
                raise KeyboardInterrupt from end
            if end.code:
                raise RuntimeError(f"kdexp {' '.join(words)} ended with exit code {end.code}") from end
    return max((outputs / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run's table by role."""
    return {row["role"]: row for row in json.loads((folder / "table.json").read_text())["rows"]}


def losses(folder: Path) -> dict[tuple[str, int], float]:
    """The mean losses of a run by role and epoch."""
    with (folder / "metrics.csv").open() as file:
        return {(line["role"], int(line["epoch"])): float(line["loss"]) for line in csv.DictReader(file)}
