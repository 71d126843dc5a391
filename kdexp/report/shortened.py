"""Runs that were shortened for a trial: limited batches, or fewer epochs than their experiment has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from kdexp.configuration.shipped import conf_dir
from kdexp.files import at_home

DEEPEST = 5
"""Options that choose options are followed so far, since files from elsewhere may refer to each other."""
LARGEST = 100_000
"""Bytes of a larger file are not read."""


def shortenings(config: Mapping[str, Any], words: Sequence[str] = ()) -> list[str]:
    """What makes a job shorter than it should be; empty for a complete one.

    `words` are the job's command line, which may name a folder with the user's own experiments.
    """
    limit = config["limit_batches"]
    found = [f"limit_batches={limit} (at most {limit} batches per epoch)"] if limit else []
    if images := config["dataset"].get("limit"):
        found.append(f"dataset.limit={images} (of the training images)")
    folders = [*map(at_home, _own_folders(words)), Path(conf_dir())]
    for group in ("experiment", "protocol"):
        if name := config["choices"].get(group):
            return found + list(_missing_epochs(config, f"{group}/{name}", folders))
    return found


def shortened_remark(found: Sequence[str], *, partly: bool = False) -> str:
    """The sentence about a table of shortened runs."""
    return f"{'Some runs are shortened' if partly else 'Shortened'}: {'; '.join(found)}."


def fraction_remark(share: float) -> str:
    """The sentence about students that see only a share of the images; empty if they see all."""
    if share == 1:
        return ""
    return f"Students see {100 * share:g} % of the teacher's training images (dataset.student_fraction={share:g})."


def _missing_epochs(config: Mapping[str, Any], option: str, folders: Sequence[Path]) -> Iterator[str]:
    planned = planned_epochs(option, "epochs", folders)
    of_teacher = planned_epochs(option, "teacher_epochs", folders) or planned
    name = option.rpartition("/")[2]
    if planned and config["epochs"] < planned:
        yield f"epochs={config['epochs']} ({name} has {planned})"
    if of_teacher and config["teacher_epochs"] < of_teacher and config["teacher_epochs"] != config["epochs"]:
        yield f"teacher_epochs={config['teacher_epochs']} ({name} has {of_teacher})"


def planned_epochs(option: str, key: str, folders: Sequence[Path], depth: int = DEEPEST) -> int | None:
    """The number that an option such as `experiment/NAME` sets, itself or through the options that it chooses."""
    if not depth or option.count("/") > 1:
        return None
    file = next((file for folder in folders if (file := folder / f"{option}.yaml").is_file()), None)
    content = _read(file) if file else {}
    if isinstance(number := content.get(key), int):
        return number
    chosen = content["defaults"] if isinstance(content.get("defaults"), list) else []
    names = (name for each in reversed(chosen) for name in _named(each, option))
    numbers = (planned_epochs(name, key, folders, depth - 1) for name in names)
    return next((number for number in numbers if number), None)


def _named(default: Any, option: str) -> Iterator[str]:
    """The experiment or protocol that an entry of an option's defaults list names."""
    if isinstance(default, str) and default not in ("_self_", option.rpartition("/")[2]):
        yield f"{option.partition('/')[0]}/{default}"
    for key, name in default.items() if isinstance(default, dict) else ():
        group = str(key).split()[-1].lstrip("/").partition("@")[0]
        if group in ("experiment", "protocol"):
            yield f"{group}/{name}"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8")) if file.stat().st_size <= LARGEST else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):  # the command that composes it says so
        return {}
    return content if isinstance(content, dict) else {}


def _own_folders(words: Sequence[str]) -> Iterator[str]:
    for word, following in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            yield value or following
