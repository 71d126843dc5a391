"""The jobs and results behind the rows of a comparison."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from kdexp.store.stored import read_result
from kdexp.sweep.read import Job, Result, Sweep

if TYPE_CHECKING:
    from kdexp.sweep.comparison import DataTable
    from kdexp.sweep.row import SweepRow


class Origins:
    """Looks up jobs and results of a sweep."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self._jobs = {str(job.folder): job for job in sweep.jobs}

    def jobs(self, row: SweepRow) -> list[Job]:
        """The jobs of a row, by seed."""
        return [self._jobs[folder] for folder in row.jobs]

    def job(self, folder: str) -> Job:
        """The job in this folder."""
        return self._jobs[folder]

    def result(self, key: str) -> Result:
        """The result of a learner."""
        return self.sweep.results[key]

    def history(self, key: str) -> list[dict[str, float]]:
        """A learner's epochs, read from the store."""
        return list(read_result(self.sweep.results[key].folder).result["history"])

    def latencies(self, table: DataTable) -> dict[tuple[str, int, bool], list[float]]:
        """All measured latencies (`latency=true`) in milliseconds per image, by network."""
        found = defaultdict[tuple[str, int, bool], list[float]](list)
        for row in table.rows:
            for job in self.jobs(row):
                if job.config.get("latency") and row.role in job.latencies:
                    found[row.network].append(job.latencies[row.role])
        return found
