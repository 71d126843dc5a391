"""Names of processes: which process wrote a file, and whether it is still running."""

from __future__ import annotations

import os
import re
import socket
from typing import NamedTuple


class Process(NamedTuple):
    """A process on this or another machine."""

    number: int
    host: str

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"

    @classmethod
    def this(cls) -> Process:
        """This process."""
        return cls(os.getpid(), socket.gethostname().partition(".")[0])

    @classmethod
    def read(cls, text: str) -> Process | None:
        """The process named by a text such as `process 7 on laptop`; None for other texts."""
        found = re.fullmatch(r"process (\d+) on (\S+)", text.strip())
        return cls(int(found[1]), found[2]) if found else None

    @property
    def is_here(self) -> bool:
        """Whether it runs or ran on this machine."""
        return self.host == self.this().host

    def may_run(self) -> bool:
        """Whether it may still be running; always True for processes of other machines."""
        if not self.is_here or os.name != "posix":
            return True
        try:
            os.kill(self.number, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # it belongs to another user
        return True
