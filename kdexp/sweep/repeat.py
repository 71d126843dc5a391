"""Commands that repeat jobs, or carry on with new seeds."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.errors import BadFile
from kdexp.store.descriptions import Jobs
from kdexp.store.schema import read_json
from kdexp.sweep.read import JOBS, Job

if TYPE_CHECKING:
    pass


SEED = "seed="


FRESH_SEEDS = 3
"""Fewer say little, so that a command with fresh seeds has at least so many."""


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
