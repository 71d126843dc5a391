"""Which process wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import re
import socket
from typing import NamedTuple


class Process(NamedTuple):
    """A process of this machine or of another."""

    number: int
    host: str

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(os.getpid(), socket.gethostname().partition(".")[0])

    @classmethod
    def read(cls, text: str) -> Process | None:
        """The process that a text such as `process 7 on laptop` names, if it names one."""
        found = re.fullmatch(r"process (\d+) on (\S+)", text.strip())
        return cls(int(found[1]), found[2]) if found else None

    @property
    def is_here(self) -> bool:
        """Whether it is or was on this machine."""
        return self.host == self.this().host

    def may_run(self) -> bool:
        """Whether it may still run: of another machine's process nothing else is known."""
        if not self.is_here or os.name != "posix":
            return True
        try:
            os.kill(self.number, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # somebody else's
        return True
