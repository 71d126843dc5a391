"""The command that resumes a killed run or sweep, read from its folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from kdexp.errors import BadFile
from kdexp.store.run_files import JOBS, Jobs
from kdexp.store.schema import read_json, read_text


def resuming_command(folder: Path) -> str:
    """The command that was typed for the run or sweep in a folder; empty if it can't be read."""
    try:
        if (folder / JOBS).is_file():
            return shlex.join(["kdexp", *read_json(folder / JOBS, Jobs).get("command", [])])
        return read_text(folder / "command.txt").strip()
    except BadFile:
        return ""
