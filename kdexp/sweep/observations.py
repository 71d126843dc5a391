"""Groups results into configurations (the same learner under several seeds), each with its baseline."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kdexp.configuration.roles import option, role_spec
from kdexp.sweep.axes import AxisValues, axis_values
from kdexp.sweep.read import Job, Result, Sweep


@dataclass(frozen=True)
class Observation:
    """One learner of one job: its result, and that of the job's baseline."""

    role: str
    result: Result
    baseline: Result | None
    teacher_seed: int | None
    job: Job
    crossed: bool = False
    """Whether the same student seed was run with teachers, or with draws of labels, of several seeds."""

    @property
    def settings(self) -> AxisValues:
        """Its settings, including the precision of training."""
        values = axis_values(self.job.config, self.role) if self.job.config else {}
        if self.result.spec["teacher"] is None:
            values = {key: value for key, value in values.items() if not key.startswith("teacher")}
        if not {"strong_view", "start"} & self.result.spec.keys():
            values = {key: value for key, value in values.items() if not key.startswith("strong_view")}
        crossed = {"teacher_seed": self.teacher_seed, "dataset.label_seed": self.label_seed} if self.crossed else {}
        return {**values, **crossed, "precision": self.result.spec["precision"]}

    @property
    def label_seed(self) -> int | None:
        """The seed that decides which training images have a label, if not all have one."""
        return self.result.spec["data"].get("label_seed")

    @property
    def method(self) -> str:
        """The chosen option of its method."""
        return option(self.job.config, role_spec(self.role, self.job.config).method) if self.job.config else self.result.method


class Identity:
    """Hashes a learner's spec without its seed and its labels' one, recursively for its sources: all seeds have one hash."""

    def __init__(self, sweep: Sweep):
        self.results = sweep.results
        self._hashes: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        """The hash; for a learner that can't be read its key, which depends on the seed."""
        if key not in self._hashes:
            self._hashes[key] = self._of(self.results[key]) if key in self.results else key
        return self._hashes[key]

    def _of(self, result: Result) -> str:
        teacher = result.spec["teacher"]
        members = [self(member) for member in result.spec.get("members", [])]
        data = {name: value for name, value in result.spec["data"].items() if name != "label_seed"}
        spec = {**result.spec, "data": data, "seed": None, "teacher": teacher and self(teacher), "members": members}
        if start := result.spec.get("start"):
            spec["start"] = self(start)
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def configurations(sweep: Sweep) -> list[list[Observation]]:
    """Groups all observations by configuration; each result occurs once.

    A configuration comprises all seeds, including seeds whose baseline failed. A different baseline makes a different
    configuration, and so do the seeds of the teacher and of the labels if one student seed was run with several of them.
    """
    identity, found = Identity(sweep), defaultdict[tuple[str, str], dict[tuple[str, str], Observation]](dict)
    for each in observations(sweep):
        against = identity(each.baseline.key) if each.baseline else ""
        found[each.role, identity(each.result.key)].setdefault((each.result.key, against), each)
    groups = [group for same in found.values() for group in _by_baseline(same)]
    return [split for group in groups for split in _by_other_seeds(group)]


def _by_baseline(same: dict[tuple[str, str], Observation]) -> list[list[Observation]]:
    """Splits observations, given by (key, hash of the baseline), by baseline; those without one join the first."""
    baselines = list(dict.fromkeys(against for _, against in same if against)) or [""]
    groups = {against: [each for (_, own), each in same.items() if own == against] for against in baselines}
    compared = {key for key, against in same if against}
    if baselines != [""]:
        groups[baselines[0]] += [each for (key, against), each in same.items() if not against and key not in compared]
    return list(groups.values())


def _by_other_seeds(group: list[Observation]) -> list[list[Observation]]:
    if len({each.result.seed for each in group}) == len(group):
        return [group]
    seeds = dict.fromkeys((each.teacher_seed, each.label_seed) for each in group)
    crossed = [replace(each, crossed=True) for each in group]
    return [[each for each in crossed if (each.teacher_seed, each.label_seed) == pair] for pair in seeds]


def _teacher(result: Result, sweep: Sweep) -> Result | None:
    """The result of a learner's teacher; for a quantised network, of the teacher of the one that it is made from."""
    teacher = sweep.results.get(result.spec["teacher"] or "")
    return _teacher(teacher, sweep) if teacher and "quantised" in result.spec else teacher


def observations(sweep: Sweep) -> Iterator[Observation]:
    """All results of all jobs that have a test accuracy."""
    for job in sweep.jobs:
        results = {role: sweep.results[key] for role, key in job.learners.items()}
        for role, result in results.items():
            if math.isnan(result.test):
                continue
            baseline = None if role in ("teacher", "baseline") else results.get("baseline")
            teacher = _teacher(result, sweep)
            yield Observation(role, result, baseline, teacher.seed if teacher else None, job)
