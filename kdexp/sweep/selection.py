"""Which configurations validation data choose, and which rows are therefore worth an interval."""

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
    """A row and the observations behind it."""

    row: SweepRow
    observations: list[Observation]

    @classmethod
    def of(cls, observations: list[Observation]) -> Group:
        """The row that these observations make."""
        return cls(SweepRow.of(observations), observations)

    @property
    def pairs(self) -> Pairs:
        """What can be compared with a baseline."""
        return Pairs.of(self.observations)

    @property
    def contest(self) -> str:
        """Rows of the same role, student and training data compete; nothing is to be chosen across these."""
        spec = self.observations[0].result.spec
        return json.dumps([self.row.role, spec["model"], spec["data"]], sort_keys=True)


def choose(groups: Sequence[Group]) -> list[list[Group]]:
    """Marks what validation data choose and returns the rows that get intervals, in families whose intervals hold together.

    The first are the best of every method, or every configuration where there are no validation data; the second the controls
    that were trained beside one of them.
    """
    contests = defaultdict[str, list[Group]](list)
    for group in groups:
        if group.row.role in ("baseline", "distilled"):
            contests[group.contest].append(group)
    worth = [group for contest in contests.values() for group in _decide(contest) if group.row.role == "distilled"]
    jobs = {one.job.folder for group in worth for one in group.observations}
    controls = [group for group in groups if group.row.role not in ("teacher", "baseline", "distilled")]
    return [worth, [group for group in controls if jobs & {one.job.folder for one in group.observations}]]


def _decide(contest: list[Group]) -> list[Group]:
    """The best of each method, marked where there was a choice; all where nothing can be chosen."""
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
    """The first with the highest mean validation accuracy among those with the most seeds."""
    groups = list(groups)
    most = max(group.row.n for group in groups)
    return max((group for group in groups if group.row.n == most), key=validation)


def validation(group: Group) -> float:
    """Its mean validation accuracy, where there is one."""
    return group.row.validation_mean or 0.0
