"""What lies behind the rows of a comparison: their jobs, the commands that repeat them, and what their results tell."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdexp.stored import RESULT
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.configuration import Configuration
from kdexp.sweep.reading import JOBS, Job, Sweep, read_json

SEED = "seed="


class Sources:
    """Finds what a row was made from."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self._jobs = {str(job.folder): job for job in sweep.jobs}

    def jobs(self, row: Configuration) -> list[Job]:
        """The jobs that it was read from, by seed."""
        return [self._jobs[folder] for folder in row.jobs]

    def job(self, folder: str) -> Job:
        """The job in this folder."""
        return self._jobs[folder]

    def result(self, key: str) -> dict[str, Any]:
        """Everything that the store tells of a learner."""
        told: dict[str, Any] = json.loads((self.sweep.results[key].folder / RESULT).read_text())
        return told

    def latencies(self, table: DataTable) -> dict[tuple[str, int], list[float]]:
        """Milliseconds for one image, each time it was measured (`latency=true`), by network: model and parameters."""
        found = defaultdict[tuple[str, int], list[float]](list)
        for row in table.rows:
            for job in self.jobs(row):
                if job.config.get("latency"):
                    found[row.model, row.parameters].append(_latency(job.folder / "table.json", row.role))
        return found


def _latency(path: Path, role: str) -> float:
    (value,) = [float(row["latency_ms"]) for row in json.loads(path.read_text())["rows"] if row["role"] == role]
    return value


def commands(jobs: Sequence[Job]) -> list[str]:
    """What repeats these jobs: one command where they differ in their seed alone, else one each."""
    seeds = [[text.removeprefix(SEED) for text in job.overrides if text.startswith(SEED)] for job in jobs]
    rests = [[text for text in job.overrides if not text.startswith(SEED)] for job in jobs]
    if len(jobs) > 1 and all(rest == rests[0] for rest in rests) and all(len(each) == 1 for each in seeds):
        together = SEED + ",".join(seed for (seed,) in seeds)
        return [shlex.join(["kdexp", *_options(jobs[0].folder.parent), "-m", *rests[0], together])]
    return [shlex.join(["kdexp", *_options(job.folder.parent), *job.overrides]) for job in jobs]


@cache
def _options(folder: Path) -> list[str]:
    """Where the command of a sweep said that more YAML files are; its jobs' overrides don't tell."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    asked, _ = parser.parse_known_args(asked_for(folder))
    return [f"--{name.replace('_', '-')}={value}" for name, value in vars(asked).items() if value]


def asked_for(folder: Path) -> list[str]:
    """The words of the command that a sweep in this folder was begun with; none if it holds no sweep."""
    return list(read_json(folder / JOBS).get("command", []))
