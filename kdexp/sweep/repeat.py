"""Commands that repeat jobs, or run them with new seeds."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from itertools import count, islice
from pathlib import Path

from kdexp.errors import BadFile
from kdexp.store.run_files import JOBS, Jobs
from kdexp.store.schema import read_json
from kdexp.sweep.read import Job

SEED = "seed="

FRESH_SEEDS = 3
"""Smallest number of new seeds in a command."""


def commands(jobs: Sequence[Job]) -> list[str]:
    """Commands that repeat these jobs: one if they differ only in their seed, else one per job."""
    seeds = [[text.removeprefix(SEED) for text in job.overrides if text.startswith(SEED)] for job in jobs]
    rests = [[text for text in job.overrides if not text.startswith(SEED)] for job in jobs]
    if len(jobs) > 1 and all(rest == rests[0] for rest in rests) and all(len(each) == 1 for each in seeds):
        together = SEED + ",".join(seed for (seed,) in seeds)
        return [shlex.join(["kdexp", *_options(jobs[0].folder.parent), "-m", *rests[0], together])]
    return [shlex.join(["kdexp", *_options(job.folder.parent), *job.overrides]) for job in jobs]


def used_seeds(jobs: Sequence[Job]) -> set[int]:
    """The student seeds of all these jobs, including those that never started."""
    given = {text.removeprefix(SEED) for job in jobs for text in job.overrides if text.startswith(SEED)}
    return {int(seed) for seed in given if seed.isdecimal()} | {job.config["seed"] for job in jobs if "seed" in job.config}


def fresh_command(jobs: Sequence[Job], used: Collection[int]) -> str:
    """Command that runs these jobs, which differ only in their seed, with as many seeds that are not in `used`."""
    rest = [text for text in jobs[0].overrides if not text.startswith(SEED)]
    seeds = islice((seed for seed in count() if seed not in used), max(FRESH_SEEDS, len(jobs)))
    (command,) = commands([replace(jobs[0], overrides=(*rest, f"{SEED}{seed}")) for seed in seeds])
    return command


@cache
def _options(folder: Path) -> list[str]:
    """Options of a sweep's command that say where more YAML files are, which its jobs' overrides don't include."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    arguments, _ = parser.parse_known_args(command_words(folder))
    return [f"--{name.replace('_', '-')}={value}" for name, value in vars(arguments).items() if value]


def command_words(folder: Path) -> list[str]:
    """The arguments of the command that started the sweep in this folder; none if there is no sweep."""
    try:
        return list(read_json(folder / JOBS, Jobs).get("command", []))
    except BadFile:  # already reported when the sweep was read
        return []
