"""The `kdexp-store` command: lists, shows, verifies and removes what is stored. Needs no torch."""

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

from kdexp.commands.learner import expanded
from kdexp.errors import CorruptEntry, did_you_mean, listed
from kdexp.files import DRAFT, reason
from kdexp.report.table import HEAD_RULE
from kdexp.store.descriptions import LearnerFile, OutputsFile
from kdexp.store.in_use import registering, settle_killed
from kdexp.store.pruning import number_of_days, reason_to_keep, remove
from kdexp.store.stored import LEARNERS, OUTPUTS, SUMMARIES, read_entry, read_result, under_its_key
from kdexp.text.characters import one_line
from kdexp.text.console import Screen, print_error, printing
from kdexp.text.numbers import percent
from kdexp.version import __version__

BAD_REQUEST, DAMAGE = 2, 1
HEADINGS = ("key", "model", "method", "data", "seed", "epochs", "test %", "teaches", "MB", "age")


class Refused(ValueError):
    """A command that can't be carried out; the message says why and what would help."""


@dataclass
class Item:
    """A learner, the progress of an unfinished one, a teacher's outputs, or a leftover of a killed process."""

    path: Path
    kind: str
    """`finished`, `unfinished`, `outputs`, `leftover` or `damaged`."""
    result: dict[str, Any]
    damage: str = ""

    @property
    def key(self) -> str:
        """The hash under which it is stored."""
        return self.path.name.partition(".")[0]

    @cached_property
    def size(self) -> int:
        """Bytes on disk; 0 if the item was removed meanwhile."""
        files = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(state.st_size for state in map(_state, files) if state and S_ISREG(state.st_mode))

    @cached_property
    def days(self) -> float:
        """Days since it was last written; 0 if the item was removed meanwhile."""
        state = _state(self.path)
        return (time.time() - state.st_mtime) / 86_400 if state else 0.0


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def items(root: Path, *, verified: bool = False) -> list[Item]:
    """All items of a store, newest first; `verified` reads every file. Items that are removed meanwhile are left out."""
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
                yield _read(path, verified)


def _read(path: Path, verified: bool) -> Item:
    kind, declared = ("outputs", OutputsFile) if path.parent.name == OUTPUTS else ("finished", LearnerFile)
    try:
        found = read_entry(path, declared) if verified else read_result(path, declared)
        return Item(path, kind, under_its_key(found).result)
    except CorruptEntry as error:
        return Item(path, "damaged", {}, str(error))


@printing("kdexp-store")
def main() -> None:
    """The `kdexp-store` command.

    Exit codes: 1 damage was found, 2 refused, 3 the output could not be printed.
    """
    arguments = _parser().parse_args()
    try:
        sys.exit(arguments.run(arguments.store, arguments, Screen()))
    except Refused as error:
        print_error("kdexp-store", str(error))
        sys.exit(BAD_REQUEST)
    except OSError as error:
        print_error("kdexp-store", f"{error.filename or arguments.store}: {reason(error)}")
        sys.exit(BAD_REQUEST)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", type=expanded, default="outputs/store", help="the store's folder (default: outputs/store)")
    description = "Lists, shows, verifies and removes what kdexp has stored."
    parser = argparse.ArgumentParser("kdexp-store", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="list | show | verify | prune")
    for name, run, purpose in (
        ("list", list_items, "list all items with size and age"),
        ("show", show, "show everything about one item"),
        ("verify", verify, "read every file and list damaged items"),
        ("prune", prune, "show what would be removed; remove it with --yes"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose, parents=[common], allow_abbrev=False)
        command.set_defaults(run=run)
        if name == "show":
            command.add_argument("key", help="a key or its beginning")
        if name == "prune":
            _prune_arguments(command)
    return parser


def _prune_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("keys", nargs="*", help="keys or their beginnings")
    command.add_argument("--unfinished", action="store_true", help="also progress of unfinished learners")
    command.add_argument("--damaged", action="store_true", help="also damaged items and leftovers of killed processes")
    command.add_argument(
        "--older-than", type=number_of_days, metavar="DAYS", help="also finished learners and outputs that are older"
    )
    command.add_argument("--outputs", action="store_true", help="also teachers' outputs")
    command.add_argument("--all", action="store_true", help="everything")
    command.add_argument("--yes", action="store_true", help="remove, instead of only showing")


def _read_items(root: Path, *, verified: bool = False) -> list[Item]:
    if root.is_file():
        raise Refused(f"{str(root)!r} is a file, not the folder of a store; choose one with --store FOLDER")
    if not (root / LEARNERS).is_dir():
        raise Refused(f"no store in {str(root)!r}; choose another folder with --store FOLDER")
    return items(root, verified=verified)


def _print(console: Console, sentence: str) -> None:
    console.print(one_line(sentence), markup=False, soft_wrap=True)


def list_items(root: Path, _arguments: argparse.Namespace, console: Console) -> int:
    """Prints a line per item; names items with a damaged result, and returns 1 if there are any."""
    found = _read_items(root)
    students = Counter(item.result["spec"]["teacher"] for item in found if item.kind == "finished")
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 4 else "right", no_wrap=heading != "method")
    for item in found:
        table.add_row(*map(one_line, (item.key, *_line(item, students[item.key]))))
    console.print(table, markup=False)
    _print(console, f"{len(found):,} in {root}, {sum(item.size for item in found) / 1e6:,.1f} MB")
    return _name_damaged(found, console)


def _name_damaged(found: Sequence[Item], console: Console) -> int:
    """Prints what is wrong with each damaged item; returns 1 if there are any."""
    damaged = [item for item in found if item.kind == "damaged"]
    for item in damaged:
        _print(console, item.damage)
    return DAMAGE if damaged else 0


def _line(item: Item, students: int) -> list[str]:
    size = f"{item.size / 1e6:,.2f}"
    if not item.result:
        return [item.kind, "", "", "", "", "", "", size, _age(item.days)]
    result, spec = item.result, item.result["spec"]
    if item.kind == "outputs":
        layer = f"outputs: {spec['layer'] or 'logits'}"
        return [result["model"], layer, result["dataset"], "", "", "", "", size, _age(item.days)]
    accuracy = percent(result["test"]["last"]["top1"])
    numbers = [str(spec["seed"]), f"{spec['epochs']:,}", accuracy, str(students or ""), size, _age(item.days)]
    return [result["model"], result["method"], result["dataset"], *numbers]


def _age(days: float) -> str:
    hours = 24 * days
    return f"{days:,.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"


def show(root: Path, arguments: argparse.Namespace, console: Console) -> int:
    """Prints an item's spec, numbers and provenance as YAML, without its epochs."""
    (item,) = _with_keys(_read_items(root), [arguments.key])
    if not item.result:
        raise Refused(f"{item.path.name} is {item.kind}: {item.damage or 'only its key is known'}")
    result = {name: value for name, value in item.result.items() if name not in ("history", "digest", "files")}
    text = yaml.safe_dump({"folder": str(item.path), **result}, sort_keys=False, allow_unicode=True)
    for line in text.rstrip().split("\n"):
        _print(console, line)
    return 0


def verify(root: Path, _arguments: argparse.Namespace, console: Console) -> int:
    """Reads every file; returns 1 if any is damaged."""
    found = _read_items(root, verified=True)
    code = _name_damaged(found, console)
    counts = Counter(item.kind for item in found)
    _print(console, listed(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if code:
        _print(console, "kdexp recreates damaged items when it needs them; kdexp-store prune --damaged removes them")
    return code


def prune(root: Path, arguments: argparse.Namespace, console: Console) -> int:
    """Removes the chosen items that no run needs, with `--yes`; otherwise only shows them."""
    found = _read_items(root, verified=True)
    if not (
        arguments.keys
        or arguments.unfinished
        or arguments.damaged
        or arguments.outputs
        or arguments.all
        or arguments.older_than is not None
    ):
        raise Refused("choose what to remove: KEY ..., --unfinished, --damaged, --outputs, --older-than DAYS or --all")
    chosen = _with_keys(found, arguments.keys) + [item for item in found if _matches(item, arguments)]
    chosen = list({item.path: item for item in chosen}.values())
    free = []
    for item in chosen:
        line = f"{item.path.name}  {item.kind}  {item.size / 1e6:,.2f} MB"
        why_kept = remove(root, item.path) if arguments.yes else reason_to_keep(root, item.path)
        free += [] if why_kept else [item.size]
        _print(console, f"{line}  kept: {why_kept}" if why_kept else line)
    if arguments.yes:
        with registering(root):
            settle_killed(root)
    which = f"these {len(free)}" if len(free) == len(chosen) else f"{len(free)} of these {len(chosen)}"
    what = "removed" if arguments.yes else "nothing was removed; --yes removes"
    _print(console, f"{what} {which}, {sum(free) / 1e6:,.1f} MB")
    return 0


def _matches(item: Item, arguments: argparse.Namespace) -> bool:
    kinds = {
        "unfinished": arguments.unfinished,
        "damaged": arguments.damaged,
        "leftover": arguments.damaged,
        "outputs": arguments.outputs,
    }
    old = arguments.older_than is not None and item.kind in ("finished", "outputs") and item.days > arguments.older_than
    return arguments.all or old or kinds.get(item.kind, False)


def _with_keys(found: list[Item], keys: Sequence[str]) -> list[Item]:
    """The items with those keys or beginnings of keys; raises `Refused` for one that no item or several items have."""
    chosen = []
    for key in keys:
        matching = [item for item in found if item.key.startswith(key)]
        if len({item.key for item in matching}) != 1:
            known = [item.key for item in found]
            count = f"{len(matching)} items have" if matching else "no item has"
            raise Refused(f"{key!r}: {count} that key;{did_you_mean(key, known)} kdexp-store list shows all keys")
        chosen += matching
    return chosen


if __name__ == "__main__":
    main()
