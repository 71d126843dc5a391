"""The list of a sweep's jobs, `jobs.json`, with everything that a process elsewhere needs to run them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from kdexp.errors import BadFile
from kdexp.files import at_home, write_whole
from kdexp.store.run_files import JOBS, Jobs
from kdexp.store.schema import read_json

LONGEST_PATH, LONGEST_NETWORK = 2_000, 10**5
"""Characters of a path and of a network's description in the list of jobs."""


class ListedJob(NamedTuple):
    """A job of a sweep: its number, its overrides, and the name of its folder in the sweep's folder."""

    number: int
    overrides: tuple[str, ...]
    folder: str


class Source(NamedTuple):
    """Where a sweep's YAML files and modules come from: the flags of its command."""

    config_dir: str | None = None
    config_name: str = "config"


SHIPPED = Source()


@dataclass(frozen=True)
class JobList:
    """What `jobs.json` says; the paths in it are absolute."""

    folder: Path
    jobs: tuple[ListedJob, ...]
    command: tuple[str, ...] = ()
    cwd: str = ""
    """The folder that the command was typed in, which relative paths begin at; empty if an older version wrote the list."""
    source: Source = SHIPPED
    stores: tuple[str, ...] = ()
    by_workers: bool = False
    """Whether its jobs are left to workers, so that the same command comes back to this folder."""
    forced: bool = False
    layers: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    """The teacher layers that all jobs together read, by network and view (see `kdexp.experiment.lookahead`)."""
    search: tuple[str, ...] = ()
    """The overrides of the search whose folder this is; its jobs are listed once its trials have ended."""

    @cached_property
    def _common(self) -> set[str]:
        return set.intersection(*(set(job.overrides) for job in self.jobs))

    def title(self, job: ListedJob) -> str:
        """A job's position and the overrides that not all jobs have, such as `3/8  seed=1`."""
        words = " ".join(word for word in job.overrides if word not in self._common)
        return f"{job.number + 1}/{len(self.jobs)}  {words}".rstrip()

    def folder_of(self, job: ListedJob) -> Path:
        """The job's run folder."""
        return self.folder / job.folder


def absolute(path: str | Path) -> str:
    """The path from the root, without following links, which other machines may have elsewhere."""
    return os.path.abspath(at_home(path))  # noqa: PTH100


def write_jobs(
    folder: Path,
    jobs: Iterable[ListedJob],
    command: Sequence[str],
    configs: Iterable[Mapping[str, Any]],
    layers: Mapping[tuple[str, str], list[str]],
    source: Source,
    *,
    by_workers: bool,
    search: Iterable[str] = (),
) -> JobList:
    """Writes the list of jobs into a sweep's folder; raises `OSError`."""
    configs = list(configs)
    stores = list(dict.fromkeys(absolute(config["store"]) for config in configs))
    listed = JobList(
        folder,
        tuple(jobs),
        tuple(command),
        str(Path.cwd()),
        source._replace(config_dir=absolute(source.config_dir) if source.config_dir else None),
        tuple(stores),
        by_workers,
        any(config["force"] for config in configs),
        layers,
        tuple(search),
    )
    _write(listed)
    return listed


def add_jobs(listed: JobList, jobs: Iterable[ListedJob], layers: Mapping[tuple[str, str], list[str]]) -> JobList:
    """Writes the jobs of a search whose trials have ended into its list; raises `OSError`."""
    added = replace(listed, jobs=tuple(jobs), layers=layers)
    _write(added)
    return added


def _write(listed: JobList) -> None:
    write_whole(listed.folder / JOBS, json.dumps(_content(listed), indent=1), lasting=True)


def _content(listed: JobList) -> dict[str, Any]:
    """What is written; paths and names that no reader would accept are left out, and workers with them."""
    paths = [listed.cwd, *filter(None, listed.source), *listed.stores]
    places = {"cwd": listed.cwd, **listed.source._asdict(), "stores": list(listed.stores)}
    known = {at: names for at, names in listed.layers.items() if len(at[0]) <= LONGEST_NETWORK}
    return {
        "command": list(listed.command),
        **(places if all(map(_is_readable, paths)) else {}),
        "by_workers": listed.by_workers,
        "forced": listed.forced,
        **({"search": list(listed.search)} if listed.search else {}),
        "layers": [{"network": network, "view": view, "layers": names} for (network, view), names in known.items()],
        "jobs": [{"number": job.number, "overrides": list(job.overrides), "folder": job.folder} for job in listed.jobs],
    }


def _is_readable(path: str) -> bool:
    """Whether a path is UTF-8 and not too long."""
    return len(path) <= LONGEST_PATH and not re.search("[\ud800-\udfff]", path)


def read_jobs(folder: Path) -> JobList:
    """Reads the list of jobs in a sweep's folder; raises `BadFile`."""
    found = read_json(folder / JOBS, Jobs)
    if not found["jobs"] and not found.get("search"):
        raise BadFile(f"{folder / JOBS} is damaged: it lists no jobs")
    jobs = (ListedJob(number, tuple(job["overrides"]), job["folder"]) for number, job in enumerate(found["jobs"]))
    layers = {(read["network"], read["view"]): read["layers"] for read in found.get("layers", [])}
    return JobList(
        Path(absolute(folder)),
        tuple(jobs),
        tuple(found.get("command", [])),
        found.get("cwd", ""),
        Source(found.get("config_dir"), found.get("config_name", "config")),
        tuple(found.get("stores", [])),
        found.get("by_workers", False),
        found.get("forced", False),
        layers,
        tuple(found.get("search", [])),
    )
