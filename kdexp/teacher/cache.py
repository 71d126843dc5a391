"""Teacher outputs in memory, shared by the jobs of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kdexp.device.memory import free_memory

if TYPE_CHECKING:
    from kdexp.teacher.table import OutputTable


OUTPUTS_SHARE = 0.25
"""Of what is free on a device, that teachers' outputs may take there."""


class OutputCache:
    """Teachers' outputs by what they depend on; those that were used longest ago are let go where memory runs short."""

    def __init__(self) -> None:
        self._known: dict[str, OutputTable] = {}

    def find(self, key: str, layers: Iterable[str]) -> OutputTable | None:
        """What is known under that key, if it is of these layers too."""
        known = self._known.get(key)
        return known if known and known.shown.keys() > set(layers) else None

    def use(self, key: str, make: Callable[[], OutputTable]) -> OutputTable:
        """What is known under that key, or made; it counts as used last."""
        self._known[key] = self._known.pop(key) if key in self._known else make()
        return self._known[key]

    def limit(self, known: OutputTable) -> int:
        """The bytes that outputs may take where these are."""
        return int(OUTPUTS_SHARE * (free_memory(known.place) + self._held(known)))

    def _held(self, known: OutputTable) -> int:
        return sum(other.bytes for other in self._known.values() if other.place == known.place)

    def make_room(self, known: OutputTable, size: int) -> bool:
        """Whether `known` may grow by so many bytes; others are let go for it."""
        limit = self.limit(known)
        if known.bytes + size > limit:
            return False
        for key, other in list(self._known.items()):
            if self._held(known) + size > limit and other is not known and other.place == known.place:
                del self._known[key]
        return True
