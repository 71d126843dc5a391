"""The `kdexp-store` command: lists, shows, verifies and removes what is stored. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from rich.console import Console

from kdexp.commands.learner import expanded
from kdexp.commands.store_table import draw_items
from kdexp.errors import did_you_mean, listed
from kdexp.files import abandoned, reason
from kdexp.store.best import reasons_to_keep_best
from kdexp.store.in_use import forget_killed, killed_runs, registering, settle_killed
from kdexp.store.items import Item, items
from kdexp.store.killed import resuming_command
from kdexp.store.pruning import days_of, reason_to_keep, remove
from kdexp.store.size import size_words
from kdexp.store.stored import LEARNERS, RESULT
from kdexp.text.characters import one_line
from kdexp.text.console import Screen, print_error, printing
from kdexp.version import __version__

BAD_REQUEST, DAMAGE = 2, 1
CHOICES = ("unfinished", "damaged", "outputs", "keep_best", "all")
"""Options of prune that choose items."""


KEEP_BEST = (
    "of each data set (with its validation images) and network, keep the learner with the best validation accuracy, and the "
    "teachers and members that it needs; alone, it chooses all other finished learners"
)


class Refused(ValueError):
    """A command that can't be carried out; the message says why and what would help."""


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
    command.add_argument("keys", nargs="*", metavar="KEY", help="keys or their beginnings")
    command.add_argument("--unfinished", action="store_true", help="also progress of unfinished learners; forgets killed runs")
    command.add_argument("--damaged", action="store_true", help="also damaged items and all leftovers")
    command.add_argument(
        "--older-than",
        type=days_of,
        metavar="AGE",
        help="also finished learners and outputs that are older, such as 12h, 30d or 2w (30 are days)",
    )
    command.add_argument("--outputs", action="store_true", help="also teachers' outputs")
    command.add_argument("--all", action="store_true", help="everything")
    command.add_argument("--keep-best", action="store_true", help=KEEP_BEST)
    command.add_argument("--yes", action="store_true", help="remove, instead of only showing")
    command.epilog = "What killed processes left half-written goes with every prune. What a running process needs is kept."


def _read_items(root: Path, *, verified: bool = False) -> list[Item]:
    if root.is_file():
        raise Refused(f"{str(root)!r} is a file, not the folder of a store; choose one with --store FOLDER")
    if not (root / LEARNERS).is_dir():
        raise Refused(f"no store in {str(root)!r}; choose another folder with --store FOLDER")
    return items(root, verified=verified)


def _print(console: Console, sentence: str) -> None:
    console.print(one_line(sentence), markup=False, soft_wrap=True)


def list_items(root: Path, _arguments: argparse.Namespace, console: Console) -> int:
    """Prints a line per item; names killed runs, and items with a damaged result; returns 1 if there are any of these."""
    found = _read_items(root)
    console.print(draw_items(found, console.width), markup=False)
    _print(console, f"{len(found):,} in {root}, {size_words(sum(item.size for item in found))}")
    _name_killed(root, console)
    return _name_damaged(found, console)


def _name_killed(root: Path, console: Console) -> None:
    """Prints the folder of each run that was killed before it finished, and the command that resumes it."""
    killed: list[Path] = []
    with suppress(OSError):  # claims that another user may not read
        killed = killed_runs(root)
    if not killed:
        return
    one = len(killed) == 1
    what = "1 run was killed; its command resumes it" if one else f"{len(killed)} runs were killed; their commands resume them"
    _print(console, f"{what} (kdexp-store prune --unfinished --yes forgets):")
    for folder in killed:
        _print(console, f"  {_from_here(folder)}")
        if command := resuming_command(folder):
            _print(console, f"    {command}")


def _from_here(folder: Path) -> Path:
    """The folder as a path from the working directory, if it is inside."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _name_damaged(found: Sequence[Item], console: Console) -> int:
    """Prints what is wrong with each damaged item; returns 1 if there are any."""
    damaged = [item for item in found if item.kind == "damaged"]
    for item in damaged:
        _print(console, item.damage)
    return DAMAGE if damaged else 0


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
    if not (arguments.keys or any(getattr(arguments, name) for name in CHOICES) or arguments.older_than is not None):
        choices = "KEY ..., --unfinished, --damaged, --outputs, --older-than AGE, --keep-best or --all"
        raise Refused(f"choose what to remove: {choices}")
    found = _read_items(root, verified=True)
    named = _with_keys(found, arguments.keys)
    chosen = list({item.path: item for item in (*named, *(item for item in found if _matches(item, arguments)))}.values())
    best = reasons_to_keep_best({i.key: i.result for i in found if i.kind == "finished"}) if arguments.keep_best else {}
    free = []
    for item in chosen:
        about = f"  {item.result['model']} on {item.result['dataset']}" if item.result else ""
        line = f"{item.path.name}  {item.kind}{about}  {size_words(item.size)}"
        why_kept = best.get(item.key, "") if item.kind == "finished" else ""
        why_kept = why_kept or (remove if arguments.yes else reason_to_keep)(root, item.path)
        free += [] if why_kept else [item.size]
        _print(console, f"{line}  kept: {why_kept}" if why_kept else line)
    if arguments.yes:
        with registering(root):
            settle_killed(root)
            if arguments.unfinished or arguments.all:
                forget_killed(root)
    which = f"these {len(free)}" if len(free) == len(chosen) else f"{len(free)} of these {len(chosen)}"
    what = "removed" if arguments.yes else "nothing was removed; --yes removes"
    _print(console, f"{what} {which}, {size_words(sum(free))}")
    return 0


def _matches(item: Item, arguments: argparse.Namespace) -> bool:
    """Whether an item is chosen by any option. A killed process's leftover always is, unless it is a complete learner."""
    kinds = {
        "unfinished": arguments.unfinished,
        "damaged": arguments.damaged,
        "leftover": arguments.damaged or (abandoned(item.path) and not (item.path / RESULT).is_file()),
        "outputs": arguments.outputs,
        "finished": arguments.keep_best and arguments.older_than is None,
    }
    old = arguments.older_than is not None and item.kind in ("finished", "outputs") and item.days > arguments.older_than
    return arguments.all or old or kinds[item.kind]


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
