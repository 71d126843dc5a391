"""The jobs of sweeps and runs as they lie on disk, finished or not, and the stored results that they name."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdexp.configuration.roles import PARTS, node_at, part_of
from kdexp.errors import BadFile
from kdexp.report.published import published_problems
from kdexp.store.descriptions import Configuration, Jobs, Status, Table
from kdexp.store.run_state import FINISHED, KILLED, RUNNING, runner
from kdexp.store.schema import is_small, read_json, read_text, require
from kdexp.store.spec import alike
from kdexp.store.stored import RESULT, StoredLearner, other_format, read_result, under_its_key
from kdexp.text.characters import one_line

JOBS = "jobs.json"
NEVER_STARTED, STILL_RUNNING, DAMAGED = "never started", "still running", "damaged"

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
    """nan for a teacher whose classifier is not used."""
    validation: float | None
    logits: str = ""
    """The digest of the file of its test answers."""
    trained_at: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

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
    """`finished`, `failed`, `interrupted`, `killed`, `still running`, `never started` or `damaged`."""
    reason: str
    config: dict[str, Any] = field(default_factory=dict)
    learners: dict[str, str] = field(default_factory=dict)
    """Role to key; all of them are in `Sweep.results`."""
    latencies: dict[str, float] = field(default_factory=dict)
    """Role to milliseconds for one image, where they were measured."""


@dataclass
class Sweep:
    """Everything that was read: the jobs in order, the results by key, and a sentence for each that can't be used.

    `damaged` has a sentence for each other file that is not what it should be.
    """

    folders: list[Path]
    jobs: list[Job] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def take(self, path: Path) -> bool:
        """Whether the learner in that folder of a store can be used, be it thanks to its copy in another store."""
        if path.name not in self.results:
            try:
                self.results[path.name] = result_in(path)
                self.unusable.pop(path.name, None)
            except BadFile as error:
                self.unusable[path.name] = f"{error}; the same command trains it again"
        return path.name in self.results


def read(folders: Iterable[str | Path]) -> Sweep:
    """Reads sweeps, runs, and folders of either; raises `NothingToReport` naming every folder that holds none.

    What a file says is believed if it agrees with its digest; `kdexp-store verify` also reads the weights.
    """
    sweep = Sweep([Path(folder) for folder in folders])
    places = {folder: list(_places(folder, sweep)) for folder in sweep.folders}
    if empty := [folder for folder, found in places.items() if not found]:
        raise NothingToReport("\n".join([*sweep.damaged, *map(_refusal, empty)]))
    met = {folder.resolve(): (folder, overrides) for found in places.values() for folder, overrides in found}
    jobs = [_read_job(folder, overrides, sweep) for folder, overrides in met.values()]
    done = {job.overrides for job in jobs if job.state == FINISHED}
    sweep.jobs = [job for job in jobs if job.state == FINISHED or job.overrides not in done]
    return sweep


def _refusal(folder: Path) -> str:
    if not folder.is_dir():
        return f"{str(folder)!r}: no such folder"
    return f"{str(folder)!r}: holds neither a sweep nor runs; give an output_dir or any folder in its runs/ and sweeps/"


def _places(folder: Path, sweep: Sweep, depth: int = 2) -> Iterator[tuple[Path, tuple[str, ...] | None]]:
    """Run folders, even those that are not there yet, with their overrides where a sweep tells them.

    Of a sweep whose list of jobs is damaged those that are there.
    """
    if listed := _told(folder / JOBS, Jobs, sweep, "; jobs of this sweep that have no folder are not counted"):
        yield from ((folder / job["folder"], tuple(job["overrides"])) for job in listed["jobs"])
    elif (folder / "config.yaml").exists():
        yield folder, None
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from _places(child, sweep, depth - 1)


def _told(path: Path, kind: Any, sweep: Sweep, consequence: str) -> dict[str, Any]:
    """What a file says, or nothing if it is not there; of a damaged one the sweep gets a sentence."""
    if not path.exists():
        return {}
    try:
        return read_json(path, kind)
    except BadFile as error:
        sweep.damaged.append(f"{error}{consequence}")
        return {}


def _read_job(folder: Path, overrides: tuple[str, ...] | None, sweep: Sweep) -> Job:
    before = len(sweep.damaged)
    if not folder.is_dir():
        process = runner(folder.parent)
        why = f"{process} has not come to it yet" if process else "the sweep ended before its turn"
        return Job(folder, overrides or (), NEVER_STARTED, why)
    if overrides is None:
        overrides = _command(folder / "command.txt", sweep)
    table = _told(folder / "table.json", Table, sweep, "; the same command writes it again")
    status = _told(folder / "status.json", Status, sweep, "; how the job ended is not known")
    rows = {row["role"]: row for row in table.get("rows", [])}
    config = _config(folder / "config.yaml", rows, sweep)
    finished = {role: row["key"] for role, row in rows.items() if row["status"] == "finished"}
    kept = {role: key for role, key in finished.items() if sweep.take(folder / table["store"] / key)}
    for key in kept.values():
        _take_teachers(folder / table["store"], key, sweep)
    state, why = (DAMAGED, "") if len(sweep.damaged) > before else _state(folder, status, rows)
    latencies = {role: row["latency_ms"] for role, row in rows.items() if row.get("latency_ms") is not None}
    return Job(folder, overrides, state, why, config, kept, latencies)


def _take_teachers(store: Path, key: str, sweep: Sweep) -> None:
    """Also those that have no row of their own; one that is gone is known by its key alone."""
    teacher = sweep.results[key].spec["teacher"]
    if teacher and teacher not in sweep.results and (store / teacher / RESULT).is_file() and sweep.take(store / teacher):
        _take_teachers(store, teacher, sweep)


def _state(folder: Path, status: dict[str, Any], rows: dict[str, Any]) -> tuple[str, str]:
    """How a job ended, and why it did not end well: as it says itself, else as its table shows."""
    failed = [f"{role} {row['status']}" for role, row in rows.items() if row["status"] != "finished"]
    state = status.get("state", FINISHED if rows else RUNNING)
    if state == RUNNING and (process := runner(folder) or (runner(folder.parent) if not status else "")):
        return STILL_RUNNING, process
    if state in (RUNNING, KILLED):
        return KILLED, "the same command resumes it"
    if state == FINISHED and not rows:
        return "failed", "its table.json is missing"
    if state == FINISHED and failed:
        return "failed", "; ".join(failed)
    return state, status.get("reason", "")


def result_in(path: Path) -> Result:
    """The learner in a folder of the store, its other files unread; raises `BadFile` with a sentence if it can't be used."""
    stored = under_its_key(read_result(path))
    if other := other_format(stored.result):
        raise BadFile(f"{path / RESULT} {other}")
    return _result(stored)


def _result(stored: StoredLearner) -> Result:
    told = stored.result
    model, method, dataset = (one_line(told[name]) for name in ("model", "method", "dataset"))
    validation = told["history"][-1].get("validation_accuracy") if told["history"] else None
    rest = (told["files"].get("logits.safetensors", ""), told["trained_at"], told["provenance"])
    test = told["test"]["last"]["top1"]
    named = (model, method, dataset, alike(told["spec"]), told["parameters"])
    return Result(stored.key, stored.path, *named, math.nan if test is None else test, validation, *rest)


def _command(path: Path, sweep: Sweep) -> tuple[str, ...]:
    """The words of a run's command behind its name; none if the file is not there."""
    if not path.exists():
        return ()
    try:
        return tuple(shlex.split(read_text(path))[1:])
    except ValueError as error:
        sweep.damaged.append(str(error) if isinstance(error, BadFile) else f"{path} is damaged: {error}")
        return ()


def _config(path: Path, roles: Iterable[str], sweep: Sweep) -> dict[str, Any]:
    """A resolved configuration that has the nodes of these roles, or nothing if it can't be used."""
    if not path.exists():
        return {}
    try:
        config = parse_config(path)
        for role in roles:
            for node in _nodes_of(role, config):
                if not isinstance(node_at(config, node), dict):
                    raise BadFile(f"{path} is damaged: {node}: missing, for the run has a {role}")
        return config
    except BadFile as error:
        sweep.damaged.append(f"{error}; the settings of this job are not known")
        return {}


def _nodes_of(role: str, config: dict[str, Any]) -> Iterator[str]:
    """The paths of a learner's nodes; those behind the first can be told once that is seen to be there."""
    yield PARTS[role].model
    part = part_of(role, config)
    yield from (part.method, part.optimizer, part.schedule)


def parse_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a run; raises `BadFile`."""
    try:
        config = yaml.load(read_text(path), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise error if isinstance(error, BadFile) else BadFile(f"{path} is damaged: it is no YAML") from error
    if not is_small(config):
        raise BadFile(f"{path} is damaged: it holds too many values, or itself")
    require(config, Configuration, path)
    if found := published_problems(config.get("published")):
        raise BadFile(f"{path} is damaged: {found[0]}")
    return config
