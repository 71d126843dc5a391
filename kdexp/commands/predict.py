"""The `kdexp-predict` command: the classes of image files, by a trained network."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress
from rich.table import Table

from kdexp.commands.learner import (
    RUN_HELP,
    Parser,
    add_choice,
    device,
    expanded,
    no_folder,
    other_role,
    output_problems,
    refuse,
)
from kdexp.data.listing import EXTENSIONS, list_images
from kdexp.device.garbage import importing_torch
from kdexp.errors import Unwritable, first_line, listed
from kdexp.files import is_folder, reason, write_whole
from kdexp.report.table import HEAD_RULE
from kdexp.text.characters import one_line, printable
from kdexp.text.console import Screen, print_error, printing
from kdexp.version import __version__

if TYPE_CHECKING:
    from kdexp.deployment.classify import Answer
    from kdexp.deployment.predictor import Predictor

COMMAND = "kdexp-predict"
UNREADABLE, INTERRUPTED = 3, 130
STDOUT = Path("-")
"""The CSV file that is standard output."""
HEADINGS = ("file", "rank", "class", "probability")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = Parser(COMMAND, description="Classifies image files with a trained network.", allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"kdexp {__version__}")
    made.add_argument("run", metavar="RUN", type=expanded, help=f"{RUN_HELP}, or a safetensors file of kdexp-export")
    made.add_argument(
        "images", metavar="IMAGE", nargs="+", type=expanded, help="an image file, or a folder whose images are all classified"
    )
    made.add_argument("--top", metavar="K", type=_count, default=1, help="the K most probable classes (default: 1)")
    made.add_argument(
        "--csv", metavar="FILE", type=expanded, help="write a CSV file instead of the table; - is standard output"
    )
    made.add_argument("--force", action="store_true", help="replace the CSV file if it exists")
    made.add_argument("--batch", metavar="N", type=_count, default=64, help="images classified at a time (default: 64)")
    made.add_argument("--device", type=device, default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    add_choice(made)
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


@printing(COMMAND)
def main(words: Sequence[str] | None = None) -> None:
    """The `kdexp-predict` command.

    Exit codes: 2 refused, 3 some images could not be read or the output could not be printed, 130 interrupted.
    """
    arguments = parser().parse_args(words)
    try:
        paths, lost = find_images(arguments.images)
        if found := list(problems(arguments, paths, lost)):
            refuse(COMMAND, found)
        answers, unreadable = answer(arguments, paths)
        write(arguments, answers)
    except (OSError, ValueError, RuntimeError) as error:
        fix = "; a smaller --batch takes less memory" if "memory" in str(error) else ""
        refuse(COMMAND, [f"{first_line(error)}{fix}"])
    except KeyboardInterrupt:
        refuse(COMMAND, ["interrupted; nothing was written"], INTERRUPTED)
    for sentence in (lost := lost + unreadable):
        print_error(COMMAND, sentence)
    sys.exit(UNREADABLE if lost else 0)


def find_images(named: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The image files that are named or in a folder that is named, and a sentence about each entry that can't be read."""
    paths: dict[str, None] = {}
    lost: list[str] = []
    for path in named:
        if not is_folder(str(path)):
            paths[str(path)] = None
            continue
        listing = list_images(path)
        paths |= dict.fromkeys(listing.images)
        images = set(map(printable, listing.images))
        lost += [f"{entry} can't be read" for entry in listing.broken if entry.rpartition(" (")[0] not in images]
        lost += [f"{printable(entry)} can't be read: convert it to PNG or JPEG" for entry in listing.unsupported]
    return list(paths), lost


def problems(arguments: argparse.Namespace, paths: Sequence[str], lost: Sequence[str]) -> Iterator[str]:
    """Problems of the command that show without importing torch."""
    if not arguments.run.exists():
        yield no_folder(arguments.run)
    elif arguments.run.is_file() and (arguments.role, arguments.epoch) != ("distilled", "last"):
        yield f"{arguments.run} holds a single network: leave out --role and --epoch"
    names = listed(map(str, arguments.images))
    if not any(map(_exists, arguments.images)):
        yield f"no such file or folder: {names}"
    elif not paths:
        yield from lost
        yield f"no image in {names}: looked for {' '.join(sorted(EXTENSIONS))} in it and in all its folders"
    if arguments.csv not in (None, STDOUT):
        yield from output_problems(arguments.csv, "--csv FILE", force=arguments.force)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def answer(arguments: argparse.Namespace, paths: Sequence[str]) -> tuple[list[Answer], list[str]]:
    """Classifies the files; returns the answers, and a sentence about each file that can't be read.

    Raises `OSError` or `ValueError` with a message for the user.
    """
    from kdexp.data.findings import damaged
    from kdexp.deployment.classify import classify

    student = load_student(arguments)
    with progress(len(paths), shown=arguments.csv != STDOUT) as advance:
        answers, found = classify(student, paths, batch=arguments.batch, top=arguments.top, advance=advance)
    for sentence in damaged(found):
        print_error(COMMAND, f"warning: {sentence}")
    return answers, [f"{printable(finding.path)} can't be read: {finding.what}" for finding in found if finding.lost]


def load_student(arguments: argparse.Namespace) -> Predictor:
    """The network on its device; raises `OSError` or `ValueError` with a message for the user."""
    with importing_torch():
        from kdexp.deployment.load import load
    from kdexp.device.precision import device_problem, pick_device
    from kdexp.errors import UnknownRole

    if why := device_problem(arguments.device, "--device "):
        raise ValueError(f"--device {arguments.device}: {why}")
    try:
        student = load(arguments.run, arguments.role, arguments.epoch, modules=arguments.module)
    except UnknownRole as error:
        raise ValueError(other_role(error)) from error
    if student.preprocessing.channels not in (1, 3):
        raise ValueError(f"{arguments.run} takes images of {student.preprocessing.channels} channels, which no image file has")
    return student.to(pick_device(arguments.device))


@contextmanager
def progress(files: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Draws a progress bar on a terminal; yields a function that advances it by a number of files."""
    with Progress(console=Screen(), transient=True, disable=not (shown and Screen().is_terminal)) as bar:
        task = bar.add_task("classifying", total=files)
        yield lambda count: bar.advance(task, count)


def write(arguments: argparse.Namespace, answers: Sequence[Answer]) -> None:
    """Prints the table, or writes the CSV file; raises `Unwritable`."""
    if arguments.csv is None:
        Screen().print(table(answers))
    elif arguments.csv == STDOUT:
        print(csv_of(answers), end="")
    else:
        try:
            write_whole(arguments.csv, csv_of(answers))
        except OSError as error:
            raise Unwritable(
                f"{arguments.csv} can't be written: {reason(error)}; choose another file with --csv FILE"
            ) from error
        print(one_line(f"{arguments.csv}: {len(answers)} images"))


def table(answers: Sequence[Answer]) -> Table:
    """A line for each class of each file; a file is named in its first line."""
    drawn = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    drawn.add_column("file", overflow="fold")
    drawn.add_column("class", overflow="fold")
    drawn.add_column("%", justify="right", no_wrap=True)
    for path, classes in answers:
        for rank, (name, probability) in enumerate(classes):
            drawn.add_row("" if rank else printable(path), one_line(name), f"{100 * probability:.2f}")
    return drawn


def csv_of(answers: Sequence[Answer]) -> str:
    """CSV text with a line for each class of each file, the best class first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for path, classes in answers:
        writer.writerows((path, rank, name, f"{probability:.6f}") for rank, (name, probability) in enumerate(classes, 1))
    return text.getvalue()


if __name__ == "__main__":
    main()
