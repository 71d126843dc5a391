"""What the jobs of one process share, so that a sweep reads its data and runs its teacher only once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdexp.data.unread import UnreadData
from kdexp.experiment.other_ranks import OtherRanks
from kdexp.store.in_use import Claim
from kdexp.teacher.cache import OutputCache
from kdexp.trackers.tracking import Failures


class SingleCache:
    """The value that was made last, under its key. It is dropped before the next one is made, so that memory does not grow."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._value: Any = None

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value under that key, made again unless it is the last one."""
        if self._value is None or key != self._key:
            self._value = None
            self._key, self._value = key, make()
        return self._value

    @property
    def value(self) -> Any:
        """The value that was made last, None before that."""
        return self._value


@dataclass
class Session:
    """The last data set on its device, teacher outputs for its images, and the learners that were trained or failed."""

    data: SingleCache = field(default_factory=SingleCache)
    unread: dict[str, UnreadData] = field(default_factory=dict)
    """What earlier runs noted about data sets, by their nodes."""
    outputs: OutputCache = field(default_factory=OutputCache)
    layers: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """The teacher layers that the jobs of this process read, by network and view (see `kdexp.experiment.lookahead`)."""
    starts: dict[str, str] = field(default_factory=dict)
    """The published weights that trainings start from, by everything that was checked."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Notes for the user on the checkpoints that were read, by everything that decides them."""
    trained: MutableSet[str] = field(default_factory=set)
    """Keys of the learners that this process, or a worker of the same sweep, has trained and stored."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why learners failed in this process, by key; they are not tried again."""
    others: OtherRanks = field(default_factory=OtherRanks)
    """The processes that train together with this one."""
    trackers: Failures = field(default_factory=Failures)
    """Trackers that failed in this process."""
    claims: dict[Path, Claim] = field(default_factory=dict)
    """What the jobs of this process need from stores, by the store's folder."""

    def claim(self, store: Path) -> Claim:
        """What is needed from the store in that folder."""
        return self.claims.setdefault(store, Claim(store))

    def close(self) -> None:
        """Ends the data set's worker processes, if there are any, and releases all claims on stores."""
        if self.data.value is not None:
            self.data.value.close()
        self.others.end()
        for claim in self.claims.values():
            claim.release()
        self.claims.clear()
