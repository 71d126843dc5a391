"""Takes the jobs of a sweep one after another, each of them in one process at a time."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import TracebackType

from kdexp.errors import SweepLost
from kdexp.queue.job_list import JobList, ListedJob
from kdexp.store.numbered_locks import numbered_locks
from kdexp.store.run_files import JOBS
from kdexp.store.run_state import FAILED, FINISHED, INTERRUPTED, state_of, write_state

CLAIMS = "claims.lock"
MOST_DEATHS = 3
"""How often a job may have killed its process before it is given up: more would go on forever."""


class Queue:
    """The jobs of a sweep that are neither finished nor failed; several processes may each have one on the same folder.

    A job is claimed by a lock of its number.
    """

    def __init__(self, listed: JobList):
        self.listed = listed
        self._left = dict(enumerate(listed.jobs))
        self._locks = numbered_locks(listed.folder / CLAIMS)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._locks.close()

    @property
    def left(self) -> list[ListedJob]:
        """The jobs that were neither finished nor failed when `take` last came by."""
        return list(self._left.values())

    def take(self) -> ListedJob | None:
        """Claims the first job that is left and nobody's, and makes room for its folder; None if there is none.

        Raises `SweepLost` if the sweep's folder has disappeared.
        """
        if not (self.listed.folder / JOBS).is_file():
            raise SweepLost(f"{self.listed.folder} has disappeared, and with it the list of jobs")
        over, taken = [], None
        for number, job in self._left.items():
            if self._is_over(job):
                over.append(number)
            elif self._locks.take(number):
                if not self._is_over(job) and _make_room(self.listed.folder_of(job)):
                    taken = job
                    break
                self._locks.release(number)
                over.append(number)
        for number in over:
            del self._left[number]
        return taken

    @property
    def patience(self) -> float:
        """Seconds after which jobs of killed processes can be taken."""
        return self._locks.patience

    def end(self, job: ListedJob) -> None:
        """Gives up a job that ran to its end; it is not taken again here, even if a full disk kept no state."""
        self._left.pop(job.number, None)
        self._locks.release(job.number)

    def _is_over(self, job: ListedJob) -> bool:
        return state_of(self.listed.folder_of(job)) in (FINISHED, FAILED)


def _make_room(folder: Path) -> bool:
    """Moves the folder of a job that was cut off aside; False if the job was killed too often, and has now failed."""
    if not folder.exists():
        return True
    how = INTERRUPTED if state_of(folder) == INTERRUPTED else "killed"
    places = (folder.with_name(f"{folder.name}.{how}-{number}") for number in count(1))
    deaths, place = next((number, place) for number, place in enumerate(places, 1) if not place.exists())
    if how == "killed" and deaths >= MOST_DEATHS:
        write_state(folder, FAILED, f"its process was killed {deaths} times, perhaps for want of memory; {folder}/log.txt")
        return False
    folder.rename(place)
    return True
