"""Which results are one configuration under several seeds, and which baseline each of them is compared with."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kdexp.configuration.roles import option, part_of
from kdexp.sweep.axes import AxisValues, axis_values
from kdexp.sweep.read import Job, Result, Sweep


@dataclass(frozen=True)
class Observation:
    """One learner in one job: its result, and that of the baseline beside it."""

    role: str
    result: Result
    baseline: Result | None
    teacher_seed: int | None
    job: Job
    crossed: bool = False
    """Whether its seed met teachers of several seeds."""

    @property
    def settings(self) -> AxisValues:
        """What was set for it, the precision it was trained in included."""
        told = axis_values(self.job.config, self.role) if self.job.config else {}
        if self.result.spec["teacher"] is None:
            told = {key: value for key, value in told.items() if not key.startswith("teacher")}
        crossed = {"teacher_seed": self.teacher_seed} if self.crossed else {}
        return {**told, **crossed, "precision": self.result.spec["precision"]}

    @property
    def method(self) -> str:
        """The option that was chosen for its method."""
        return option(self.job.config, part_of(self.role, self.job.config).method) if self.job.config else self.result.method


class Identity:
    """Names what results of several seeds have in common: the spec without its seed, the teacher's without its own."""

    def __init__(self, sweep: Sweep):
        self.results = sweep.results
        self._known: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        """A hash; of a learner that can't be read it is its key, which holds a seed."""
        if key not in self._known:
            self._known[key] = self._of(self.results[key]) if key in self.results else key
        return self._known[key]

    def _of(self, result: Result) -> str:
        teacher = result.spec["teacher"]
        members = [self(member) for member in result.spec.get("members", [])]
        spec = {**result.spec, "seed": None, "teacher": teacher and self(teacher), "members": members}
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def configurations(sweep: Sweep) -> list[list[Observation]]:
    """The observations of every configuration, each result once.

    Seeds are folded, and a baseline that failed under a seed makes no other configuration; another baseline does. So does the
    teacher's seed where one seed of the student met teachers of several seeds.
    """
    identity, found = Identity(sweep), defaultdict[tuple[str, str], dict[tuple[str, str], Observation]](dict)
    for one in observations(sweep):
        against = identity(one.baseline.key) if one.baseline else ""
        found[one.role, identity(one.result.key)].setdefault((one.result.key, against), one)
    groups = [group for same in found.values() for group in _by_baseline(same)]
    return [split for group in groups for split in _by_teacher_seed(group)]


def _by_baseline(same: dict[tuple[str, str], Observation]) -> list[list[Observation]]:
    """Observations by (key, baseline's identity), in a list per baseline; what has none joins the first."""
    baselines = list(dict.fromkeys(against for _, against in same if against)) or [""]
    groups = {against: [one for (_, its), one in same.items() if its == against] for against in baselines}
    compared = {key for key, against in same if against}
    if baselines != [""]:
        groups[baselines[0]] += [one for (key, against), one in same.items() if not against and key not in compared]
    return list(groups.values())


def _by_teacher_seed(group: list[Observation]) -> list[list[Observation]]:
    if len({one.result.seed for one in group}) == len(group):
        return [group]
    seeds = dict.fromkeys(one.teacher_seed for one in group)
    return [[replace(one, crossed=True) for one in group if one.teacher_seed == seed] for seed in seeds]


def observations(sweep: Sweep) -> Iterator[Observation]:
    """Every usable result of every job that has a test accuracy."""
    for job in sweep.jobs:
        results = {role: sweep.results[key] for role, key in job.learners.items()}
        for role, result in results.items():
            if math.isnan(result.test):
                continue
            baseline = None if role in ("teacher", "baseline") else results.get("baseline")
            teacher = sweep.results.get(result.spec["teacher"] or "")
            yield Observation(role, result, baseline, teacher.seed if teacher else None, job)
