"""`kdexp-store`: what is stored, whether it is intact, and its removal on request. Needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from kdexp.errors import CorruptEntry, did_you_mean, listed
from kdexp.files import DRAFT, reason
from kdexp.report.table import HEAD_RULE, percent
from kdexp.store.descriptions import Learner, Outputs
from kdexp.store.in_use import registering, settle_killed
from kdexp.store.pruning import number_of_days, reason_to_keep, remove
from kdexp.store.stored import LEARNERS, OUTPUTS, SUMMARIES, read_entry, read_result, under_its_key
from kdexp.text.characters import one_line
from kdexp.text.console import Screen, print_error, printing
from kdexp.version import __version__

BAD_REQUEST, DAMAGE = 2, 1
HEADINGS = ("key", "model", "method", "data", "seed", "epochs", "test %", "teaches", "MB", "age")


class Refused(ValueError):
    """A request that can't be met; the message says why and what would help."""


@dataclass
class Item:
    """A learner's folder, the progress of an unfinished one, a teacher's outputs, or what a killed process left."""

    path: Path
    kind: str
    """`finished`, `unfinished`, `outputs`, `leftover` or `damaged`."""
    result: dict[str, Any]
    complaint: str = ""

    @property
    def key(self) -> str:
        """The hash under which it is stored."""
        return self.path.name.partition(".")[0]

    @cached_property
    def size(self) -> int:
        """Bytes on disk; what is removed meanwhile has none."""
        files = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(state.st_size for state in map(_state, files) if state and S_ISREG(state.st_mode))

    @cached_property
    def days(self) -> float:
        """Days since it was last written; 0 for what is removed meanwhile."""
        state = _state(self.path)
        return (time.time() - state.st_mtime) / 86_400 if state else 0.0


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def items(root: Path, *, verified: bool = False) -> list[Item]:
    """Everything in a store, newest first; only `verified` reads every file. What is removed meanwhile is left out."""
    found = [item for item in _items(root, verified) if _state(item.path)]
    return sorted(found, key=lambda item: item.days)


def _items(root: Path, verified: bool) -> Iterator[Item]:
    for folder in (LEARNERS, OUTPUTS, SUMMARIES):
        for path in (root / folder).iterdir() if (root / folder).is_dir() else ():
            if DRAFT in path.name:
                yield Item(path, "leftover", {})
            elif path.suffix == ".progress":
                yield Item(path, "unfinished", {})
            elif path.is_dir():
                yield _whole(path, verified)


def _whole(path: Path, verified: bool) -> Item:
    kind, declared = ("outputs", Outputs) if path.parent.name == OUTPUTS else ("finished", Learner)
    try:
        found = read_entry(path, declared) if verified else read_result(path, declared)
        return Item(path, kind, under_its_key(found).result)
    except CorruptEntry as error:
        return Item(path, "damaged", {}, str(error))


@printing("kdexp-store")
def main() -> None:
    """The `kdexp-store` command. Exit codes: 1 damage was found, 2 a request that can't be met, 3 it could not be printed."""
    asked = _parser().parse_args()
    try:
        sys.exit(asked.run(Path(asked.store).expanduser(), asked, Screen()))
    except Refused as error:
        print_error("kdexp-store", str(error))
        sys.exit(BAD_REQUEST)
    except OSError as error:
        print_error("kdexp-store", f"{error.filename or asked.store}: {reason(error)}")
        sys.exit(BAD_REQUEST)


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--store", default="outputs/store", help="the store's folder (default: outputs/store)")
    parser = argparse.ArgumentParser("kdexp-store", description="What kdexp has stored.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="list | show | verify | prune")
    for name, run, told in (
        ("list", list_items, "everything stored with its size and age"),
        ("show", show, "all that is known of one item"),
        ("verify", verify, "read every file and name what is damaged"),
        ("prune", prune, "say what would be removed; remove it with --yes"),
    ):
        command = commands.add_parser(name, help=told, description=told, parents=[where], allow_abbrev=False)
        command.set_defaults(run=run)
        if name == "show":
            command.add_argument("key", help="a key or its beginning")
        if name == "prune":
            _prune_arguments(command)
    return parser


def _prune_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("keys", nargs="*", help="keys or their beginnings")
    command.add_argument("--unfinished", action="store_true", help="also the progress of unfinished learners")
    command.add_argument("--damaged", action="store_true", help="also what is damaged or left over")
    command.add_argument("--older-than", type=number_of_days, metavar="DAYS", help="also what is finished and so old")
    command.add_argument("--outputs", action="store_true", help="also teachers' outputs")
    command.add_argument("--all", action="store_true", help="everything")
    command.add_argument("--yes", action="store_true", help="really remove it")


def _present(root: Path, *, verified: bool = False) -> list[Item]:
    if root.is_file():
        raise Refused(f"{str(root)!r} is a file, not the folder of a store; --store FOLDER names another")
    if not (root / LEARNERS).is_dir():
        raise Refused(f"no store in {str(root)!r}; --store FOLDER names another")
    return items(root, verified=verified)


def _print(console: Console, sentence: str) -> None:
    console.print(one_line(sentence), markup=False, soft_wrap=True)


def list_items(root: Path, _asked: argparse.Namespace, console: Console) -> int:
    """Prints a line per item; returns 1 if the result of any is damaged, and says what is the matter with it."""
    found = _present(root)
    students = Counter(item.result["spec"]["teacher"] for item in found if item.kind == "finished")
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 4 else "right", no_wrap=heading != "method")
    for item in found:
        table.add_row(*map(one_line, (item.key, *_line(item, students[item.key]))))
    console.print(table, markup=False)
    _print(console, f"{len(found)} in {root}, {sum(item.size for item in found) / 1e6:.1f} MB")
    return _name_damaged(found, console)


def _name_damaged(found: Sequence[Item], console: Console) -> int:
    """Prints what is the matter with each damaged item; returns 1 if there are any."""
    damaged = [item for item in found if item.kind == "damaged"]
    for item in damaged:
        _print(console, item.complaint)
    return DAMAGE if damaged else 0


def _line(item: Item, students: int) -> list[str]:
    size = f"{item.size / 1e6:.2f}"
    if not item.result:
        return [item.kind, "", "", "", "", "", "", size, _age(item.days)]
    result, spec = item.result, item.result["spec"]
    if item.kind == "outputs":
        return [
            result["model"],
            f"outputs: {spec['layer'] or 'logits'}",
            result["dataset"],
            "",
            "",
            "",
            "",
            size,
            _age(item.days),
        ]
    accuracy = percent(result["test"]["last"]["top1"])
    numbers = [str(spec["seed"]), str(spec["epochs"]), accuracy, str(students or ""), size, _age(item.days)]
    return [result["model"], result["method"], result["dataset"], *numbers]


def _age(days: float) -> str:
    hours = 24 * days
    return f"{days:.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"


def show(root: Path, asked: argparse.Namespace, console: Console) -> int:
    """Prints an item's spec, numbers and provenance as YAML, without its epochs."""
    (item,) = _chosen(_present(root), [asked.key])
    if not item.result:
        raise Refused(f"{item.path.name} is {item.kind}: {item.complaint or 'nothing is known of it but its key'}")
    told = {name: value for name, value in item.result.items() if name not in ("history", "digest", "files")}
    for line in yaml.safe_dump({"folder": str(item.path), **told}, sort_keys=False, allow_unicode=True).rstrip().split("\n"):
        _print(console, line)
    return 0


def verify(root: Path, _asked: argparse.Namespace, console: Console) -> int:
    """Reads every file; returns 1 if any is damaged."""
    found = _present(root, verified=True)
    code = _name_damaged(found, console)
    counts = Counter(item.kind for item in found)
    _print(console, listed(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if code:
        _print(console, "kdexp makes again what is damaged when it needs it; kdexp-store prune --damaged removes them")
    return code


def prune(root: Path, asked: argparse.Namespace, console: Console) -> int:
    """Removes what was asked for and is not being trained, with `--yes`; else says what that would be."""
    found = _present(root, verified=True)
    if not (asked.keys or asked.unfinished or asked.damaged or asked.outputs or asked.all or asked.older_than is not None):
        raise Refused("say what to remove: KEY ..., --unfinished, --damaged, --outputs, --older-than DAYS or --all")
    chosen = _chosen(found, asked.keys) + [item for item in found if _matches(item, asked)]
    chosen = list({item.path: item for item in chosen}.values())
    free = []
    for item in chosen:
        line = f"{item.path.name}  {item.kind}  {item.size / 1e6:.2f} MB"
        kept = remove(root, item.path) if asked.yes else reason_to_keep(root, item.path)
        free += [] if kept else [item.size]
        _print(console, f"{line}  kept: {kept}" if kept else line)
    if asked.yes:
        with registering(root):
            settle_killed(root)
    which = f"these {len(free)}" if len(free) == len(chosen) else f"{len(free)} of these {len(chosen)}"
    what = "removed" if asked.yes else "nothing was removed; --yes removes"
    _print(console, f"{what} {which}, {sum(free) / 1e6:.1f} MB")
    return 0


def _matches(item: Item, asked: argparse.Namespace) -> bool:
    kinds = {"unfinished": asked.unfinished, "damaged": asked.damaged, "leftover": asked.damaged, "outputs": asked.outputs}
    old = asked.older_than is not None and item.kind in ("finished", "outputs") and item.days > asked.older_than
    return asked.all or old or kinds.get(item.kind, False)


def _chosen(found: list[Item], keys: Sequence[str]) -> list[Item]:
    """The items of those keys; raises `Refused` for a key that none or several learners have."""
    chosen = []
    for key in keys:
        fitting = [item for item in found if item.key.startswith(key)]
        if len({item.key for item in fitting}) != 1:
            known = [item.key for item in found]
            what = "no learner" if not fitting else f"{len(fitting)} learners"
            raise Refused(f"{key!r}: {what} of that key;{did_you_mean(key, known)} kdexp-store list shows them")
        chosen += fitting
    return chosen


if __name__ == "__main__":
    main()
