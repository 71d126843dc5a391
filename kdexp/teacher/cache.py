"""Teacher outputs in memory, shared by the jobs of a process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from kdexp.device.memory import free_memory
from kdexp.device.sharing import sharers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kdexp.teacher.output_table import OutputTable


OUTPUTS_SHARE = 0.25
"""Share of a device's free memory that the teacher outputs of all processes on it may take."""


class OutputCache:
    """Tables of teacher outputs under keys that cover everything the outputs depend on.

    Where memory runs short, the least recently used tables are dropped.
    """

    def __init__(self) -> None:
        self._tables: dict[str, OutputTable] = {}

    def find(self, key: str, layers: Collection[str]) -> OutputTable | None:
        """The table under a key, if it has all these layers (and the logits)."""
        table = self._tables.get(key)
        return table if table and table.shown.keys() > set(layers) else None

    def use(self, key: str, make: Callable[[], OutputTable]) -> OutputTable:
        """The table under a key, made if there is none; it becomes the most recently used one."""
        self._tables[key] = self._tables.pop(key) if key in self._tables else make()
        return self._tables[key]

    def drop(self, key: str) -> None:
        """Frees the memory of the table under a key."""
        self._tables.pop(key, None)

    def limit(self, device: torch.device) -> int:
        """Bytes that all tables stored on a device may take together."""
        return int(OUTPUTS_SHARE * (free_memory(device) + self._used(device)) / sharers(device.type))

    def _used(self, device: torch.device) -> int:
        return sum(table.bytes for table in self._tables.values() if table.stored_on == device)

    def reserve(self, table: OutputTable, examples: Mapping[str, Tensor]) -> bool:
        """Reserves memory in `table` for layers with outputs like these examples; False, and no change, if they don't fit.

        Drops other tables to make room.
        """
        size = sum(map(table.size, examples.values()))
        limit = self.limit(table.stored_on)
        if table.bytes + size > limit:
            return False
        for key, other in list(self._tables.items()):
            if self._used(table.stored_on) + size > limit and other is not table and other.stored_on == table.stored_on:
                del self._tables[key]
        for name, example in examples.items():
            table.reserve(name, example)
        return True
