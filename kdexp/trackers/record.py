"""What the trackers have of a run or a sweep: `trackers.json` in its folder, by which the same command goes on later."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from kdexp.errors import BadFile
from kdexp.files import write_whole
from kdexp.store.run_files import JOBS, Jobs, Tracked
from kdexp.store.run_state import FAILED, FINISHED, runner, state_of
from kdexp.store.schema import read_json

RECORD = "trackers.json"


@dataclass
class Record:
    """A run as its trackers know it."""

    name: str
    group: str = ""
    """The sweep that it belongs to, if any; the own run of a sweep has its name here, too."""
    ids: dict[str, str] = field(default_factory=dict)
    """The id of its run, by tracker; empty if a sweep's report could not be sent."""
    epochs: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many epochs of each learner were sent, by tracker."""
    reports: dict[str, str] = field(default_factory=dict)
    """Digest of the report that a sweep has sent, by tracker."""

    def write(self, folder: Path) -> None:
        """Writes the record into a run folder; raises `OSError`."""
        write_whole(folder / RECORD, json.dumps(asdict(self), indent=1))


def record_for(folder: Path, *, anew: bool) -> Record:
    """The record of the run that this one continues, or a new one; also if `anew`, or if the earlier record is damaged."""
    sweep = _sweep(folder)
    inside = folder.relative_to(sweep).as_posix() if sweep else ""
    earlier = [] if anew else _cut_off((sweep or folder).resolve())
    for other in [*(_set_aside(folder) if sweep else ()), *(path / inside for path in earlier)]:
        with suppress(BadFile):
            return _read(other / RECORD)
    first = earlier[-1].name if earlier else (sweep or folder).name
    return Record(f"{first}/{inside}", first) if sweep else Record(first)


def record_of_sweep(folder: Path, *, anew: bool) -> Record:
    """The record of a sweep's own run: the one in its folder, else that of the sweep that it continues, or a new one."""
    with suppress(BadFile):
        return _read(folder / RECORD)
    record = record_for(folder, anew=anew)
    return replace(record, group=record.name)


def ids_inside(sweep: Path, tracker: str) -> list[str]:
    """What a tracker calls the runs of a sweep's jobs and of a search's trials."""
    found: dict[str, None] = {}
    for path in sorted([*sweep.glob(f"*/{RECORD}"), *sweep.glob(f"*/*/{RECORD}")]):
        with suppress(BadFile):
            found |= dict.fromkeys(filter(None, [_read(path).ids.get(tracker)]))
    return list(found)


def _read(path: Path) -> Record:
    found = read_json(path, Tracked)
    return Record(**{name: found[name] for name in Record.__dataclass_fields__ if name in found})


def _sweep(folder: Path) -> Path | None:
    """The sweep that a run folder lies in, if any; the trials of a search have a folder in it."""
    return next((place for place in (folder.parent, folder.parent.parent) if (place / JOBS).is_file()), None)


def _set_aside(folder: Path) -> list[Path]:
    """Folders of the same job of the same sweep that was cut off before, the latest first."""
    job = folder.name.partition("_")[0]
    others = [folder.with_name(job), *folder.parent.glob(f"{job}[._-]*")]
    tracked = [other for other in others if other != folder and (other / RECORD).is_file()]
    same = [other for other in tracked if state_of(other) not in (FINISHED, FAILED)]
    return sorted(same, key=lambda other: (other / RECORD).stat().st_mtime_ns, reverse=True)


@lru_cache(maxsize=8)  # called for each job of a sweep
def _cut_off(folder: Path) -> list[Path]:
    """The runs or sweeps right before this one that have its configuration and were interrupted or killed, the latest first."""
    digest, jobs = folder.name.split("_")[2:3], _jobs(folder)
    before = [other for other in folder.parent.glob(f"*_{''.join(digest)}*") if digest and other.name < folder.name]
    same = (other for other in sorted(before, reverse=True) if _jobs(other) == jobs)
    return list(takewhile(_is_cut_off, same))


def _jobs(folder: Path) -> object:
    """The list of a sweep's jobs; None for a single run; for a damaged list something that equals no other."""
    try:
        return read_json(folder / JOBS, Jobs)["jobs"] if (folder / JOBS).is_file() else None
    except BadFile:
        return object()


def _is_cut_off(folder: Path) -> bool:
    """Whether no process works on a run or sweep that has not come to its end."""
    jobs = _jobs(folder)
    runs = [folder / job["folder"] for job in jobs] if isinstance(jobs, list) else [folder]
    return not runner(folder) and any(state_of(run) not in (FINISHED, FAILED) for run in runs)
