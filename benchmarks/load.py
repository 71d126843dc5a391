"""CPU time of a measurement, and what other processes took of the machine meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STEADY = 0.1
"""Share of the machine by which the load of other processes may differ between the turns that a ratio compares."""
HEAVY = 0.25
"""Share of the machine from which other processes are worth a warning even if they are steady."""


@dataclass(frozen=True)
class Load:
    """CPU seconds of this process and its workers, other processes' share of all cores (None: unknown), the load average."""

    cpu_seconds: float
    others: float | None
    average: float


class LoadMeter:
    """Measures the load from its creation until `stop`."""

    def __init__(self) -> None:
        self._seconds, self._own, self._all = time.perf_counter(), own_seconds(), busy_seconds()

    def stop(self) -> Load:
        """The load since the start. Workers count once they have ended."""
        own, busy = own_seconds() - self._own, busy_seconds()
        cores = (time.perf_counter() - self._seconds) * (os.cpu_count() or 1)
        known = busy is not None and self._all is not None
        others = min(1.0, max(0.0, busy - self._all - own) / cores) if known else None
        return Load(own, others, os.getloadavg()[0])


def own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """CPU seconds that all cores were not idle since the machine started, from Linux; None elsewhere."""
    if not stat.exists():
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, *more = map(int, stat.read_text().split("\n")[0].split()[1:])
    stolen = more[0] if more else 0  # by other virtual machines; what guests take is part of `user`
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def warning(shares: Iterable[float | None]) -> str:
    """A sentence on the load of other processes if it differed between turns or was heavy, otherwise an empty string."""
    known = [100 * share for share in shares if share is not None]
    least, most = min(known, default=0), max(known, default=0)
    if most - least > 100 * STEADY:
        told = (
            f"between {least:.0f} % and {most:.0f} % of this machine while participants took turns: their times don't compare"
        )
    elif most > 100 * HEAVY:
        told = f"up to {most:.0f} % of this machine: CPU seconds compare better than times"
    else:
        return ""
    return f"other processes took {told}; run this again on a quiet machine"
