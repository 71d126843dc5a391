"""Turns results into tables: one row per configuration, averaged over seeds, with the best on validation data marked.

`Comparison` holds plain values only; tables, files and pictures are made from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdexp.configuration.roles import PARTS, option
from kdexp.device.garbage import no_collection
from kdexp.report.few_labels import label_remark
from kdexp.report.published import Reference, departures, unsourced
from kdexp.report.shortened import shortenings
from kdexp.sweep.axes import axis_values, varied
from kdexp.sweep.observations import Observation, configurations
from kdexp.sweep.read import FINISHED, Job, Sweep
from kdexp.sweep.repeat import command_words, fresh_command, used_seeds
from kdexp.sweep.row import SweepRow
from kdexp.sweep.searched import chosen_among, sentences
from kdexp.sweep.selection import Group, choose

MANY_INTERVALS = 20
"""With more simultaneous intervals than this, stored logits are not read for them."""


@dataclass
class DataTable:
    """All configurations trained on one data set."""

    dataset: str
    fingerprint: str
    columns: list[str]
    """The keys of `SweepRow.settings` that differ between rows."""
    rows: list[SweepRow]
    tried: dict[str, dict[str, int]]
    """Number of configurations started (finished or not), by student and by `baseline` or option of `distillation`."""
    variants: list[str] = field(default_factory=list)
    """Paths in the specs of rows that look the same but differ there."""

    departures: list[str] = field(default_factory=list)
    """Overrides of jobs that make them a different experiment from the published one."""
    shortened: list[str] = field(default_factory=list)
    """What makes jobs shorter than they should be; see `shortenings`."""
    partly_shortened: bool = False
    """Whether other jobs are complete."""
    unsourced: list[str] = field(default_factory=list)
    """A sentence for each setting of a method that keeps its default because no source gives a value."""

    few_labels: str = ""
    """The sentence about labels that only some of the training images have, if any."""
    searched: list[str] = field(default_factory=list)
    """Sentences on the searches that chose the values of its rows."""

    @property
    def published(self) -> list[tuple[str, Reference | None, int]]:
        """Name, published number and number of seeds of each row."""
        return [(row.drawn_as, row.published, row.n) for row in self.rows]

    @property
    def compared(self) -> list[SweepRow]:
        """Rows with an interval."""
        return [row for row in self.rows if row.difference and row.difference.level]


@dataclass
class Unfinished:
    """A job that is missing from the tables, or from some of them."""

    folder: str
    overrides: list[str]
    name: str
    """Name of its folder, and the overrides that not all jobs share."""
    state: str
    reason: str


@dataclass
class Comparison:
    """The content of a report."""

    folders: list[str]
    jobs: int
    tables: list[DataTable]
    unfinished: list[Unfinished]
    unusable: list[str]
    """A sentence per stored result that can't be used."""
    damaged: list[str] = field(default_factory=list)
    """A sentence per damaged file of a sweep or run."""

    @property
    def complete(self) -> bool:
        """Whether every job is in the tables with all its learners."""
        return not (self.unfinished or self.unusable or self.damaged)


@no_collection()
def fold(sweep: Sweep) -> Comparison:
    """Makes the tables with intervals and marks; reads stored logits for the intervals."""
    blocks = defaultdict[str, list[list[Observation]]](list)
    for observed in configurations(sweep):
        blocks[observed[0].result.spec["data"]["fingerprint"]].append(observed)
    tables = [_table(fingerprint, found, sweep) for fingerprint, found in blocks.items()]
    names = Counter(table.dataset for table in tables)
    for table in tables:
        if names[table.dataset] > 1:
            table.dataset += f" {table.fingerprint[:6]}"
    common = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(sweep.jobs) > 1 else set()
    unfinished = [_unfinished(job, common) for job in sweep.jobs if job.state != FINISHED]
    folders = [str(folder) for folder in sweep.folders]
    return Comparison(
        folders, len(sweep.jobs), tables, unfinished, list(sweep.unusable.values()), list(dict.fromkeys(sweep.damaged))
    )


def _unfinished(job: Job, common: set[str]) -> Unfinished:
    name = " ".join([job.folder.name, *(override for override in job.overrides if override not in common)])
    return Unfinished(str(job.folder), list(job.overrides), name, job.state, job.reason)


def _table(fingerprint: str, observed: list[list[Observation]], sweep: Sweep) -> DataTable:
    order = list(PARTS)
    groups = sorted((Group.of(each) for each in observed), key=lambda group: order.index(group.row.role))
    rows = [group.row for group in groups]
    _name_methods(groups)
    columns = varied((row.role, row.settings) for row in rows)
    variants = _tell_apart(groups, columns)
    for family in choose(groups):
        for group in family:
            if group.row.difference:
                level = 1 - 0.05 / len(family)
                group.pairs.add_intervals(group.row.difference, level, images=len(family) <= MANY_INTERVALS)
    searches = _note_trials(groups, sweep)
    used = used_seeds(sweep.jobs) | {seed for search in sweep.searches.values() for seed in search["seeds"]}
    for group in groups:
        if group.row.mark:
            group.row.fresh_command = fresh_command([observation.job for observation in group.observations], used)
    dataset = observed[0][0].result.dataset
    tried = _tried(sweep, dataset, fingerprint)
    jobs = list({str(each.job.folder): each.job for group in groups for each in group.observations}.values())
    typed = {folder: command_words(folder) for folder in {job.folder.parent for job in jobs}}
    shortened = [shortenings(job.config, [*typed[job.folder.parent], *job.overrides]) for job in jobs if job.config]
    return DataTable(
        dataset,
        fingerprint,
        columns,
        rows,
        tried,
        variants,
        departures=_departures(jobs),
        shortened=list(dict.fromkeys(reason for found in shortened for reason in found)),
        partly_shortened=any(shortened) and not all(shortened),
        unsourced=_unsourced(jobs),
        few_labels=_few_labels(groups),
        searched=list(dict.fromkeys(sentence for search in searches for sentence in sentences(search))),
    )


def _few_labels(groups: list[Group]) -> str:
    results = [each.result for group in groups for each in group.observations]
    return label_remark([{"spec": each.spec, **each.of_labels} for each in results])


def _note_trials(groups: list[Group], sweep: Sweep) -> list[dict[str, Any]]:
    """Fills in `SweepRow.trials`, and takes away marks: these rows were chosen before. Returns the searches behind the rows."""
    found: dict[Path, dict[str, Any]] = {}
    for group in groups:
        for folder in {each.job.folder.parent for each in group.observations} & sweep.searches.keys():
            found[folder] = sweep.searches[folder]
            group.row.mark, group.row.chosen_among = "", 1
            group.row.trials = chosen_among(group.row.role, group.row.option, group.row.settings, found[folder])
    return list(found.values())


def _departures(jobs: list[Job]) -> list[str]:
    words = [word for job in jobs if job.config.get("published") for word in departures(job.overrides)]
    return list(dict.fromkeys(words))


def _unsourced(jobs: list[Job]) -> list[str]:
    return list(dict.fromkeys(sentence for job in jobs for sentence in unsourced(job.config, job.overrides)))


def _name_methods(groups: list[Group]) -> None:
    """Names methods by their objective, or by their option if that has several for the same view and start; `none` is CE."""
    meant = defaultdict[tuple[str, str, str], set[str]](set)
    parts = [PARTS[group.row.role] for group in groups]
    of = [(group.row.option, part.student_view, part.start) for group, part in zip(groups, parts, strict=True)]
    for kind, group in zip(of, groups, strict=True):
        meant[kind].add(group.observations[0].result.method)
    for kind, group in zip(of, groups, strict=True):
        several = len(meant[kind]) > 1 and group.row.option != "none"
        group.row.method = group.row.option if several else min(meant[kind], key=len)


def _tell_apart(groups: list[Group], columns: list[str]) -> list[str]:
    """Numbers rows that would look the same as `variant`; returns the paths at which their specs differ."""
    alike = defaultdict[str, list[Group]](list)
    for group in groups:
        row = group.row
        alike[str((row.role, row.model, row.method, [row.settings.get(key) for key in columns]))].append(group)
    paths: dict[str, None] = {}
    for same in alike.values():
        for number, group in enumerate(same if len(same) > 1 else []):
            group.row.settings["variant"] = number + 1
            paths |= dict.fromkeys(_differing(same[0].observations[0].result.spec, group.observations[0].result.spec))
    if any("variant" in group.row.settings for group in groups):
        columns.append("variant")
    return list(paths)


def _differing(ours: Any, theirs: Any, path: str = "") -> list[str]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return [path] if ours != theirs else []
    names = [name for name in dict.fromkeys([*ours, *theirs]) if path or name != "seed"]
    return [
        found for name in names for found in _differing(ours.get(name), theirs.get(name), f"{path}.{name}" if path else name)
    ]


def _tried(sweep: Sweep, dataset: str, fingerprint: str) -> dict[str, dict[str, int]]:
    """Counts configurations by student and method; jobs without results are matched by the name of their data set."""
    found = defaultdict[str, dict[str, set[str]]](lambda: defaultdict(set))
    for job in sweep.jobs:
        data = {sweep.results[key].spec["data"]["fingerprint"] for key in job.learners.values()}
        if not job.config or (fingerprint not in data if data else job.config["choices"]["dataset"] != dataset):
            continue
        config = job.config
        distills = config["distillation"]["_target_"] != config["baseline"]["_target_"]
        for role in ("baseline", "distilled") if distills else ("baseline",):
            method = "baseline" if role == "baseline" else option(config, "distillation")
            found[option(config, "student")][method].add(str(axis_values(config, role)))
    return {student: {method: len(settings) for method, settings in methods.items()} for student, methods in found.items()}
