"""Many locks with numbers, such as those of a sweep's jobs: on the bytes of a file, or leases where it can't be locked."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from kdexp.store import locks


class ByteLocks:
    """Many locks in one file, each on a byte of it. The system releases those of a process that dies, over NFS too.

    A process must not open the same file twice: closing it once releases all locks of the process.
    """

    patience = 0.0
    """Seconds after which what a killed process had can be taken."""

    def __init__(self, path: Path):
        self._file = path.open("ab")

    def take(self, number: int) -> bool:
        """Locks a byte; False if another process has."""
        try:
            locks.fcntl.lockf(self._file, locks.fcntl.LOCK_EX | locks.fcntl.LOCK_NB, 1, number)
        except OSError as error:
            if error.errno in locks.TAKEN:
                return False
            raise
        return True

    def release(self, number: int) -> None:
        """Unlocks a byte."""
        locks.fcntl.lockf(self._file, locks.fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Unlocks everything."""
        self._file.close()


class NumberedLeases:
    """The same where parts of files can't be locked: a lease for each number."""

    def __init__(self, path: Path):
        self._path = path
        self._leases: dict[int, SoftFileLease] = {}

    @property
    def patience(self) -> float:
        """As above: a lease must be seen to stay untouched for its time."""
        return 1.5 * locks.LEASE

    def take(self, number: int) -> bool:
        """Takes the lease of a number; False if another process has it."""
        if number not in self._leases:
            self._leases[number] = locks.new_lease(self._path.with_name(f"{self._path.name}.{number}{locks.LEASED}"))
        lease = self._leases[number]
        with suppress(Timeout):
            if not lease.is_locked:
                lease.acquire(blocking=False)
        return lease.is_locked

    def release(self, number: int) -> None:
        """Gives the lease of a number up."""
        if lease := self._leases.pop(number, None):
            lease.release()

    def close(self) -> None:
        """Gives all leases up."""
        for number in list(self._leases):
            self.release(number)


def numbered_locks(path: Path) -> ByteLocks | NumberedLeases:
    """Locks by number, in a file or next to it."""
    return ByteLocks(path) if locks.fcntl is not None and locks.has_locks(path.parent) else NumberedLeases(path)
