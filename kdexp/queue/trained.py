"""Which learners the workers of a sweep have trained."""

from __future__ import annotations

from collections.abc import Iterator, MutableSet
from pathlib import Path


class TrainedHere(MutableSet[str]):
    """The keys of the learners that the workers of a sweep have trained, as empty files; `force=true` trains each only once."""

    def __init__(self, folder: Path):
        self._folder = folder / "trained"

    def __contains__(self, key: object) -> bool:
        return (self._folder / str(key)).exists()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._folder.glob("*"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, key: str) -> None:
        """Notes a learner."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / key).touch()

    def discard(self, key: str) -> None:
        """Forgets a learner."""
        (self._folder / key).unlink(missing_ok=True)
