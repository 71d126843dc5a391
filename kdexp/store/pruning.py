"""Removing from a store what no process trains, needs or writes. Needs no torch."""

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
    """Why something in the store at `root` is not removed, or an empty string."""
    key = path.name.partition(".")[0]
    if trainer := holder(path.with_name(f"{key}.lock")):
        return f"{trainer} is training it"
    if user := user_of(root, key):
        return f"in use by {user}"
    writer = writer_of(path)
    return f"{writer} is writing it" if writer and not abandoned(path) else ""


def remove(root: Path, path: Path) -> str:
    """Removes something, unless there is a reason to keep it, which is returned; nobody starts to need it meanwhile."""
    with registering(root):
        if why := reason_to_keep(root, path):
            return why
        with suppress(FileNotFoundError):  # somebody else was quicker
            if path.is_dir():
                (path / RESULT).unlink(missing_ok=True)  # first, so that nobody takes the rest for a learner
                shutil.rmtree(path)
            else:
                path.unlink()
    return ""


def number_of_days(text: str) -> float:
    """What an argument says; raises `ArgumentTypeError`."""
    with suppress(ValueError):
        if 0 <= (days := float(text)) < math.inf:
            return days
    raise argparse.ArgumentTypeError(f"{text!r} is no number of days, such as 30 or 0.5")
