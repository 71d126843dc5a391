"""Removes entries of a store that no process trains, needs or writes. Does not import torch."""

from __future__ import annotations

import argparse
import math
import shutil
from contextlib import suppress
from pathlib import Path

from kdexp.files import abandoned, writer_of
from kdexp.store.in_use import registering, user_of
from kdexp.store.locks import holder
from kdexp.store.stored import RESULT


def reason_to_keep(root: Path, path: Path) -> str:
    """Why an entry of the store at `root` must not be removed, or an empty string."""
    key = path.name.partition(".")[0]
    if trainer := holder(path.with_name(f"{key}.lock")):
        return f"{trainer} is training it"
    if user := user_of(root, key):
        return f"in use by {user}"
    writer = writer_of(path)
    return f"{writer} is writing it" if writer and not abandoned(path) else ""


def remove(root: Path, path: Path) -> str:
    """Removes an entry, unless there is a reason to keep it, which is returned. No process can claim it meanwhile."""
    with registering(root):
        if why := reason_to_keep(root, path):
            return why
        with suppress(FileNotFoundError):  # another process was faster
            if path.is_dir():
                (path / RESULT).unlink(missing_ok=True)  # first, so that the rest is not taken for a learner
                shutil.rmtree(path)
            else:
                path.unlink()
    return ""


def number_of_days(text: str) -> float:
    """Parses an argument; raises `ArgumentTypeError`."""
    with suppress(ValueError):
        if 0 <= (days := float(text)) < math.inf:
            return days
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, such as 30 or 0.5")
