"""Removes entries of a store that no process trains, needs or writes. Does not import torch."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from contextlib import suppress
from pathlib import Path

from kdexp.files import abandoned, writer_of
from kdexp.store.in_use import registering, user_of
from kdexp.store.locks import holder
from kdexp.store.stored import RESULT

DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "": 1.0}
"""Days of the units of an age."""


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


def days_of(text: str) -> float:
    """The days of an age such as `12h`, `30d`, `2w` or `30` (days); raises `ArgumentTypeError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([hdw]?)", text.strip().lower(), re.ASCII)
    if found and (days := float(found[1]) * DAYS[found[2]]) < math.inf:
        return days
    raise argparse.ArgumentTypeError(f"{text!r} is not an age, such as 12h, 30d or 2w (hours, days, weeks)")
