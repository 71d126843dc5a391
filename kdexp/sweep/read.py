"""Reads the jobs of sweeps and runs from disk, finished or not, and the stored results that they name."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdexp.configuration.roles import PARTS, node_at, role_spec
from kdexp.device.garbage import no_collection
from kdexp.errors import BadFile
from kdexp.report.published import published_problems
from kdexp.store.run_files import Configuration, Jobs, Searched, Status, Table
from kdexp.store.run_state import FINISHED, KILLED, RUNNING, runner
from kdexp.store.schema import is_small, read_json, read_text, require
from kdexp.store.spec import alike
from kdexp.store.stored import RESULT, StoredLearner, other_format, read_result, under_its_key
from kdexp.sweep.searched import JOURNAL, SEARCH
from kdexp.text.characters import one_line

JOBS = "jobs.json"
NEVER_STARTED, STILL_RUNNING, DAMAGED = "never started", "still running", "damaged"

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NothingToReport(ValueError):
    """Folders without runs; the message has a sentence per folder."""


@dataclass(frozen=True)
class Result:
    """A finished learner from the store; accuracies are fractions of 1."""

    key: str
    folder: Path
    model: str
    method: str
    dataset: str
    spec: dict[str, Any]
    parameters: int
    test: float
    """Test accuracy; nan for a teacher whose classifier is not used."""
    validation: float | None
    balanced: float | None = None
    """Mean test accuracy of the classes, if they are imbalanced."""
    majority: float | None = None
    """Share of the largest class in the test images, if the classes are imbalanced."""
    logits: str = ""
    """Digest of its file of test logits."""
    trained_at: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    of_labels: dict[str, Any] = field(default_factory=dict)
    """Numbers of images with and without a label (`few_labels`, `unlabelled` of the stored result), where some have none."""

    @property
    def seed(self) -> int:
        """Seed of its initial weights and batch order."""
        return int(self.spec["seed"])


@dataclass(frozen=True)
class Job:
    """A job of a sweep, or a single run: its overrides, its state, and the keys of its finished learners."""

    folder: Path
    overrides: tuple[str, ...]
    state: str
    """`finished`, `failed`, `interrupted`, `killed`, `still running`, `never started` or `damaged`."""
    reason: str
    config: dict[str, Any] = field(default_factory=dict)
    learners: dict[str, str] = field(default_factory=dict)
    """Keys by role; all of them are in `Sweep.results`."""
    latencies: dict[str, float] = field(default_factory=dict)
    """Milliseconds per image by role, if measured."""


@dataclass
class Sweep:
    """Everything that was read: jobs in order, results by key, and a sentence for each result that can't be used.

    `damaged` has a sentence for each other damaged file.
    """

    folders: list[Path]
    jobs: list[Job] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    searches: dict[Path, dict[str, Any]] = field(default_factory=dict)
    """What `search.json` says, by the folder of a search."""

    def add_result(self, path: Path) -> bool:
        """Reads the learner in a folder of a store; returns whether it can be used, from here or from another store."""
        if path.name not in self.results:
            try:
                self.results[path.name] = result_in(path)
                self.unusable.pop(path.name, None)
            except BadFile as error:
                self.unusable[path.name] = f"{error}; the same command will train it again"
        return path.name in self.results


@no_collection()
def read(folders: Iterable[str | Path]) -> Sweep:
    """Reads sweeps, runs, and folders of either; raises `NothingToReport` that names every folder without any.

    Files are checked against their digests, except weights: `kdexp-store verify` reads these too.
    """
    sweep = Sweep([Path(folder) for folder in folders])
    places = {folder: list(_places(folder, sweep)) for folder in sweep.folders}
    if empty := [folder for folder, found in places.items() if not found]:
        raise NothingToReport("\n".join([*sweep.damaged, *map(_refusal, empty)]))
    unique = {folder.resolve(): (folder, overrides) for found in places.values() for folder, overrides in found}
    jobs = [_read_job(folder, overrides, sweep) for folder, overrides in unique.values()]
    done = {job.overrides for job in jobs if job.state == FINISHED}
    sweep.jobs = [job for job in jobs if job.state == FINISHED or job.overrides not in done]
    return sweep


def _refusal(folder: Path) -> str:
    if not folder.is_dir():
        return f"{str(folder)!r}: {'is a file; name a folder' if folder.exists() else 'no such folder'}"
    if (folder / JOURNAL).exists():
        return f"{str(folder)!r}: this search has not finished its trials; the same command goes on, and ends with the table"
    return f"{str(folder)!r}: has neither a sweep nor runs; name an output_dir, or a folder in its runs/ or sweeps/"


def _places(folder: Path, sweep: Sweep, depth: int = 2) -> Iterator[tuple[Path, tuple[str, ...] | None]]:
    """Run folders with their overrides, if a sweep lists them; a sweep's folders that don't exist yet are included.

    If the list of jobs is damaged, only existing folders are found.
    """
    if listed := _read(folder / JOBS, Jobs, sweep, "; jobs of this sweep that have no folder are not counted"):
        yield from ((folder / job["folder"], tuple(job["overrides"])) for job in listed["jobs"])
        if search := _read(folder / SEARCH, Searched, sweep, "; it is unknown how this search chose its values"):
            sweep.searches[folder] = search
    elif (folder / "config.yaml").exists():
        yield folder, None
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            yield from _places(child, sweep, depth - 1)


def _read(path: Path, kind: Any, sweep: Sweep, consequence: str) -> dict[str, Any]:
    """The content of a file, empty if it doesn't exist or is damaged; damage is noted in the sweep."""
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
        why = f"{process} has not started it yet" if process else "the sweep ended before this job started"
        return Job(folder, overrides or (), NEVER_STARTED, why)
    if overrides is None:
        overrides = _command(folder / "command.txt", sweep)
    table = _read(folder / "table.json", Table, sweep, "; the same command will write it again")
    status = _read(folder / "status.json", Status, sweep, "; it is unknown how the job ended")
    rows = {row["role"]: row for row in table.get("rows", [])}
    config = _config(folder / "config.yaml", rows, sweep)
    finished = {role: row["key"] for role, row in rows.items() if row["status"] == "finished"}
    usable = {role: key for role, key in finished.items() if sweep.add_result(folder / table["store"] / key)}
    for key in usable.values():
        _add_sources(folder / table["store"], key, sweep)
    state, why = (DAMAGED, "") if len(sweep.damaged) > before else _state(folder, status, rows)
    latencies = {role: row["latency_ms"] for role, row in rows.items() if row.get("latency_ms") is not None}
    return Job(folder, overrides, state, why, config, usable, latencies)


def _add_sources(store: Path, key: str, sweep: Sweep) -> None:
    """Reads the teacher of a learner, and the pretrained one that it starts from, if the store has them; they need no row."""
    spec = sweep.results[key].spec
    for source in (spec["teacher"], spec.get("start")):
        if source and source not in sweep.results and (store / source / RESULT).is_file() and sweep.add_result(store / source):
            _add_sources(store, source, sweep)


def _state(folder: Path, status: dict[str, Any], rows: dict[str, Any]) -> tuple[str, str]:
    """State of a job and the reason for it, from its status or else from its table."""
    failed = [f"{role} {row['status']}" for role, row in rows.items() if row["status"] != "finished"]
    state = status.get("state", FINISHED if rows else RUNNING)
    if state == RUNNING and (process := runner(folder) or (runner(folder.parent) if not status else "")):
        return STILL_RUNNING, process
    if state in (RUNNING, KILLED):
        return KILLED, "the same command will resume it"
    if state == FINISHED and not rows:
        return "failed", "its table.json is missing"
    if state == FINISHED and failed:
        return "failed", "; ".join(failed)
    return state, status.get("reason", "")


def result_in(path: Path) -> Result:
    """Reads the result in a folder of the store; raises `BadFile` if it can't be used."""
    stored = under_its_key(read_result(path))
    if other := other_format(stored.result):
        raise BadFile(f"{path / RESULT} {other}")
    return _result(stored)


def _result(stored: StoredLearner) -> Result:
    result = stored.result
    model, method, dataset = (one_line(result[name]) for name in ("model", "method", "dataset"))
    validation = result["history"][-1].get("validation_accuracy") if result["history"] else None
    last = result["test"]["last"]
    imbalance = (last.get("balanced_accuracy"), last.get("majority"))
    rest = (result["files"].get("logits.safetensors", ""), result["trained_at"], result["provenance"])
    test = last["top1"]
    named = (model, method, dataset, alike(result["spec"]), result["parameters"])
    return Result(
        stored.key,
        stored.path,
        *named,
        math.nan if test is None else test,
        validation,
        *imbalance,
        *rest,
        of_labels={name: result[name] for name in ("few_labels", "unlabelled") if name in result},
    )


def _command(path: Path, sweep: Sweep) -> tuple[str, ...]:
    """The overrides of a run's command; none if the file doesn't exist."""
    if not path.exists():
        return ()
    try:
        return tuple(shlex.split(read_text(path))[1:])
    except ValueError as error:
        sweep.damaged.append(str(error) if isinstance(error, BadFile) else f"{path} is damaged: {error}")
        return ()


def _config(path: Path, roles: Iterable[str], sweep: Sweep) -> dict[str, Any]:
    """The resolved configuration with the nodes of these roles; empty if it can't be used."""
    if not path.exists():
        return {}
    try:
        config = parse_config(path)
        for role in roles:
            for node in _nodes_of(role, config):
                if not isinstance(node_at(config, node), dict):
                    raise BadFile(f"{path} is damaged: {node}: missing, although the run has a {role}")
        return config
    except BadFile as error:
        sweep.damaged.append(f"{error}; the settings of this job are unknown")
        return {}


def _nodes_of(role: str, config: dict[str, Any]) -> Iterator[str]:
    """Paths of a learner's nodes. The later ones depend on the first, which the caller checks before it goes on."""
    yield PARTS[role].model
    part = role_spec(role, config)
    yield from (part.method, part.optimizer, part.schedule)


def parse_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a run; raises `BadFile`."""
    try:
        config = yaml.load(read_text(path), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise error if isinstance(error, BadFile) else BadFile(f"{path} is damaged: it is not YAML") from error
    if not is_small(config):
        raise BadFile(f"{path} is damaged: it has too many values, or contains itself")
    require(config, Configuration, path)
    if found := published_problems(config.get("published")):
        raise BadFile(f"{path} is damaged: {found[0]}")
    return config
