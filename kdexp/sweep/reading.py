"""The jobs of sweeps and runs as they lie on disk, finished or not, and the stored results that they name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdexp.files import reason
from kdexp.run_state import FINISHED, KILLED, RUNNING, runner
from kdexp.spec import FORMAT, alike
from kdexp.stored import RESULT

JOBS = "jobs.json"
NEVER_STARTED, STILL_RUNNING = "never started", "still running"

NEEDED = {"choices", "dataset", "student", "distillation", "baseline", "optimizer", "schedule"}
"""What every configuration has."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NothingToReport(ValueError):
    """Folders that hold no runs; the message has a sentence per folder."""


@dataclass(frozen=True)
class Result:
    """A finished learner as the store tells it; accuracies are shares of 1."""

    key: str
    folder: Path
    model: str
    method: str
    dataset: str
    spec: dict[str, Any]
    parameters: int
    test: float
    validation: float | None

    @property
    def seed(self) -> int:
        """Of its initial weights and batch order."""
        return int(self.spec["seed"])


@dataclass(frozen=True)
class Job:
    """One command of a sweep, or a run of its own: what was asked, how far it got, and the keys of what it finished."""

    folder: Path
    overrides: tuple[str, ...]
    state: str
    """`finished`, `failed`, `interrupted`, `killed`, `still running` or `never started`."""
    reason: str
    config: dict[str, Any] = field(default_factory=dict)
    learners: dict[str, str] = field(default_factory=dict)
    """Role to key; all of them are in `Sweep.results`."""


@dataclass
class Sweep:
    """Everything that was read: the jobs in order, the results by key, and a sentence for each that can't be used."""

    folders: list[Path]
    jobs: list[Job] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def take(self, path: Path) -> bool:
        """Whether the learner in that folder of a store can be used, be it thanks to its copy in another store."""
        if path.name not in self.results:
            try:
                self.results[path.name] = read_result(path)
                self.unusable.pop(path.name, None)
            except ValueError as error:
                self.unusable[path.name] = str(error)
        return path.name in self.results


def read(folders: Iterable[str | Path]) -> Sweep:
    """Reads sweeps, runs, and folders of either; raises `NothingToReport` naming every folder that holds none.

    Files are believed unless they can't be parsed: `kdexp-store verify` reads every byte.
    """
    sweep = Sweep([Path(folder) for folder in folders])
    places = {folder: list(_places(folder)) for folder in sweep.folders}
    if empty := [folder for folder, found in places.items() if not found]:
        raise NothingToReport("\n".join(_refusal(folder) for folder in empty))
    met = {folder.resolve(): (folder, overrides) for found in places.values() for folder, overrides in found}
    jobs = [_read_job(folder, overrides, sweep) for folder, overrides in met.values()]
    done = {job.overrides for job in jobs if job.state == FINISHED}
    sweep.jobs = [job for job in jobs if job.state == FINISHED or job.overrides not in done]
    return sweep


def _refusal(folder: Path) -> str:
    if not folder.is_dir():
        return f"{str(folder)!r}: no such folder"
    return f"{str(folder)!r}: holds neither a sweep nor runs; give an output_dir or any folder in its runs/ and sweeps/"


def _places(folder: Path, depth: int = 2) -> Iterator[tuple[Path, tuple[str, ...] | None]]:
    """Run folders, even those that are not there yet, with their overrides where a sweep tells them."""
    told = read_json(folder / JOBS)
    if told:
        yield from ((folder / job["folder"], tuple(job["overrides"])) for job in told["jobs"])
    elif (folder / "config.yaml").is_file():
        yield folder, None
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from _places(child, depth - 1)


def _read_job(folder: Path, overrides: tuple[str, ...] | None, sweep: Sweep) -> Job:
    if overrides is None:
        command = folder / "command.txt"
        overrides = tuple(shlex.split(command.read_text())[1:]) if command.is_file() else ()
    if not folder.is_dir():
        process = runner(folder.parent)
        why = f"{process} has not come to it yet" if process else "the sweep ended before its turn"
        return Job(folder, overrides, NEVER_STARTED, why)
    table = read_json(folder / "table.json")
    rows = {row["role"]: row for row in table.get("rows", [])}
    state, why = _state(folder, rows)
    finished = {role: row["key"] for role, row in rows.items() if row["status"] == "finished"}
    kept = {role: key for role, key in finished.items() if sweep.take(folder / table["store"] / key)}
    for key in kept.values():
        _take_teachers(folder / table["store"], key, sweep)
    return Job(folder, overrides, state, why, _config(folder / "config.yaml"), kept)


def _take_teachers(store: Path, key: str, sweep: Sweep) -> None:
    """Also those that have no row of their own; one that is gone is known by its key alone."""
    teacher = sweep.results[key].spec["teacher"]
    if teacher and teacher not in sweep.results and (store / teacher / RESULT).is_file() and sweep.take(store / teacher):
        _take_teachers(store, teacher, sweep)


def _state(folder: Path, rows: dict[str, Any]) -> tuple[str, str]:
    """How a job ended, and why it did not end well: as it says itself, else as its table shows."""
    told = read_json(folder / "status.json")
    failed = [f"{role} {row['status']}" for role, row in rows.items() if row["status"] != "finished"]
    state = told.get("state", FINISHED if rows else RUNNING)
    if state == RUNNING and (process := runner(folder) or (runner(folder.parent) if not told else "")):
        return STILL_RUNNING, process
    if state in (RUNNING, KILLED):
        return KILLED, "the same command resumes it"
    if state == FINISHED and not rows:
        return "failed", "its table.json is missing or can't be read"
    if state == FINISHED and failed:
        return "failed", "; ".join(failed)
    return state, told.get("reason", "")


def read_result(path: Path) -> Result:
    """The learner in a folder of the store, its files unverified; raises `ValueError` with a sentence if it can't be used."""
    try:
        told = json.loads((path / RESULT).read_text())
        found = told["spec"]["format"]
        if found == FORMAT:
            named = (told["model"], told["method"], told["dataset"], alike(told["spec"]), told["parameters"])
            validation = told["history"][-1].get("validation_accuracy") if told["history"] else None
            return Result(path.name, path, *named, told["test"]["last"]["top1"], validation)
        what = f" is of format {found}, not {FORMAT}"
    except OSError as error:
        what = f": {reason(error)}"
    except (ValueError, KeyError, TypeError, AttributeError):
        what = " is damaged"
    raise ValueError(f"{path / RESULT}{what}; the same command trains it again")


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run says, or nothing if it is not there or can't be read."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    """A resolved configuration, or nothing if it can't be read or is not of this version."""
    try:
        told = yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return told if isinstance(told, dict) and told.keys() >= NEEDED else {}
