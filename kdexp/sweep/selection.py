"""Marks the best configurations on validation data, and selects the rows that get intervals."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdexp.sweep.difference import Pairs
from kdexp.sweep.observations import Observation
from kdexp.sweep.row import BEST, BEST_OF_METHOD, SweepRow


@dataclass
class Group:
    """A row and its observations."""

    row: SweepRow
    observations: list[Observation]

    @classmethod
    def of(cls, observations: list[Observation]) -> Group:
        """Makes the row of these observations."""
        return cls(SweepRow.of(observations), observations)

    @property
    def pairs(self) -> Pairs:
        """The observations that have a baseline."""
        return Pairs.of(self.observations)

    @property
    def contest(self) -> str:
        """Rows are ranked only against rows with the same role, student and training data, which this identifies."""
        spec = self.observations[0].result.spec
        return json.dumps([self.row.role, spec["model"], spec["data"]], sort_keys=True)


def choose(groups: Sequence[Group]) -> list[list[Group]]:
    """Marks the best rows on validation data; returns the rows that get intervals, in two families of simultaneous intervals.

    The first family is the best of each method, or all configurations without validation data; the second is the controls
    that were trained in the same jobs.
    """
    contests = defaultdict[str, list[Group]](list)
    for group in groups:
        if group.row.role in ("baseline", "distilled"):
            contests[group.contest].append(group)
    selected = [group for contest in contests.values() for group in _decide(contest) if group.row.role == "distilled"]
    jobs = {each.job.folder for group in selected for each in group.observations}
    controls = [group for group in groups if group.row.role not in ("teacher", "baseline", "distilled")]
    return [selected, [group for group in controls if jobs & {each.job.folder for each in group.observations}]]


def _decide(contest: list[Group]) -> list[Group]:
    """The best of each method, marked if it had rivals; all rows if validation data are missing."""
    if any(group.row.validation_mean is None for group in contest):
        return contest
    methods = defaultdict[str, list[Group]](list)
    for group in contest:
        methods[group.row.option].append(group)
    winners = [best(method) for method in methods.values()]
    for winner in winners:
        if len(rivals := methods[winner.row.option]) > 1:
            winner.row.mark, winner.row.chosen_among = BEST_OF_METHOD, len(rivals)
    if len(contest) > 1 and contest[0].row.role == "distilled":
        winner = max(winners, key=validation)
        winner.row.mark, winner.row.chosen_among = BEST, len(contest)
    return winners


def best(groups: Iterable[Group]) -> Group:
    """The group with the highest mean validation accuracy among those with the most seeds; the first of equals."""
    groups = list(groups)
    most = max(group.row.n for group in groups)
    return max((group for group in groups if group.row.n == most), key=validation)


def validation(group: Group) -> float:
    """Mean validation accuracy, 0 if unknown."""
    return group.row.validation_mean or 0.0
