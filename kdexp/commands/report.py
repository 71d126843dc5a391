"""`kdexp-report`: the table of finished and unfinished sweeps and runs, rebuilt from what lies on disk. Needs no torch."""

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

    Exit codes: 2 a request that can't be met, 3 jobs or results are missing from the table, files are damaged, or it could not
    be printed.
    """
    asked = _parser().parse_args()
    alone = asked.folders[0] if len(asked.folders) == 1 else None
    try:
        sys.exit(tell(asked.folders, asked.output or alone))
    except NothingToReport as nothing:
        for sentence in str(nothing).splitlines():
            print_error("kdexp-report", sentence)
    except Unwritable as error:
        print_error("kdexp-report", f"{error}; --output FOLDER names another")
    sys.exit(BAD_REQUEST)


def tell(folders: Sequence[str | Path], output: str | Path | None, console: Console | None = None) -> int:
    """Writes the table of some folders into `output` and prints it; returns an exit code.

    Raises `NothingToReport`, and once the table is printed `Unwritable`.
    """
    console = console or Screen()
    sweep = read(folders)
    comparison = fold(sweep)
    lost, lines = None, ["Nothing was written: --output FOLDER keeps this table of several folders."]
    if output is not None:
        try:
            lines = keep(comparison, sweep, Path(output))
        except OSError as error:
            lost = Unwritable(f"{str(output)!r} can't be written: {reason(error)}")
    show(comparison, console)
    if lost:
        raise lost
    for line in lines:
        console.print(one_line(line), markup=False, soft_wrap=True)
    return exit_code(comparison)


def exit_code(comparison: Comparison) -> int:
    """3 unless every job is in the table and no file is damaged."""
    return 0 if comparison.complete else INCOMPLETE


def keep(comparison: Comparison, sweep: Sweep, folder: Path) -> list[str]:
    """Writes the table's files, its pictures and its page into a folder; returns what to say of them. Raises `OSError`."""
    write(comparison, folder)
    return [f"sweep.csv, sweep.json and sweep.md are in {folder}", illustrate(comparison, sweep, folder)]


def _parser() -> argparse.ArgumentParser:
    told = "One table of sweeps and runs: seeds folded, differences to the baseline with their intervals."
    parser = argparse.ArgumentParser("kdexp-report", description=told, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a sweep, a run, or a folder of such; several are merged")
    parser.add_argument("--output", metavar="FOLDER", help="where the files go (default: DIR, if there is one)")
    return parser


if __name__ == "__main__":
    main()
