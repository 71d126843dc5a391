"""The `kdexp-report` command: the table of sweeps and runs, finished or not, rebuilt from their files. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdexp.errors import Unwritable
from kdexp.files import reason
from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.page import illustrate
from kdexp.sweep.read import NothingToReport, Sweep, read
from kdexp.sweep.table import show
from kdexp.sweep.write import write
from kdexp.text.characters import one_line
from kdexp.text.console import Screen, print_error, printing
from kdexp.version import __version__

BAD_REQUEST, INCOMPLETE = 2, 3


@printing("kdexp-report")
def main() -> None:
    """The `kdexp-report` command.

    Exit codes: 2 refused, 3 jobs or results are missing from the table, files are damaged, or the output could not be printed.
    """
    arguments = _parser().parse_args()
    only_folder = arguments.folders[0] if len(arguments.folders) == 1 else None
    try:
        sys.exit(print_report(arguments.folders, arguments.output or only_folder))
    except NothingToReport as nothing:
        for sentence in str(nothing).splitlines():
            print_error("kdexp-report", sentence)
    except Unwritable as error:
        print_error("kdexp-report", f"{error}; choose another folder with --output FOLDER")
    sys.exit(BAD_REQUEST)


def print_report(folders: Sequence[str | Path], output: str | Path | None, console: Console | None = None) -> int:
    """Writes the table of some folders into `output` and prints it; returns the exit code.

    Raises `NothingToReport`; and `Unwritable`, after printing the table.
    """
    console = console or Screen()
    sweep = read(folders)
    comparison = fold(sweep)
    failure, lines = None, ["Nothing was written; --output FOLDER writes this table of several folders."]
    if output is not None:
        try:
            lines = write_report(comparison, sweep, Path(output))
        except OSError as error:
            failure = Unwritable(f"{str(output)!r} can't be written: {reason(error)}")
    show(comparison, console)
    if failure:
        raise failure
    for line in lines:
        console.print(one_line(line), markup=False, soft_wrap=True)
    return exit_code(comparison)


def exit_code(comparison: Comparison) -> int:
    """0 if every job is in the table and no file is damaged, else 3."""
    return 0 if comparison.complete else INCOMPLETE


def write_report(comparison: Comparison, sweep: Sweep, folder: Path) -> list[str]:
    """Writes the table, its pictures and its page into a folder; returns lines about them. Raises `OSError`."""
    write(comparison, folder)
    return [f"sweep.csv, sweep.json and sweep.md are in {folder}", illustrate(comparison, sweep, folder)]


def _parser() -> argparse.ArgumentParser:
    description = "One table of sweeps and runs: averages over seeds, and differences to the baseline with their intervals."
    parser = argparse.ArgumentParser("kdexp-report", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="the folder of a sweep or a run, or a folder that holds such; several are merged",
    )
    parser.add_argument("--output", metavar="FOLDER", help="the folder to write into (default: DIR, if only one is given)")
    return parser


if __name__ == "__main__":
    main()
