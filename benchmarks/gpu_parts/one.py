"""Runs one part in this process: `python -m gpu_parts.one NAME CONTEXT`, and writes its rows as they come."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu_parts.context import Context, CutOff, Item, Row, Skipped

SPARE = 3.0
"""Seconds before the end of its time from which a part begins nothing new."""


def place(folder: Path, name: str) -> Path:
    """The file with the rows of a part while it runs."""
    return folder / "parts" / f"{name}.json"


def measure(name: str, context: Context) -> dict[str, Any]:
    """Measures the items of a part; returns its rows, what it had no time for, and why it was skipped, if it was."""
    found: dict[str, Any] = {"rows": [], "left_out": [], "skipped": ""}
    try:
        for item in import_module(f"gpu_parts.{name}").items(context):
            if context.left() < SPARE:
                found["left_out"].append(item.name)
                continue
            try:
                rows = rows_of(item)
            except CutOff as missing:
                found["left_out"].append(str(missing))
                break
            replaced = item.replaces and not any("error" in row for row in rows)
            found["rows"] = rows if replaced else found["rows"] + rows
            write(place(context.folder, name), found)
    except Skipped as reason:
        found["skipped"] = str(reason)
    write(place(context.folder, name), found)
    return found


def rows_of(item: Item) -> list[Row]:
    """The rows of an item; one that fails has a row with the reason, and the others go on."""
    begin = time.perf_counter()
    try:
        measured = item.measure()
        rows = [item.labels | row for row in (measured if isinstance(measured, list) else [measured])]
    except CutOff:
        raise
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        rows = [item.labels | {"error": f"{type(error).__name__}: {lines[0]}"}]
    for row in rows:
        print(f"{time.perf_counter() - begin:7.1f} s  {row}", flush=True)
    return rows


def write(path: Path, found: dict[str, Any]) -> None:
    """Replaces a file in one step: the process may be killed at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(found, indent=1))
    draft.replace(path)


def words_for(name: str, context: Context) -> list[str]:
    """The words of the command line that `main` reads."""
    return [name, json.dumps(dataclasses.asdict(context), default=str)]


def main() -> None:
    """Runs the part that the command line names."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has started everything in the background
    name, text = sys.argv[1:]
    given = json.loads(text)
    found = measure(name, Context(**given | {"folder": Path(given["folder"])}))
    sys.exit(1 if any("error" in row for row in found["rows"]) else 0)


if __name__ == "__main__":
    main()
