"""A file system without locks, and other machines on it."""

import errno
import fcntl
import os
import socket
from pathlib import Path

from kdexp.store import locks


def refuse(*_words):
    """What every lock does there."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def lockless(host: str, lease: float) -> None:
    """Makes this process one of a machine of that name, whose file systems have no locks; leases last so many seconds."""
    fcntl.flock = fcntl.lockf = refuse
    socket.gethostname = lambda: host
    locks.LEASE = lease


RECORD = "filelock/2\npid=7\nhost=elsewhere\nmode=lease\ntoken={token}\nduration={duration}\nstart=1\n"


def lease_elsewhere(path: Path) -> Path:
    """The lease of a lock that a process of another machine has, and does not touch."""
    path.write_text("process 7 on elsewhere")
    lease = path.with_name(f"{path.name}{locks.LEASED}")
    lease.write_text(RECORD.format(token="0" * 32, duration=locks.LEASE))
    return lease
