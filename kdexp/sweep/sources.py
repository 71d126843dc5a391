"""What lies behind the rows of a comparison: their jobs, the commands that repeat them, and what their results tell."""

from __future__ import annotations

import argparse
import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.errors import BadFile
from kdexp.store.descriptions import Jobs
from kdexp.store.schema import read_json
from kdexp.store.stored import read_result
from kdexp.sweep.reading import JOBS, Job, Result, Sweep

if TYPE_CHECKING:
    from kdexp.sweep.comparison import DataTable
    from kdexp.sweep.configuration import Configuration

SEED = "seed="
FRESH_SEEDS = 3
"""Fewer say little, so that a command with fresh seeds has at least so many."""


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

    def result(self, key: str) -> Result:
        """What was read of a learner."""
        return self.sweep.results[key]

    def history(self, key: str) -> list[dict[str, float]]:
        """A learner's epochs, read again from the store."""
        return list(read_result(self.sweep.results[key].folder).result["history"])

    def latencies(self, table: DataTable) -> dict[tuple[str, int], list[float]]:
        """Milliseconds for one image, each time it was measured (`latency=true`), by network: model and parameters."""
        found = defaultdict[tuple[str, int], list[float]](list)
        for row in table.rows:
            for job in self.jobs(row):
                if job.config.get("latency") and row.role in job.latencies:
                    found[row.model, row.parameters].append(job.latencies[row.role])
        return found


def commands(jobs: Sequence[Job]) -> list[str]:
    """What repeats these jobs: one command where they differ in their seed alone, else one each."""
    seeds = [[text.removeprefix(SEED) for text in job.overrides if text.startswith(SEED)] for job in jobs]
    rests = [[text for text in job.overrides if not text.startswith(SEED)] for job in jobs]
    if len(jobs) > 1 and all(rest == rests[0] for rest in rests) and all(len(each) == 1 for each in seeds):
        together = SEED + ",".join(seed for (seed,) in seeds)
        return [shlex.join(["kdexp", *_options(jobs[0].folder.parent), "-m", *rests[0], together])]
    return [shlex.join(["kdexp", *_options(job.folder.parent), *job.overrides]) for job in jobs]


def used_seeds(jobs: Sequence[Job]) -> set[int]:
    """The students' seeds of all these jobs, also of those that never started."""
    given = {text.removeprefix(SEED) for job in jobs for text in job.overrides if text.startswith(SEED)}
    return {int(seed) for seed in given if seed.isdecimal()} | {job.config["seed"] for job in jobs if "seed" in job.config}


def fresh_command(jobs: Sequence[Job], used: Collection[int]) -> str:
    """What trains the configuration of these jobs, which differ in their seed, with as many seeds outside of `used`."""
    rest = [text for text in jobs[0].overrides if not text.startswith(SEED)]
    seeds = islice((seed for seed in count() if seed not in used), max(FRESH_SEEDS, len(jobs)))
    (command,) = commands([replace(jobs[0], overrides=(*rest, f"{SEED}{seed}")) for seed in seeds])
    return command


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
    try:
        return list(read_json(folder / JOBS, Jobs).get("command", []))
    except BadFile:  # reading the sweep said so
        return []
