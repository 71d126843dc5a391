"""Compares the class names stated in a file of weights with those of the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kdexp.errors import a_few
from kdexp.store.stored import RESULT, read_result


def classes_of(path: Path) -> list[str] | None:
    """Returns the class names of a file in the order of its logits, or None if it states none.

    They are in the header of a safetensors file written by `kdexp-export`, or in the result next to a stored learner's weights.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads((file.metadata() or {}).get("classes", "null"))
        if stated is None and path.with_name(RESULT).is_file():
            stated = read_result(path.parent).result["spec"]["data"].get("classes")
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None
    return stated if _are_names(stated) else None


def _are_names(stated: Any) -> bool:
    return isinstance(stated, list) and bool(stated) and all(isinstance(name, str) for name in stated)


def rows_for(ours: Sequence[str] | None, theirs: Sequence[str] | None) -> list[int] | None:
    """Returns the rows of a file's classifier (with classes `theirs`) that belong to our classes, in our order.

    None if no change is needed or one side has no names; empty if the file lacks one of our classes.
    """
    if not ours or not theirs or list(ours) == list(theirs):
        return None
    row_of = {name: row for row, name in enumerate(theirs)}
    return [row_of[name] for name in ours] if row_of.keys() >= set(ours) else []


def differences(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Lists the class names that only the file or only the data have."""
    only = {
        "file": [name for name in theirs if name not in set(ours)],
        "data": [name for name in ours if name not in set(theirs)],
    }
    return "; ".join(f"only in the {where}: {a_few(names)}" for where, names in only.items() if names)
